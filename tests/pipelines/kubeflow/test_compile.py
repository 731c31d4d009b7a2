"""The pipeline as a Kubeflow package: what is compiled, and what it does when run."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from kfp import compiler, dsl
from ml_metadata.errors import AlreadyExistsError
from tests.conformance.kfp_metadata import Metadata
from tests.conformance.kfp_release import pinned, without_release
from tests.conformance.kfp_runner import PackageRun, forked_paring, run_package
from tests.helpers import graphs

from paring.adapters.cli import command
from paring.adapters.kfp import component
from paring.artifacts import (
    Examples,
    Model,
    ONNXModel,
    content_digest,
    read_record,
    record_digest,
)
from paring.catalog import STEPS
from paring.errors import OutputError, ParameterError
from paring.serving.versions import versions
from paring.steps.convert_tflite import convert_tflite
from paring.steps.import_model import import_model
from paring_pipelines.demo import Digits, build_network, fit_network
from paring_pipelines.kubeflow.compile import compile_dag
from paring_pipelines.kubeflow.placement import EnvReference, Placement, Retry
from paring_pipelines.kubeflow.placement_file import SecurityContext, Toleration, Volume
from paring_pipelines.kubeflow.placement_rules import place
from paring_pipelines.pipeline.dag import Dag, Edge
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import Recipe, Target, load_recipes
from paring_pipelines.pipeline.settings import Settings

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
RUNTIME = ROOT / "k8s" / "runtime.toml"
IMAGE = "paring:golden"


def _compile(dag: Dag, folder: Path, **placements: Placement) -> dict[str, Any]:
    return _documents(dag, folder, **placements)[0]


def _documents(dag: Dag, folder: Path, **placements: Placement) -> list[dict[str, Any]]:
    compile_dag(dag, folder / "pipeline.yaml", image=IMAGE, placements=placements)
    return list(yaml.safe_load_all((folder / "pipeline.yaml").read_text()))


def _small_dag(quantization: str = "none") -> Dag:
    dag = Dag("small", {"model": Model})
    model = dag.add("import_model", import_model, {"original": dag.source("model")}).out("model")
    dag.add("lite", convert_tflite, {"model": model}, {"quantization": quantization}, tolerate=True)
    return dag


@pytest.mark.parametrize(
    ("name", "target", "runtimes"),
    [
        ("optimize", "cpu-server", []),
        ("optimize-gke-gpu", "gpu", [RUNTIME, RUNTIME.with_suffix(".gke.toml")]),
        ("optimize-gke-tpu", "tpu", [RUNTIME, RUNTIME.with_suffix(".gke.toml")]),
    ],
)
def test_the_default_pipeline_compiles_to_the_golden_file(
    name: str, target: Target, runtimes: list[Path], tmp_path: Path
) -> None:
    dag = build(load_recipes(target=target), Settings(target=target))
    placements = place(dag, runtimes, target=target)
    compile_dag(dag, tmp_path / "p", image=IMAGE, placements=placements)
    expected = without_release((GOLDEN / f"{name}.yaml").read_text())
    assert without_release((tmp_path / "p").read_text()) == expected, (
        "the compiled pipeline changed: look at the difference, and if it is meant, "
        f"run `make golden` and commit tests/golden/{name}.yaml"
    )


def test_the_resources_that_are_committed_are_current(tmp_path: Path) -> None:
    dag = build(load_recipes(target="cpu-server"), Settings())
    placements = place(dag, [RUNTIME], target="cpu-server")
    compile_dag(dag, tmp_path / "p", image=IMAGE, placements=placements, namespace="kubeflow")
    committed = ROOT / "k8s" / "gitops" / "pipeline.yaml"
    compiled = without_release((tmp_path / "p").read_text())
    assert compiled == without_release(committed.read_text()), "run `make golden`"
    # So the package on the cluster's placement needs no golden file of its own.
    compile_dag(dag, tmp_path / "package", image=IMAGE, placements=placements)
    _, pipeline_version = yaml.safe_load_all((tmp_path / "p").read_text())
    package = list(yaml.safe_load_all((tmp_path / "package").read_text()))
    assert [pipeline_version["spec"][f"{kind}Spec"] for kind in ("pipeline", "platform")] == package


def test_the_package_has_the_schema_that_the_backend_takes(tmp_path: Path) -> None:
    spec = _compile(_small_dag(), tmp_path)
    assert (spec["schemaVersion"], spec["sdkVersion"]) == ("2.1.0", f"kfp-{version('kfp')}")


def test_the_golden_packages_are_of_the_locks_release() -> None:
    lock = pinned(ROOT / "requirements" / "py311.txt")
    assert lock["kfp"] == lock["kfp-kubernetes"]
    files = [*GOLDEN.glob("*.yaml"), ROOT / "k8s" / "gitops" / "pipeline.yaml"]
    for file in (*files, *(ROOT / "components" / "yaml").iterdir()):
        assert f"sdkVersion: kfp-{lock['kfp']}\n" in file.read_text(), f"{file}: run `make golden`"


def test_each_node_is_a_cached_task_named_for_its_id(tmp_path: Path) -> None:
    dag = build(load_recipes(target="cpu-server"), Settings())
    tasks = _compile(dag, tmp_path)["root"]["dag"]["tasks"]
    importers = {"importer", "importer-2"}
    assert set(tasks) == importers | {name.replace("_", "-") for name in dag.nodes}
    assert all(task["cachingOptions"] == {"enableCache": True} for task in tasks.values())


def test_tasks_have_names_for_people_unless_they_are_left_out(tmp_path: Path) -> None:
    dag = build(load_recipes(target="cpu-server"), Settings())
    tasks = _compile(dag, tmp_path)["root"]["dag"]["tasks"]
    shown = {name: task["taskInfo"]["name"] for name, task in tasks.items()}
    assert shown["import-model"] == "Import model"
    assert shown["prune-prune-int8"] == "Prune (prune-int8)"
    assert shown["convert-tflite-tflite-int8"] == "Convert TFLite (tflite-int8)"
    assert shown["export-onnx-onnx-float32"] == "Export ONNX (onnx-float32)"
    # Kubeflow looks an importer up by it.
    assert shown["importer-2"] == "importer-2"
    assert len(set(shown.values())) == len(tasks)
    compile_dag(dag, tmp_path / "plain.yaml", image=IMAGE, display_names=False)
    plain = yaml.safe_load((tmp_path / "plain.yaml").read_text())["root"]["dag"]["tasks"]
    assert all(task["taskInfo"]["name"] == name for name, task in plain.items())


@pytest.mark.parametrize("names", [("a-b", "a_b"), ("a", "A"), ("a-2", "a.2")])
def test_nodes_that_kubeflow_would_number_are_refused(
    names: tuple[str, str], tmp_path: Path
) -> None:
    dag = Dag("small", {"model": Model})
    for name in names:
        dag.add(f"lite-{name}", import_model, {"original": dag.source("model")})
    with pytest.raises(ParameterError, match=f"lite-{names[0]} and lite-{names[1]} have one name"):
        compile_dag(dag, tmp_path / "p", image=IMAGE)
    assert not (tmp_path / "p").exists()


def test_a_toleration_of_every_taint_is_compiled_without_a_key(tmp_path: Path) -> None:
    toleration = Toleration(operator="Exists", effect="NoExecute", toleration_seconds=30)
    placed = {"lite": Placement(tolerations=(toleration,))}
    _, platform = _documents(_small_dag(), tmp_path, **placed)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-lite"]["tolerations"] == [
        {"effect": "NoExecute", "operator": "Exists", "tolerationSeconds": "30"}
    ]


@pytest.mark.parametrize("out", [Path("/dev/null"), Path(), Path("/dev/stdout"), Path("/")])
def test_a_package_takes_the_place_of_files_alone(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError):
        compile_dag(_small_dag(), out, image=IMAGE)
    assert not Path("/dev/null").is_file()
    assert list(tmp_path.iterdir()) == []


def test_all_of_a_steps_parameters_are_constants_of_its_task(tmp_path: Path) -> None:
    dag = _small_dag("fp16")
    given = _compile(dag, tmp_path)["root"]["dag"]["tasks"]["lite"]["inputs"]["parameters"]
    constants = {
        name: item["runtimeValue"]["constant"]
        for name, item in given.items()
        if "runtimeValue" in item
    }
    assert constants == dag.nodes["lite"].parameters
    assert given["source_digest"] == {"componentInputParameter": "source_digest"}


def test_a_placement_overrides_parameters_of_its_task(tmp_path: Path) -> None:
    dag = build([], Settings(shared_dir="gs://b/c"))
    placed = {"evaluate-source": Placement(parameters={"shared_dir": "s3://bucket/shared"})}
    tasks = _compile(dag, tmp_path, **placed)["root"]["dag"]["tasks"]
    given = tasks["evaluate-source"]["inputs"]["parameters"]["shared_dir"]
    assert given == {"runtimeValue": {"constant": "s3://bucket/shared"}}


def _identity(spec: Mapping[str, Any], task: str) -> str:
    container = spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
    command: list[str] = container["command"]
    return command[command.index("--identity") + 1]


def test_a_tasks_identity_changes_with_what_is_before_it_alone(tmp_path: Path) -> None:
    before = _compile(_small_dag("none"), tmp_path)
    after = _compile(_small_dag("fp16"), tmp_path)
    assert _identity(before, "import-model") == _identity(after, "import-model")
    assert _identity(before, "lite") != _identity(after, "lite")
    assert _identity(before, "lite").endswith(":{{$.inputs.parameters['source_digest']}}")


def test_only_nodes_that_make_candidates_tolerate_failures(tmp_path: Path) -> None:
    executors = _compile(_small_dag(), tmp_path)["deploymentSpec"]["executors"]
    assert "--tolerate" in executors["exec-lite"]["container"]["command"]
    assert "--tolerate" not in executors["exec-import-model"]["container"]["command"]


def test_the_resources_hold_the_package_under_a_name_of_its_content(tmp_path: Path) -> None:
    names = set()
    for quantization in ("none", "fp16"):
        dag = _small_dag(quantization)
        package = _compile(dag, tmp_path)
        compile_dag(dag, tmp_path / "resources.yaml", image=IMAGE, namespace="models")
        pipeline, version = yaml.safe_load_all((tmp_path / "resources.yaml").read_text())
        assert version["spec"]["pipelineSpec"] == package
        assert {item["metadata"]["namespace"] for item in (pipeline, version)} == {"models"}
        names.add(version["metadata"]["name"])
    assert len(names) == 2


def test_what_was_there_stays_where_the_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    with pytest.raises(OutputError, match="--out"):
        compile_dag(_small_dag(), tmp_path / "taken", image=IMAGE)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def _twice(dag: Dag, source: Edge, candidate: Edge) -> Dag:
    inputs = {"source": source, "candidate": candidate, "examples": dag.source("examples")}
    dag.add("judge", STEPS["evaluate"], inputs)
    return dag


def _recipe(name: str) -> Recipe:
    (link,) = next(recipe for recipe in load_recipes() if recipe.name == "tflite-float32").links
    return Recipe(name, (link,))


def test_a_dag_that_gives_a_task_one_artifact_twice_is_refused(tmp_path: Path) -> None:
    sources = {"model": Model, "examples": Examples}
    source = Dag("small", sources)
    made, repeated = Dag("small", sources), Dag("small", sources)
    for dag in (made, repeated):
        dag.add("import_model", import_model, {"original": dag.source("model")})
    model = made.nodes["import_model"].out("model")
    # Another node with the same work, for which the cache answers.
    again = repeated.add("again", import_model, {"original": repeated.source("model")})
    first = repeated.nodes["import_model"].out("model")
    out = tmp_path / "pipeline.yaml"
    for dag in (
        _twice(source, source.source("model"), source.source("model")),
        _twice(made, model, model),
        _twice(repeated, first, again.out("model")),
    ):
        with pytest.raises(
            ParameterError, match="judge: inputs source and candidate take"
        ) as result:
            compile_dag(dag, out, image=IMAGE)
        assert "once for each task" in str(result.value)
    assert not out.exists()


def test_recipes_with_the_same_steps_are_refused_by_the_names_of_their_inputs(
    tmp_path: Path,
) -> None:
    dag = build([_recipe("one"), _recipe("other")], Settings())
    with pytest.raises(ParameterError, match="candidates__one and candidates__other"):
        compile_dag(dag, tmp_path / "pipeline.yaml", image=IMAGE)


def test_the_source_is_judged_and_measured_without_a_candidate() -> None:
    dag = build([_recipe("one")], Settings())
    for name in ("evaluate", "benchmark"):
        assert set(dag.nodes[f"{name}-source"].inputs) == {"source", "examples"}
        assert set(dag.nodes[f"{name}-one"].inputs) == {"source", "examples", "candidate"}


def test_the_metadata_store_refuses_one_artifact_under_two_inputs(tmp_path: Path) -> None:
    """Check that a package like those that `compile_dag` refuses can't run."""
    judge = component(STEPS["evaluate"], image=IMAGE)

    @dsl.pipeline(name="mine")
    def mine(model_uri: str, examples_uri: str) -> None:
        model = dsl.importer(artifact_uri=model_uri, artifact_class=dsl.Model).output
        examples = dsl.importer(artifact_uri=examples_uri, artifact_class=dsl.Dataset).output
        judge(source=model, candidate=model, examples=examples)

    compiler.Compiler().compile(mine, str(tmp_path / "mine.yaml"))
    uris = {"model_uri": "/model", "examples_uri": "/examples"}
    with pytest.raises(AlreadyExistsError, match="Given event already exists"):
        run_package(tmp_path / "mine.yaml", tmp_path / "root", uris)


def test_kubeflows_cache_answers_until_the_sources_change(
    tmp_path: Path, digits_model: Path
) -> None:
    package = tmp_path / "pipeline.yaml"
    compile_dag(_small_dag(), package, image=IMAGE)
    metadata = Metadata()
    given = {"model_uri": str(digits_model), "source_digest": "sha256:1"}
    with forked_paring() as start:
        first, second, third = (
            run_package(package, tmp_path / "root", given | changed, start, metadata)
            for changed in ({}, {}, {"source_digest": "sha256:2"})
        )
    assert (first.cached, set(first.commands)) == ([], {"import-model", "lite"})
    assert (second.cached, second.commands) == (["import-model", "lite"], {})
    assert second.path("lite", "converted") == first.path("lite", "converted")
    assert second.metadata("lite", "converted") == first.metadata("lite", "converted")
    assert metadata.state(second.context, "lite") == "CACHED"
    assert third.cached == []
    assert third.path("lite", "converted") != first.path("lite", "converted")


PLACED = Placement(
    image="reg/paring@sha256:1",
    cpu="500m",
    cpu_limit="2",
    memory="1Gi",
    memory_limit="2Gi",
    accelerator="nvidia-l4",
    resource="nvidia.com/gpu",
    accelerator_count=2,
    labels={"b": "2", "a": "1"},
    tolerations=(
        Toleration(key="x", value="y", effect="NoSchedule"),
        Toleration(key="z", operator="Exists"),
    ),
    shm="1Gi",
    timeout_seconds=60,
    retry=Retry(3, backoff_seconds=5, factor=3, max_seconds=600),
    cache=False,
)


def test_a_placement_becomes_the_tasks_resources_retries_and_caching(tmp_path: Path) -> None:
    spec = _compile(_small_dag(), tmp_path, lite=PLACED)
    container = spec["deploymentSpec"]["executors"]["exec-lite"]["container"]
    assert container["image"] == "reg/paring@sha256:1"
    resources = container["resources"]
    assert {name: resources[name] for name in resources if name.startswith("resource")} == {
        "resourceCpuRequest": "500m",
        "resourceCpuLimit": "2",
        "resourceMemoryRequest": "1Gi",
        "resourceMemoryLimit": "2Gi",
    }
    assert resources["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert resources["accelerator"]["resourceCount"] == "2"
    task = spec["root"]["dag"]["tasks"]["lite"]
    assert task["retryPolicy"] == {
        "backoffDuration": "5s",
        "backoffFactor": 3.0,
        "backoffMaxDuration": "600s",
        "maxRetryCount": 3,
    }
    assert not task["cachingOptions"].get("enableCache")


def test_a_placement_becomes_what_is_asked_of_kubernetes(tmp_path: Path) -> None:
    _, platform = _documents(_small_dag(), tmp_path, lite=PLACED)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors == {
        "exec-lite": {
            "activeDeadlineSeconds": "60",
            "emptyDirMounts": [
                {
                    "medium": "Memory",
                    "mountPath": "/dev/shm",
                    "sizeLimit": "1Gi",
                    "volumeName": "shm",
                }
            ],
            "nodeSelector": {"labels": {"a": "1", "b": "2"}},
            "tolerations": [
                {"effect": "NoSchedule", "key": "x", "operator": "Equal", "value": "y"},
                {"key": "z", "operator": "Exists"},
            ],
        }
    }


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(1, 1), (60, 30), (200, 140), (3600, 3420), (28800, 28200)]
)
def test_a_step_ends_itself_before_kubernetes_ends_its_pod(
    tmp_path: Path, timeout: int, seconds: int
) -> None:
    spec = _compile(_small_dag(), tmp_path, lite=Placement(timeout_seconds=timeout))
    container = spec["deploymentSpec"]["executors"]["exec-lite"]["container"]
    assert container["env"] == [{"name": "PARING_STEP_TIME_LIMIT", "value": f"{seconds}s"}]


IN_ITS_POD = Placement(
    env={
        "PLAIN": "a: b",
        "KEY": EnvReference("secret", "keys", "k"),
        "SAME_KEY": EnvReference("secret", "keys", "k"),
        "OTHER": EnvReference("secret", "keys", "o"),
        "MAYBE": EnvReference("secret", "keys", "m", optional=True),
        "REGION": EnvReference("config_map", "region", "aws.region"),
    },
    image_pull_policy="Never",
    image_pull_secrets=("one", "two"),
    pod_labels={"team": "x"},
    annotations={"a/b": "c"},
    volumes={
        "/mnt/a": Volume(claim="a", sub_path="b"),
        "/mnt/k": Volume(secret="k"),
        "/mnt/c": Volume(config_map="c", optional=True),
    },
    security_context=SecurityContext(run_as_user=65532, run_as_non_root=True),
    store_identity=("gs://", "s3://bucket"),
)


def test_environment_volumes_and_user_of_a_placement_become_the_pods(tmp_path: Path) -> None:
    spec, platform = _documents(_small_dag(), tmp_path, lite=IN_ITS_POD)
    container = spec["deploymentSpec"]["executors"]["exec-lite"]["container"]
    assert container["env"] == [{"name": "PLAIN", "value": "a: b"}]
    (pod,) = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values()
    taken = [
        (kind, item[f"{kind}Name"], entry[f"{kind}Key"], entry["envVar"], item["optional"])
        for kind in ("secret", "configMap")
        for item in pod[f"{kind}AsEnv"]
        for entry in item["keyToEnv"]
    ]
    assert sorted(taken) == [
        ("configMap", "region", "aws.region", "REGION", False),
        ("secret", "keys", "k", "KEY", False),
        ("secret", "keys", "k", "SAME_KEY", False),
        ("secret", "keys", "m", "MAYBE", True),
        ("secret", "keys", "o", "OTHER", False),
    ]
    assert pod["imagePullPolicy"] == "Never"
    assert [item["secretName"] for item in pod["imagePullSecret"]] == ["one", "two"]
    assert pod["podMetadata"] == {
        "labels": {"team": "x"},
        "annotations": {"a/b": "c", "paring.dev/store-identity": "gs:// s3://bucket"},
    }
    (claim,), (secret,), (config_map,) = (
        pod[name] for name in ("pvcMount", "secretAsVolume", "configMapAsVolume")
    )
    assert (claim["constant"], claim["mountPath"], claim["subPath"]) == ("a", "/mnt/a", "b")
    assert (secret["secretName"], secret["mountPath"]) == ("k", "/mnt/k")
    assert not secret.get("optional")
    assert (config_map["configMapName"], config_map["optional"]) == ("c", True)
    assert pod["securityContext"] == {"runAsUser": "65532", "runAsNonRoot": True}


def test_a_task_without_a_placement_is_as_it_was(tmp_path: Path) -> None:
    plain = _compile(_small_dag(), tmp_path)
    placed = _compile(_small_dag(), tmp_path, lite=PLACED)
    for spec in (plain, placed):
        del spec["deploymentSpec"]["executors"]["exec-lite"]
        del spec["root"]["dag"]["tasks"]["lite"]
    assert placed == plain


# Long chains, so that most steps are in one of few candidates, all of which are measured.
# The output of optimize_savedmodel depends on what it measures, unless it has no time to.
RECIPES = """
[recipes.compressed]
steps = [
  { step = "prune_channels", epochs = 1 },
  { step = "prune", sparsity = 0.5, epochs = 1 },
  { step = "cluster", preserve_sparsity = true, epochs = 1 },
  { step = "quantize", epochs = 1, preserve_sparsity = true, preserve_clusters = true },
  { step = "convert_tflite", quantization = "int8" },
]
[recipes.distilled]
steps = [
  { step = "distill", student = "student_of_all_runners:small", epochs = 8 },
  { step = "optimize_savedmodel", precision = "float32", xla = false, max_minutes = 1e-4 },
  { step = "convert_mixed", comparison_size = 50 },
]
"""
STUDENT = """
import tf_keras

def small(shape, classes):
    return tf_keras.Sequential([
        tf_keras.Input(shape),
        tf_keras.layers.AveragePooling2D(4),
        tf_keras.layers.Flatten(),
        tf_keras.layers.Dense(16, activation="relu"),
        tf_keras.layers.Dense(classes),
    ])
"""

_QUICK: Mapping[str, Mapping[str, float]] = {
    "benchmark": {"rounds": 2, "windows": 1, "min_seconds": 0.1},
    # The first setting alone, so that all runners find the same one.
    "tune_batch": {"max_trials": 1, "trial_seconds": 0.1},
}


def _conformance_dag(folder: Path) -> Dag:
    """The whole pipeline with a few recipes, measured as briefly as can be, and what else is."""
    file = folder / "recipes.toml"
    file.write_text(RECIPES)
    # By size, since by latency the noise of two short runs might decide.
    serving = {"tune_batch": True, "push_to": str(folder / "serving")}
    settings = Settings(max_accuracy_drop=0.5, objective="size", target="tpu", **serving)
    slow = build(load_recipes(file), settings)
    dag = Dag(slow.name, {**slow.sources, "onnx": ONNXModel})
    # Not among the candidates: there is no GPU to measure it on.
    stated = {"product": "rtx", "compute_capability": "8.9"}
    dag.add("engine", STEPS["build_tensorrt"], {"model": dag.source("onnx")}, stated)
    for node in slow.nodes.values():
        quick = _QUICK.get(node.step.name, {})
        dag.add(
            node.id, node.step, node.inputs, {**node.parameters, **quick}, tolerate=node.tolerate
        )
    source = dag.nodes["import_model"].out("model")
    # No recipe has it; it is added by itself.
    dag.add("split", STEPS["split_model"], {"model": source})
    # Judged, but not measured: that would take longer than all else about them.
    examples = dag.nodes["import_examples"].out("examples")
    calibration = dag.nodes["draw_calibration"].out("calibration")
    onnx = dag.add(
        "onnx-int8",
        STEPS["export_onnx"],
        {"model": source, "examples": examples, "calibration": calibration},
        {"precision": "int8", "int8_runtime": "onnxruntime"},
    ).out("exported")
    openvino = dag.add(
        "openvino-int8", STEPS["convert_openvino"], {"model": onnx, "examples": examples}
    ).out("converted")
    compared = {"source": source, "candidate": openvino, "examples": examples}
    dag.add("evaluate-openvino-int8", STEPS["evaluate"], compared)
    return dag


# Not the same in two runs: a Keras file, which holds the time it was written,
# and what names its digest; what holds figures or paths; and the generated names
# in a SavedModel that was trained, which change its size by some bytes too.
_NOT_COMPARED: Mapping[str, tuple[str, ...]] = {
    "Model": ("digest",),
    "PrunedModel": ("digest", "size_bytes"),
    "ChannelPrunedModel": ("digest", "size_bytes"),
    "ClusteredModel": ("digest", "size_bytes"),
    "DistilledModel": ("digest", "size_bytes"),
    "QuantizedModel": ("digest", "size_bytes"),
    "ServingModel": ("digest", "size_bytes"),
    "SplitModel": ("digest", "size_bytes"),
    "ModelProfile": ("digest",),
    "TPUReadiness": ("digest",),
    "Selection": ("digest",),
    "Report": ("digest",),
    # The first of the runners makes the version that the others find.
    "PushedModel": ("digest", "made"),
}
_STEADY_FIGURES = {
    "BenchmarkMetrics": ("size_bytes", "gzip_bytes"),
    "RuntimeConfiguration": ("batch_size", "threads", "instances", "gpu_memory_mb", "trials"),
}


def _comparable(kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    if kind in _STEADY_FIGURES:
        return {name: facts[name] for name in _STEADY_FIGURES[kind]}
    left_out = _NOT_COMPARED.get(kind, ())
    return {name: value for name, value in facts.items() if name not in left_out}


def _described(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record's digest and facts."""
    return {"digest": record["digest"], **record["facts"]}


def _as_stored(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return matchers of the facts as ML Metadata stores them, with six decimals.

    The launcher puts a list into an object, under the key `list`.
    """
    stored: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, float):
            stored[name] = pytest.approx(value, rel=0, abs=1e-6)
        else:
            stored[name] = {"list": value} if isinstance(value, list) else value
    return stored


def _by_commands(dag: Dag, paths: Mapping[str, Path], root: Path) -> dict[str, dict[str, Path]]:
    """Each node as its command, one after another; the paths of their outputs."""
    made: dict[str, dict[str, Path]] = {}

    def path(edge: Edge) -> Path:
        return paths[edge.node] if edge.node in paths else made[edge.node][edge.output]

    for node in dag.nodes.values():
        made[node.id] = {name: root / node.id / name for name in node.step.outputs}
        arguments = ["--tolerate"] if node.tolerate else []
        for name, wire in node.inputs.items():
            if isinstance(wire, Edge):
                arguments.append(f"--{_dashed(name)}={path(wire)}")
            else:
                arguments += [f"--{name}={key}={path(edge)}" for key, edge in wire.items()]
        arguments += [f"--{_dashed(name)}={place}" for name, place in made[node.id].items()]
        for name, value in node.parameters.items():
            if isinstance(value, bool):
                arguments.append(f"--{'' if value else 'no-'}{_dashed(name)}")
            else:
                arguments.append(f"--{_dashed(name)}={value}")
        done = CliRunner().invoke(command(node.step), arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    return made


def _dashed(name: str) -> str:
    return name.replace("_", "-")


@pytest.fixture
def small_sources(tmp_path: Path, digits: Digits) -> dict[str, Path]:
    """A network of four convolutions and few digits: what all steps take in seconds."""
    import tf_keras

    few = Digits(*(array[: 360 if index < 2 else 120] for index, array in enumerate(digits)))
    tf_keras.utils.set_random_seed(0)
    network = build_network((16, 32))
    fit_network(network, few, epochs=4)
    network.save(tmp_path / "model", save_format="tf", include_optimizer=False)
    np.savez(tmp_path / "few.npz", **few._asdict())
    return {"model": tmp_path / "model", "examples": tmp_path / "few.npz"}


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_tfx_kubeflow_and_the_command_line_give_the_same_for_every_step(
    tmp_path: Path, small_sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from paring_pipelines.runners.tfx import TFXRunner

    (tmp_path / "student_of_all_runners.py").write_text(STUDENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    dag = _conformance_dag(tmp_path)
    # convert_tftrt takes a TensorFlow that was built with TensorRT, and a GPU.
    assert {node.step.name for node in dag.nodes.values()} == set(STEPS) - {"convert_tftrt"}
    paths = {**small_sources, "onnx": tmp_path / "onnx"}
    paths["onnx"].mkdir()
    graphs.product(paths["onnx"] / "model.onnx", graphs.FLOAT)
    digests = {name: content_digest(path) for name, path in paths.items()}
    root = tmp_path / "tfx"
    runner = TFXRunner(paths, digests, root=root)
    by_tfx = runner.run(dag, dag.identities(digests, "here")).outputs

    mounted = tmp_path / "mounted.toml"
    volumes = f'{{ "{tmp_path / "serving"}" = {{ claim = "serving" }} }}'
    mounted.write_text(f'[[place]]\nstep = "push"\nvolumes = {volumes}\n')
    placements = place(dag, [RUNTIME, mounted], target="cpu-server")
    compile_dag(dag, tmp_path / "package.yaml", image=IMAGE, placements=placements)
    uris = {f"{name}_uri": str(path) for name, path in paths.items()}
    given = uris | {"source_digest": "sha256:1"}
    with forked_paring() as start:
        by_kfp = run_package(tmp_path / "package.yaml", tmp_path / "kfp", given, start)
    by_command = _by_commands(dag, paths, tmp_path / "commands")

    compared = 0
    for node in dag.nodes.values():
        for output, kind in node.step.outputs.items():
            record = read_record(by_tfx[node.id][output])
            other = read_record(by_command[node.id][output])
            assert record is not None
            assert other is not None
            metadata = by_kfp.metadata(_dashed(node.id), output)
            assert metadata.pop("paring_type") == record["type"] == other["type"]
            path = by_kfp.path(_dashed(node.id), output)
            assert metadata.pop("record_digest") == record_digest(path), node.id
            assert "outcome" not in metadata, f"{node.id}: {metadata['reason']}"
            facts = _comparable(kind.__name__, _described(record))
            assert _comparable(kind.__name__, metadata) == _as_stored(facts), node.id
            assert _comparable(kind.__name__, _described(other)) == facts, node.id
            assert other["lineage"]["parameters"] == record["lineage"]["parameters"], node.id
            compared += len(facts)
    assert compared > 60
    selections = [
        json.loads((path / "selection.json").read_text())
        for path in (
            by_tfx["select"]["selection"],
            by_kfp.path("select", "selection"),
            by_command["select"]["selection"],
        )
    ]
    chosen = {selection["selected"] for selection in selections}
    assert len(chosen) == 1
    assert chosen == {"distilled"}
    for rows in zip(*(selection["candidates"] for selection in selections), strict=True):
        for name in ("id", "outcome", "recipe", "accuracy", "agreement", "size_bytes"):
            assert len({row[name] for row in rows}) == 1, (rows[0]["id"], name)
    _check_page(by_kfp)
    assert [item.candidate for item in versions(str(tmp_path / "serving"))] == ["distilled"]
    settings = json.loads((tmp_path / "serving" / "1" / "runtime.json").read_text())
    assert (settings["batch_size"], settings["threads"], settings["instances"]) == (1, 1, 1)


def _check_page(run: PackageRun) -> None:
    """Kubeflow shows the report: the page is the artifact itself."""
    page = run.path("report", "report_html")
    assert page.read_text() == (run.path("report", "report") / "report.html").read_text()
    assert "How distilled serves the most" in page.read_text()
    assert "XLA compiles it for fixed shapes" in page.read_text()
    assert "**selected**" in run.path("select", "selection_markdown").read_text()
    shown = run.path("benchmark-distilled", "metrics_markdown").read_text()
    assert "the source's speed" in shown
