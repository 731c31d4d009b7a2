"""Placement of nodes by files of rules, and the errors about invalid ones."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from paring.artifacts import Examples, Model, ONNXModel, Servable
from paring.catalog import STEPS
from paring.errors import ParameterError
from paring.step import Input, Output, step
from paring.steps.benchmark import benchmark
from paring.steps.evaluate import evaluate
from paring_pipelines.kubeflow.placement import EnvReference, Placement, Retry
from paring_pipelines.kubeflow.placement_file import (
    Fields,
    SecurityContext,
    Volume,
    read_runtime,
)
from paring_pipelines.kubeflow.placement_rules import place
from paring_pipelines.kubeflow.placement_values import chips
from paring_pipelines.pipeline.dag import Dag
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import TARGETS, load_recipes
from paring_pipelines.pipeline.settings import Settings

K8S = Path(__file__).parents[3] / "k8s"


@dataclass
class Engine(Servable):
    """Artifact that runs only where it was built."""

    bound_to_hardware: ClassVar[bool] = True


@step
def build_engine(model: Input[Model], engine: Output[Engine]) -> None:
    """Stand for a step that builds for the hardware that it runs on."""


@pytest.fixture
def dag() -> Dag:
    """A model, an engine of it, and what runs either."""
    made = Dag("engines", {"model": Model, "examples": Examples})
    model, examples = made.source("model"), made.source("examples")
    engine = made.add("engine", build_engine, {"model": model}).out("engine")
    for name, candidate in (("source", model), ("engine", engine)):
        inputs = {"source": model, "candidate": candidate, "examples": examples}
        made.add(f"benchmark-{name}", benchmark, inputs)
        made.add(f"evaluate-{name}", evaluate, inputs)
    return made


def _place(
    dag: Dag, folder: Path, *texts: str, target: str = "gpu", image: str | None = None
) -> dict[str, Placement]:
    files = [folder / f"{number}.toml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return place(dag, files, target=target, image=image)


POOLS = """
[images]
cpu = "reg/cpu"
gpu = "reg/gpu"
tpu = "reg/tpu"
[pools.plain]
labels = { pool = "plain" }
[pools.l4]
labels = { pool = "l4" }
accelerator = "nvidia-l4"
resource = "nvidia.com/gpu"
tolerations = [{ key = "nvidia.com/gpu", operator = "Exists" }]
[pools.t4]
accelerator = "nvidia-t4"
resource = "nvidia.com/gpu"
[pools.v5e]
accelerator = "tpu-v5e"
resource = "google.com/tpu"
topology = "2x4"
"""
ON_L4 = 'image = "gpu"\npool = "l4"\naccelerator = "nvidia-l4"\n'
ON_T4 = 'image = "gpu"\npool = "t4"\naccelerator = "nvidia-t4"\n'


def test_without_files_nothing_is_asked_for(dag: Dag) -> None:
    assert place(dag, [], target="gpu") == dict.fromkeys(dag.nodes, Placement())


def test_later_rules_override_earlier_ones_field_by_field(dag: Dag, tmp_path: Path) -> None:
    rules = """
    [defaults]
    cpu = 1
    memory = "1Gi"
    [[place]]
    step = "benchmark"
    cpu = 2
    cache = false
    [[place]]
    node = "*-source"
    cpu = 3
    [[place]]
    step = "bench*"
    node = "*-source"
    memory = "2Gi"
    """
    placed = _place(dag, tmp_path, rules)
    assert {name: (item.cpu, item.memory, item.cache) for name, item in placed.items()} == {
        "engine": ("1", "1Gi", True),
        "benchmark-source": ("3", "2Gi", False),
        "evaluate-source": ("3", "1Gi", True),
        "benchmark-engine": ("2", "1Gi", False),
        "evaluate-engine": ("1", "1Gi", True),
    }


def test_a_targets_own_rules_apply_to_it_alone_and_last(dag: Dag, tmp_path: Path) -> None:
    rules = """
    [defaults]
    cpu = 1
    memory = "1Gi"
    [[place]]
    step = "benchmark"
    cpu = 2
    [targets.gpu.defaults]
    cpu = 3
    memory = "3Gi"
    [[targets.gpu.place]]
    node = "benchmark-engine"
    cpu = 4
    """

    def cores(target: str) -> list[str | None]:
        placed = _place(dag, tmp_path, rules, target=target)
        names = ("engine", "benchmark-source", "benchmark-engine")
        return [placed[name].cpu for name in names]

    assert cores("mobile") == ["1", "2", "2"]
    # Its defaults are defaults: a rule for a step goes over them.
    assert cores("gpu") == ["3", "2", "4"]


def test_a_later_file_goes_over_an_earlier_one(dag: Dag, tmp_path: Path) -> None:
    below = f'{POOLS}[[place]]\nstep = "*"\n{ON_L4}cpu = 1\n'
    above = '[images]\ngpu = "other/gpu"\n[pools.l4]\nlabels = { zone = "a" }\n'
    above += '[[place]]\nstep = "evaluate"\ncpu = 2\n'
    placed = _place(dag, tmp_path, below, above)["evaluate-engine"]
    assert (placed.image, placed.cpu, placed.labels) == ("other/gpu", "2", {"zone": "a"})
    # What the later file does not say of the pool stays.
    assert (placed.resource, placed.tolerations[0].key) == ("nvidia.com/gpu", "nvidia.com/gpu")


def test_a_node_gets_what_its_pool_and_its_fields_say(dag: Dag, tmp_path: Path) -> None:
    fields = 'shm = "1Gi"\ntimeout_seconds = 60\nretries = 2\nbackoff_seconds = 5\n'
    placed = _place(dag, tmp_path, f"{POOLS}[defaults]\n{ON_L4}accelerator_count = 2\n{fields}")
    item = placed["benchmark-engine"]
    assert (item.image, item.accelerator, item.accelerator_count) == ("reg/gpu", "nvidia-l4", 2)
    assert (item.shm, item.timeout_seconds, item.retry) == ("1Gi", 60, Retry(2, 5, 2, 3600))


def test_a_pool_and_an_accelerator_can_be_taken_back(dag: Dag, tmp_path: Path) -> None:
    back = '[[place]]\nnode = "evaluate-source"\npool = "none"\naccelerator = "none"\n'
    placed = _place(dag, tmp_path, f"{POOLS}[defaults]\n{ON_L4}{back}")["evaluate-source"]
    assert (placed.labels, placed.resource, placed.image) == ({}, None, "reg/gpu")


def test_one_image_stands_for_all_where_it_is_given(dag: Dag, tmp_path: Path) -> None:
    rules = '[defaults]\nimage = "cpu"\n[[place]]\nstep = "benchmark"\nimage = "gpu"\n'
    placed = _place(dag, tmp_path, rules, image="mine")
    assert {item.image for item in placed.values()} == {"mine"}


def test_a_task_takes_all_chips_of_a_tpu_host(dag: Dag, tmp_path: Path) -> None:
    on_tpu = '[defaults]\nimage = "tpu"\npool = "v5e"\naccelerator = "tpu-v5e"\n'
    placed = _place(dag, tmp_path, f"{POOLS}{on_tpu}")["engine"]
    assert (placed.resource, placed.accelerator_count) == ("google.com/tpu", 8)
    with pytest.raises(ParameterError, match=r"\[defaults\]: accelerator_count: .* all 8 chips"):
        _place(dag, tmp_path, f"{POOLS}{on_tpu}accelerator_count = 4\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[place]]\nstep = "benchmrk"', r"\[\[place\]\] 1: step: .*(\n.*)*mean 'benchmark'"),
        (
            '[[place]]\nnode = "benchmark-x*"',
            r"\[\[place\]\] 1: node: no node matches(\n.*)*mean 'benchmark-",
        ),
        (
            '[[place]]\nstep = "evaluate"\nnode = "benchmark-*"',
            r"\[\[place\]\] 1: node: no node of a step evaluate matches",
        ),
        ('[[place]]\nnode = ""', r"\[\[place\]\] 1: node: no node matches"),
        ('[[place]]\nstep = ""', r"\[\[place\]\] 1: step: there is no such step"),
        ('[[place]]\nstep = "*"\nnode = ""', r"\[\[place\]\] 1: node: no node of a step"),
        (
            '[[targets.gpu.place]]\nstep = "x"',
            r"\[\[targets.gpu.place\]\] 1: step: there is no such step",
        ),
        (
            '[[targets.tpu.place]]\nstep = "x"',
            r"\[\[targets.tpu.place\]\] 1: step: there is no such step",
        ),
        ('[defaults]\npool = "l44"', r"\[defaults\]: pool: there is no such pool.*(\n.*)*'l4'"),
        ('[defaults]\nimage = "tensorrt"', r"\[defaults\]: image: \[images\] has no such image"),
        (
            '[defaults]\nimage = "gpu"\naccelerator = "nvidia-l4"',
            r"\[defaults\]: accelerator: the node's pool none has none .*(\n.*)*it: l4$",
        ),
        (
            '[defaults]\nimage = "gpu"\npool = "plain"\naccelerator = "nvidia-l4"',
            r"\[defaults\]: accelerator: the node's pool plain has none",
        ),
        (
            '[defaults]\nimage = "gpu"\npool = "t4"\naccelerator = "nvidia-l4"',
            r"\[defaults\]: accelerator: the node's pool t4 has nvidia-t4",
        ),
        (
            '[defaults]\nimage = "cpu"\npool = "l4"\naccelerator = "nvidia-l4"',
            r"\[defaults\]: accelerator: image cpu has no libraries for it",
        ),
        ("[defaults]\ncpu = 2\ncpu_limit = 1", r"\[defaults\]: cpu: is more than cpu_limit"),
        (
            '[defaults]\nmemory = "2Gi"\n[[place]]\nstep = "evaluate"\nmemory_limit = "2G"',
            r"\[defaults\]: memory: is more than memory_limit, which is 2G \(node evaluate-",
        ),
        (
            '[defaults]\nmemory_limit = "1Gi"\nshm = "2Gi"',
            r"\[defaults\]: shm: is more than memory_limit",
        ),
        (
            '[pools.new]\naccelerator = "nvidia-l4"',
            r"\[pools.new\]: resource: an accelerator and the name of its resource",
        ),
        ('[pools.new]\nresource = "a/b"', r"\[pools.new\]: accelerator: "),
        ('[pools.l4]\ntopology = "2x2"', r"\[pools.l4\]: topology: TPUs have one"),
        (
            '[pools.new]\naccelerator = "tpu-v6e"\nresource = "google.com/tpu"',
            r"\[pools.new\]: topology: TPUs have one",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_file_table_and_key(
    dag: Dag, tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        _place(dag, tmp_path, POOLS, text)
    assert str(tmp_path / "1.toml") in str(caught.value)
    assert caught.value.remedy


def test_a_step_that_this_pipeline_does_not_use_may_be_named(dag: Dag, tmp_path: Path) -> None:
    _place(dag, tmp_path, '[[place]]\nstep = "distill"\ncpu = 1\n')


@pytest.mark.parametrize("runner", ["benchmark", "evaluate"])
def test_what_is_built_for_one_accelerator_is_not_run_on_another(
    dag: Dag, tmp_path: Path, runner: str
) -> None:
    rules = f"{POOLS}[defaults]\n{ON_L4}"
    _place(dag, tmp_path, rules)
    other = f'[[place]]\nnode = "{runner}-engine"\n{ON_T4}'
    with pytest.raises(ParameterError) as caught:
        _place(dag, tmp_path, rules, other)
    text = str(caught.value)
    assert "1.toml: [[place]] 1: accelerator: engine builds a Engine on nvidia-l4" in text
    assert f"{runner}-engine runs it on nvidia-t4" in text
    # Only what runs the engine is bound to it.
    _place(dag, tmp_path, rules, f'[[place]]\nnode = "{runner}-source"\n{ON_T4}')


def test_what_is_built_for_an_accelerator_is_not_run_without_one(dag: Dag, tmp_path: Path) -> None:
    rules = f'{POOLS}[[place]]\nnode = "engine"\n{ON_L4}'
    with pytest.raises(ParameterError, match=r"\[\[place\]\] 1: accelerator: .* on none"):
        _place(dag, tmp_path, rules)


def _engines(**parameters: str) -> Dag:
    """An engine by `build_tensorrt` of an ONNX model, and what times it."""
    made = Dag("engines", {"model": Model, "onnx": ONNXModel, "examples": Examples})
    onnx = {"model": made.source("onnx")}
    engine = made.add("engine", STEPS["build_tensorrt"], onnx, parameters).out("engine")
    inputs = {"source": made.source("model"), "candidate": engine}
    made.add("benchmark", benchmark, inputs | {"examples": made.source("examples")})
    return made


def test_an_engine_for_a_stated_capability_may_be_built_on_any_machine(tmp_path: Path) -> None:
    on_l4 = f'{POOLS}[[place]]\nstep = "benchmark"\n{ON_L4}'
    placed = _place(_engines(product="rtx", compute_capability="8.9"), tmp_path, on_l4)
    assert (placed["engine"].accelerator, placed["benchmark"].accelerator) == ("none", "nvidia-l4")
    unknown = on_l4.replace("nvidia-l4", "nvidia-other")
    _place(_engines(product="rtx", compute_capability="12.0"), tmp_path, unknown)
    with pytest.raises(ParameterError, match=r"builds a TRTEngine for compute capability 7\.5"):
        _place(_engines(product="rtx", compute_capability="7.5"), tmp_path, on_l4)
    with pytest.raises(ParameterError, match=r"builds a TRTEngine on none"):
        _place(_engines(), tmp_path, on_l4)
    # Nothing is said of GPUs, so nothing is known of where either runs.
    _place(_engines(product="rtx", compute_capability="8.9"), tmp_path, POOLS)


def test_a_task_with_an_accelerator_requests_it_of_its_step(dag: Dag, tmp_path: Path) -> None:
    rule = f'[[place]]\nnode = "engine"\n{ON_L4}env = {{ A = "1" }}\n'
    runs = f'[[place]]\nnode = "*-engine"\n{ON_L4}env = {{ PARING_ACCELERATOR = "none" }}\n'
    placed = _place(dag, tmp_path, POOLS + rule + runs)
    assert placed["engine"].env == {"PARING_ACCELERATOR": "nvidia-l4", "A": "1"}
    # What a rule says of the variable goes over it.
    assert placed["benchmark-engine"].env == {"PARING_ACCELERATOR": "none"}
    assert placed["benchmark-source"].env == {}


GPU_POOL = """
[images]
cpu = "reg/cpu"
tensorrt = "reg/tensorrt"
[pools.gpus]
accelerator = "{accelerator}"
resource = "nvidia.com/gpu"
[defaults]
image = "tensorrt"
pool = "gpus"
accelerator = "{accelerator}"
"""


@pytest.mark.parametrize(
    ("accelerator", "capability"),
    [
        ("nvidia-h100", r"9\.0"),
        ("nvidia-h100-mega-80gb", r"9\.0"),
        ("nvidia-h200-141gb", r"9\.0"),
        ("nvidia-b200", r"10\.0"),
        ("nvidia-tesla-v100", r"7\.0"),
    ],
)
def test_an_engine_of_tensorrt_for_rtx_is_refused_on_a_gpu_that_it_leaves_out(
    tmp_path: Path, accelerator: str, capability: str
) -> None:
    rules = GPU_POOL.format(accelerator=accelerator)
    words = rf"\[defaults\]: accelerator: TensorRT for RTX builds no .* {capability},.*node engine"
    with pytest.raises(ParameterError, match=words) as caught:
        _place(_engines(product="rtx"), tmp_path, rules)
    assert caught.value.received == accelerator
    assert 'product = "server"' in caught.value.remedy
    # TensorRT for servers has Hopper, and an image of the user's may hold it.
    _place(_engines(product="server"), tmp_path, rules)


@pytest.mark.parametrize(
    "accelerator", ["nvidia-t4", "nvidia-tesla-a100", "nvidia-a100-80gb", "nvidia-l4", "nvidia-new"]
)
def test_an_engine_of_tensorrt_for_rtx_is_built_on_other_gpus(
    tmp_path: Path, accelerator: str
) -> None:
    placed = _place(_engines(product="rtx"), tmp_path, GPU_POOL.format(accelerator=accelerator))
    assert placed["engine"].accelerator == accelerator


def test_the_recipes_are_refused_on_the_pool_of_hopper_that_comes_along(tmp_path: Path) -> None:
    dag = build(load_recipes(target="gpu"), Settings())
    overlay = tmp_path / "hopper.toml"
    steps = ("build_tensorrt", "benchmark", "evaluate", "optimize_savedmodel")
    rule = '[[place]]\nstep = "{}"\npool = "gpu-h100"\naccelerator = "nvidia-h100"\n'
    overlay.write_text("".join(rule.replace("[[", "[[targets.gpu.").format(step) for step in steps))
    with pytest.raises(ParameterError, match=r"targets\.gpu\.place.*TensorRT for RTX builds no"):
        place(dag, [K8S / "runtime.toml", overlay], target="gpu")


def test_the_file_that_comes_along_builds_engines_where_they_are_timed() -> None:
    placed = place(_engines(), [K8S / "runtime.toml"], target="gpu")
    assert {(item.image, item.accelerator) for item in placed.values()} == {
        ("paring-tensorrt:0.1.0", "nvidia-l4")
    }


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("overlay", [[], [K8S / "runtime.gke.toml"]])
def test_the_files_that_come_along_place_every_node(target: str, overlay: list[Path]) -> None:
    dag = build(load_recipes(target=target), Settings())
    placed = place(dag, [K8S / "runtime.toml", *overlay], target=target)
    assert placed.keys() == dag.nodes.keys()
    for name, item in placed.items():
        assert item.image
        assert item.labels
        assert item.cpu
        assert item.memory_limit
        assert item.timeout_seconds
        assert item.cache != dag.nodes[name].step.machine_dependent
    # All are measured on machines of one kind.
    measured = [item for name, item in placed.items() if name.startswith("benchmark-")]
    assert len({str(item) for item in measured}) == 1
    accelerators = {"gpu": "nvidia-l4", "tpu": "tpu-v5e"}
    assert measured[0].accelerator == accelerators.get(target, "none")


TPU_LABELS = {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "2x2",
}


def test_for_tpus_what_trains_and_runs_models_takes_a_host_of_them_and_nothing_else(
    tmp_path: Path,
) -> None:
    every = "".join(
        f'[recipes.{step}]\nsteps = [{{ step = "{step}" }}]\n'
        for step in ("prune", "prune_channels", "cluster", "quantize", "distill", "split_model")
    )
    (tmp_path / "recipes.toml").write_text(every)
    recipes = [*load_recipes(target="tpu"), *load_recipes(tmp_path / "recipes.toml")]
    dag = build(recipes, Settings(target="tpu", tune_batch=True))
    placed = place(dag, [K8S / "runtime.toml", K8S / "runtime.gke.toml"], target="tpu")
    on_tpu = {dag.nodes[name].step.name for name, item in placed.items() if item.resource}
    assert on_tpu == {
        *("prune", "prune_channels", "cluster", "quantize", "distill"),
        *("benchmark", "evaluate"),
    }
    for name, item in placed.items():
        if dag.nodes[name].step.name in on_tpu:
            assert (item.resource, item.accelerator_count) == ("google.com/tpu", 4)
            assert item.labels == TPU_LABELS
            assert item.image == "paring-tpu:0.1.0"
        else:
            assert not TPU_LABELS.keys() & item.labels.keys()
            assert item.image == "paring-cpu:0.1.0"


def test_the_documented_rules_place_the_default_pipeline(tmp_path: Path) -> None:
    text = (K8S.parent / "docs" / "kubeflow.md").read_text()
    start = text.index("    [images]")
    block = text[start : text.index("\n\n`step` and `node`", start)]
    block = block.replace("REGISTRY", "registry.example").replace("DIGEST", "0" * 64)
    (tmp_path / "documented.toml").write_text(textwrap.dedent(block))
    dag = build(load_recipes(target="cpu-server"), Settings())
    placed = place(dag, [tmp_path / "documented.toml"], target="cpu-server")
    assert placed["benchmark-source"].labels == {"paring.dev/pool": "measure"}
    assert placed["evaluate-source"].cpu == "2"
    assert all(f"`{name}`" in text for name in Fields.model_fields)


def test_googles_labels_say_what_the_pools_do() -> None:
    content = read_runtime(K8S / "runtime.gke.toml")
    kinds = {"tpu-v5e": "tpu-v5-lite-podslice", "tpu-v6e": "tpu-v6e-slice"}
    for name, kind in kinds.items():
        pool = content.pools[name]
        assert pool.topology
        assert chips(pool.topology) <= 8
        assert pool.labels == {
            "cloud.google.com/gke-tpu-accelerator": kind,
            "cloud.google.com/gke-tpu-topology": pool.topology,
        }
    gpus = {name for name in read_runtime(K8S / "runtime.toml").pools if name.startswith("gpu-")}
    assert gpus == content.pools.keys() - kinds.keys()


TWO_PROCESSES = "--direct_num_workers=2 --direct_running_mode=multi_processing"


def test_the_workers_of_a_step_are_chosen_by_rules(dag: Dag, tmp_path: Path) -> None:
    rules = f"""
    [[place]]
    step = "evaluate"
    beam_options = "{TWO_PROCESSES}"
    [[place]]
    node = "evaluate-engine"
    beam_options = "--runner=PortableRunner --job_endpoint=a:1 --environment_type=LOOPBACK"
    shared_dir = "s3://bucket/shared"
    """
    placed = _place(dag, tmp_path, rules)
    assert placed["benchmark-source"].parameters == {}
    assert placed["evaluate-source"].parameters == {"beam_options": TWO_PROCESSES}
    assert placed["evaluate-engine"].parameters["shared_dir"] == "s3://bucket/shared"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            '[defaults]\nshared_dir = "s3://b/c"',
            r"\[defaults\]: shared_dir: step build_engine has no such[\s\S]*step = evaluate",
        ),
        (
            f'[[place]]\nstep = "benchmark"\nbeam_options = "{TWO_PROCESSES}"',
            r"\[\[place\]\] 1: beam_options: step benchmark has no such parameter",
        ),
        (
            '[[place]]\nstep = "evaluate"\nbeam_options = "--runner=PrismRunner"',
            r"\[\[place\]\] 1: beam_options: PrismRunner is not used",
        ),
        (
            '[[place]]\nstep = "evaluate"\nshared_dir = "s3://bucket/shared"',
            r"\[\[place\]\] 1: shared_dir: the workers are on this machine",
        ),
    ],
)
def test_workers_that_a_step_cannot_have_are_refused(
    dag: Dag, tmp_path: Path, table: str, message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        _place(dag, tmp_path, table)


def test_workers_that_the_pipeline_itself_names_are_checked_too() -> None:
    settings = Settings(beam_options="--runner=FlinkRunner", shared_dir="s3://bucket/shared")
    with pytest.raises(ParameterError, match="FlinkRunner needs a job server"):
        place(build([], settings), [], target="gpu")


def test_workers_that_are_processes_cannot_be_on_a_tpu() -> None:
    dag = build([], Settings(target="tpu", beam_options=TWO_PROCESSES))
    files = [K8S / "runtime.toml", K8S / "runtime.gke.toml"]
    with pytest.raises(ParameterError, match="a TPU, which one process holds"):
        place(dag, files, target="tpu")
    place(dag, files, target="cpu-server")


def test_what_is_to_be_known_of_the_workers_is_told_once_for_all_evaluations(
    dag: Dag, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rule = '[[place]]\nstep = "evaluate"\nbeam_options = "--runner=DirectRunner"\n'
    placed = _place(dag, tmp_path, rule)
    assert {name for name, item in placed.items() if item.parameters} == {
        "evaluate-source",
        "evaluate-engine",
    }
    assert len(caplog.records) == 1


REMOTE = "--runner=PortableRunner --job_endpoint=a:1"
LOOPBACK = f"{REMOTE} --environment_type=LOOPBACK"
EXTERNAL = f"{REMOTE} --environment_type=EXTERNAL --environment_config=localhost:1"


def _mount(step: str, path: str, what: str = "claim") -> str:
    return f'[[place]]\nstep = "{step}"\nvolumes = {{ "{path}" = {{ {what} = "models" }} }}\n'


@pytest.mark.parametrize(
    ("settings", "option", "step"),
    [
        ({"push_to": "/mnt/models/digits"}, "--push-to", "push"),
        ({"push_to": "file:///mnt/models/digits/"}, "--push-to", "push"),
        (
            {"beam_options": EXTERNAL, "shared_dir": "/mnt/models/digits"},
            "--shared-dir",
            "evaluate",
        ),
    ],
)
def test_a_folder_to_write_to_needs_a_volume_on_the_node_that_writes(
    tmp_path: Path, settings: dict[str, str], option: str, step: str
) -> None:
    dag = build([], Settings(**settings))
    for rules in (
        "",
        _mount("benchmark", "/mnt/models"),
        _mount(step, "/mnt/model"),
        _mount(step, "/mnt/models/digits/deeper"),
    ):
        with pytest.raises(ParameterError, match=f"{option}: no volume is mounted there") as caught:
            _place(dag, tmp_path, rules)
        assert caught.value.received in settings.values()
        # The remedy is a rule that works.
        _, _, rule = caught.value.remedy.partition("\n\n")
        _place(dag, tmp_path, rule.replace("CLAIM", "models"))
    # As where there is no file, but an image for all.
    with pytest.raises(ParameterError, match=f"{option}: no volume is mounted there"):
        place(dag, [], target="gpu", image="paring")
    for path in ("/mnt/models/digits", "/mnt/models", "/mnt/"):
        placed = _place(dag, tmp_path, _mount(step, path))
        assert placed["push" if step == "push" else "evaluate-source"].volumes
    for kind in ("secret", "config_map"):
        with pytest.raises(ParameterError, match="which no pod can write to"):
            _place(dag, tmp_path, _mount(step, "/mnt/models", kind))


def test_a_shared_folder_of_a_rule_needs_a_volume_too(dag: Dag, tmp_path: Path) -> None:
    rule = f'[[place]]\nstep = "evaluate"\nbeam_options = "{EXTERNAL}"\nshared_dir = "/mnt/a"\n'
    with pytest.raises(ParameterError, match=r"\[\[place\]\] 1: shared_dir: no volume is mounted"):
        _place(dag, tmp_path, rule)
    placed = _place(dag, tmp_path, rule, _mount("evaluate", "/mnt"))
    assert placed["evaluate-source"].parameters["shared_dir"] == "/mnt/a"
    # The workers are in the pod, and so is the folder.
    assert _place(dag, tmp_path, rule.replace(EXTERNAL, LOOPBACK))


@pytest.mark.parametrize("uri", ["s3://bucket/serving", "gs://bucket/serving"])
def test_a_folder_in_a_store_needs_no_volume(uri: str) -> None:
    assert place(build([], Settings(push_to=uri)), [], target="gpu")


def test_a_relative_folder_lies_in_the_container() -> None:
    dag = build([], Settings(push_to="serving/digits"))
    with pytest.raises(ParameterError, match="--push-to: must be in a store, or an abs") as caught:
        place(dag, [], target="gpu")
    assert '"/mnt/digits" = { claim = "CLAIM" }' in caught.value.remedy


def test_keys_of_environment_labels_and_volumes_are_overridden_one_by_one(
    dag: Dag, tmp_path: Path
) -> None:
    rules = """
    [defaults]
    env = { A = "1", B = "1", N = 3 }
    env_from_secret = [{ name = "keys", keys = ["C", "D"], optional = true }]
    labels = { team = "a", kind = "x" }
    annotations = { "a/b" = "c: d" }
    image_pull_secrets = ["one"]
    security_context = { run_as_user = 65532, run_as_non_root = true }
    [defaults.volumes]
    "/mnt/a/" = { claim = "a" }
    "/mnt/b" = { secret = "b" }
    [[place]]
    step = "evaluate"
    env = { C = "plain" }
    env_from_config_map = [{ name = "region", keys = { "aws.region" = "B" } }]
    labels = { team = "b" }
    volumes = { "/mnt/a" = { config_map = "c" } }
    image_pull_policy = "Always"
    image_pull_secrets = []
    security_context = { run_as_user = 1000 }
    store_identity = ["gs://", "s3://bucket"]
    """
    placed = _place(dag, tmp_path, rules)
    item = placed["evaluate-source"]
    assert item.env == {
        "A": "1",
        "B": EnvReference("config_map", "region", "aws.region"),
        "C": "plain",
        "D": EnvReference("secret", "keys", "D", optional=True),
        "N": "3",
    }
    assert (item.pod_labels, item.annotations) == ({"team": "b", "kind": "x"}, {"a/b": "c: d"})
    assert item.volumes == {"/mnt/a": Volume(config_map="c"), "/mnt/b": Volume(secret="b")}
    assert item.security_context == SecurityContext(run_as_user=1000, run_as_non_root=True)
    assert (item.image_pull_policy, item.image_pull_secrets) == ("Always", ())
    assert item.store_identity == ("gs://", "s3://bucket")
    other = placed["engine"]
    assert other.env["B"] == "1"
    assert (other.pod_labels["team"], other.image_pull_secrets) == ("a", ("one",))
    assert other.volumes["/mnt/a"] == Volume(claim="a")


SECRETS = """
[defaults]
env = { B = "plain", P = "1" }
env_from_secret = [{ name = "a", keys = ["A"] }]
env_from_config_map = [{ name = "m", keys = ["M"] }]
[[place]]
step = "evaluate"
"""


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        ("env_from_secret = []", {"B": "plain", "M": "m"}),
        ('env_from_secret = [{ name = "c", keys = ["C"] }]', {"B": "plain", "C": "c", "M": "m"}),
        ("env_from_config_map = []", {"A": "a", "B": "plain"}),
        ('env_from_config_map = [{ name = "n", keys = ["A"] }]', {"A": "n", "B": "plain"}),
        ("env = {}", {"A": "a", "B": "plain", "M": "m"}),
    ],
)
def test_lists_of_secrets_are_overridden_as_a_whole_and_taken_back(
    dag: Dag, tmp_path: Path, rule: str, left: dict[str, str]
) -> None:
    placed = _place(dag, tmp_path, f"{SECRETS}{rule}\n")
    env = placed["evaluate-source"].env
    sources = {name: item if isinstance(item, str) else item.name for name, item in env.items()}
    assert sources == {**left, "P": "1"}
    assert placed["benchmark-source"].env["A"] == EnvReference("secret", "a", "A")


def test_a_plain_variable_shows_again_when_the_list_over_it_is_taken_back(
    dag: Dag, tmp_path: Path
) -> None:
    files = (
        '[defaults]\nenv = { A = "plain" }\n',
        '[defaults]\nenv_from_secret = [{ name = "s", keys = ["A"] }]\n'
        '[[place]]\nstep = "evaluate"\nenv_from_secret = []\n',
    )
    placed = _place(dag, tmp_path, *files)
    assert placed["evaluate-source"].env == {"A": "plain"}
    assert placed["engine"].env == {"A": EnvReference("secret", "s", "A")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '[defaults.volumes]\n"/a" = { claim = "x" }\n"/b" = { claim = "x" }',
            r"volumes: the volume at /b has the same name as the one at /a",
        ),
        (
            '[defaults.volumes]\n"/a" = { claim = "x" }\n[[place]]\nstep = "evaluate"\n'
            'volumes = { "/b" = { secret = "x" } }',
            r"\[\[place\]\] 1: volumes: the volume at /b has the same name",
        ),
        (
            '[defaults]\nvolumes = { "/a" = { claim = "kfp-launcher" } }',
            r"volumes: the volume at /a has the same name as one of Kubeflow's own",
        ),
        (
            '[defaults]\nshm = "1Gi"\nvolumes = { "/a" = { claim = "shm" } }',
            r"volumes: the volume at /a has the same name as the one at /dev/shm",
        ),
        (
            '[defaults]\nshm = "1Gi"\nvolumes = { "/dev/shm" = { claim = "x" } }',
            r"volumes: shm is mounted at this path",
        ),
        (
            "[defaults]\nsecurity_context = { run_as_non_root = true }\n"
            '[[place]]\nstep = "evaluate"\nsecurity_context = { run_as_user = 0 }',
            r"\[\[place\]\] 1: security_context: run_as_non_root is true, and user 0 is root",
        ),
    ],
)
def test_pods_that_kubernetes_would_not_start_are_refused(
    dag: Dag, tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        _place(dag, tmp_path, text)
    assert caught.value.remedy


MEASURE = '[pools.measure]\nmachine_cpu = 8\n[[place]]\nstep = "benchmark"\npool = "measure"\n'


@pytest.mark.parametrize(
    ("cores", "received"),
    [("cpu = 4", "4 cores"), ('cpu = "500m"', "0.5 cores"), ("cpu_limit = 4", "4 cores")],
)
def test_tasks_that_measure_must_not_fit_on_one_machine_twice(
    dag: Dag, tmp_path: Path, cores: str, received: str
) -> None:
    key = cores.split()[0]
    words = rf"\[\[place\]\] 1: {key}: .* both measure, and both fit on one machine of pool measure"
    with pytest.raises(ParameterError, match=words) as caught:
        _place(dag, tmp_path, f"{MEASURE}{cores}\n")
    assert caught.value.received == received
    assert caught.value.remedy == "request more than 4 cores"


def test_a_task_that_measures_and_asks_for_nothing_names_its_pool(dag: Dag, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"\[\[place\]\] 1: pool: .* both measure"):
        _place(dag, tmp_path, MEASURE)


def test_tasks_that_ask_for_more_than_half_of_a_machine_are_placed(
    dag: Dag, tmp_path: Path
) -> None:
    placed = _place(dag, tmp_path, f"{MEASURE}cpu = 4.5\n")
    assert placed["benchmark-source"].cpu == "4.5"
    # What measures nothing may share machines, and of others nothing is known.
    shared = MEASURE.replace("benchmark", "evaluate")
    assert _place(dag, tmp_path, f"{shared}cpu = 1\n")["evaluate-source"].cpu == "1"
    unstated = MEASURE.replace("machine_cpu = 8\n", "")
    assert _place(dag, tmp_path, f"{unstated}cpu = 1\n")["benchmark-source"].cpu == "1"


def test_two_that_measure_and_ask_for_different_parts_of_a_machine_are_a_pair(
    dag: Dag, tmp_path: Path
) -> None:
    other = '[[place]]\nnode = "benchmark-engine"\ncpu = 2\n'
    words = r"\[\[place\]\] 2: cpu: this task and benchmark-source both measure"
    with pytest.raises(ParameterError, match=words):
        _place(dag, tmp_path, f"{MEASURE}cpu = 5\n{other}")


def test_a_machine_with_one_accelerator_holds_one_task_that_measures(
    dag: Dag, tmp_path: Path
) -> None:
    rule = f"[defaults]\n{ON_L4}cpu = 1\n"
    item = "[pools.l4]\nmachine_cpu = 16\nmachine_accelerators = 1\n"
    assert _place(dag, tmp_path, POOLS, item + rule)["benchmark-source"].cpu == "1"
    two = item.replace("accelerators = 1", "accelerators = 2")
    with pytest.raises(ParameterError, match="both measure"):
        _place(dag, tmp_path, POOLS, two + rule)
    both = f"{rule}accelerator_count = 2\n"
    assert _place(dag, tmp_path, POOLS, two + both)["benchmark-source"].accelerator_count == 2


def test_accelerators_alone_say_that_two_tasks_fit_on_one_machine(dag: Dag, tmp_path: Path) -> None:
    rule = f"[defaults]\n{ON_L4}"
    two = "[pools.l4]\nmachine_accelerators = 2\n"
    with pytest.raises(ParameterError, match=r"both measure(.|\n)*1 and 1 accelerators"):
        _place(dag, tmp_path, POOLS, two + rule)
    placed = _place(dag, tmp_path, POOLS, f"{two}{rule}accelerator_count = 2\n")
    assert placed["benchmark-source"].accelerator_count == 2
    assert _place(dag, tmp_path, POOLS, two.replace("2", "1") + rule)


def test_nodes_that_name_no_image_run_on_that_for_the_cpu(dag: Dag, tmp_path: Path) -> None:
    images = '[images]\ncpu = "registry.example/cpu"\ngpu = "registry.example/gpu"\n'
    placed = _place(dag, tmp_path, images)
    assert {item.image for item in placed.values()} == {"registry.example/cpu"}
    rule = '[[place]]\nstep = "benchmark"\nimage = "gpu"\n'
    assert _place(dag, tmp_path, images, rule)["benchmark-source"].image == "registry.example/gpu"
    only = images.replace("cpu", "tensorrt")
    assert _place(dag, tmp_path, only)["benchmark-source"].image is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[defaults]\naccelerator_count = 2\n", "accelerator_count: .* without accelerator"),
        ("[defaults]\nretries = 0\nbackoff_seconds = 9\n", "backoff_seconds: .* without retries"),
        ('[[place]]\nstep = "benchmark"\nbackoff_factor = 2\n', r"\[\[place\]\] 1: backoff_factor"),
        (
            '[targets.gpu.defaults]\nbackoff_max_seconds = 60\n[[place]]\nstep = "prune"\n'
            "retries = 1\n",
            "backoff_max_seconds",
        ),
        (
            "[defaults]\nretries = 2\n[targets.gpu.defaults]\nretries = 0\nbackoff_seconds = 9\n",
            r"\[targets.gpu.defaults\]: backoff_seconds",
        ),
        (
            "[defaults]\nretries = 2\n[targets.gpu.defaults]\nretries = 0\n"
            '[[place]]\nstep = "benchmark"\nbackoff_seconds = 9\n',
            r"\[\[place\]\] 1: backoff_seconds",
        ),
    ],
)
def test_fields_that_would_have_no_effect_are_refused(
    dag: Dag, tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ParameterError, match=words) as raised:
        _place(dag, tmp_path, text)
    assert "as well, or leave it out" in raised.value.remedy


def test_fields_that_have_an_effect_on_one_of_their_nodes_are_taken(
    dag: Dag, tmp_path: Path
) -> None:
    rule = '[defaults]\nbackoff_seconds = 9\n[[place]]\nstep = "evaluate"\nretries = 1\n'
    placed = _place(dag, tmp_path, rule)
    assert placed["evaluate-source"].retry == Retry(1, backoff_seconds=9)
    assert placed["benchmark-source"].retry is None


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        ("retries = 1\nbackoff_seconds = 100\nbackoff_max_seconds = 10", "", "backoff_max_seconds"),
        ("retries = 1\nbackoff_seconds = 100", "backoff_max_seconds = 100", "backoff_max_seconds"),
        ("retries = 1\nbackoff_max_seconds = 10", "backoff_seconds = 100", "backoff_seconds"),
        ("retries = 1", "backoff_seconds = 3600", "backoff_seconds"),
    ],
)
def test_a_first_wait_that_ends_after_all_retries_is_refused_by_the_later_field(
    dag: Dag, tmp_path: Path, first: str, second: str, named: str
) -> None:
    texts = (f"[defaults]\n{first}\n", f"[targets.gpu.defaults]\n{second}\n")
    table = r"\[targets.gpu.defaults\]" if second else r"\[defaults\]"
    with pytest.raises(ParameterError, match=f"{table}: {named}: the wait of "):
        _place(dag, tmp_path, *texts)
    # Without retries there is no wait.
    off = '[[place]]\nnode = "*"\nretries = 0\n'
    assert {item.retry for item in _place(dag, tmp_path, *texts, off).values()} == {None}


@pytest.mark.parametrize("target", TARGETS)
def test_a_later_file_turns_retries_off(target: str, tmp_path: Path) -> None:
    off = tmp_path / "off.toml"
    off.write_text("[defaults]\nretries = 0\n")
    dag = build(load_recipes(target=target), Settings())
    placed = place(dag, [K8S / "runtime.toml", off], target=target)
    assert {item.retry for item in placed.values()} == {None}


def test_a_later_rule_turns_an_accelerator_off_that_was_counted(dag: Dag, tmp_path: Path) -> None:
    counted = f"{POOLS}[defaults]\n{ON_L4}accelerator_count = 2\n"
    off = '[[place]]\nstep = "*"\naccelerator = "none"\n'
    for item in _place(dag, tmp_path, counted, off).values():
        assert (item.accelerator, item.resource, item.accelerator_count) == ("none", None, 1)


def test_annotations_that_are_too_long_in_sum_are_refused(dag: Dag, tmp_path: Path) -> None:
    first = f'[defaults]\nannotations = {{ a = "{"é" * 65_000}" }}\n'
    assert _place(dag, tmp_path, first)
    second = f'[[place]]\nstep = "evaluate"\nannotations = {{ b = "{"x" * 132_143}" }}\n'
    with pytest.raises(ParameterError, match=r"annotations: (.|\n)*received: 262145 bytes"):
        _place(dag, tmp_path, first, second)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{MEASURE}cpu = 9\n", r"\[\[place\]\] 1: cpu: a machine of pool measure has 8 cores"),
        (
            "[pools.l4]\nmachine_cpu = 8\nmachine_accelerators = 1\n"
            f"[defaults]\n{ON_L4}cpu = 5\naccelerator_count = 2\n",
            r"\[defaults\]: accelerator: a machine of pool l4 has 1",
        ),
        ("[pools.plain]\nmachine_accelerators = 1\n", r"its machines have no accelerator"),
        ("[pools.v5e]\nmachine_accelerators = 1\n", r"the topology says it"),
    ],
)
def test_what_no_machine_of_a_pool_has_is_refused(
    dag: Dag, tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(ParameterError, match=words):
        _place(dag, tmp_path, POOLS, text)


@pytest.mark.parametrize("target", TARGETS)
def test_the_files_that_come_along_say_that_measuring_is_alone(target: str) -> None:
    content = read_runtime(K8S / "runtime.toml")
    dag = build(load_recipes(target=target), Settings(tune_batch=True))
    placed = place(dag, [K8S / "runtime.toml"], target=target)
    by_labels = {str(pool.labels): pool for pool in content.pools.values()}
    for name, item in placed.items():
        if dag.nodes[name].step.machine_dependent:
            pool = by_labels[str(item.labels)]
            # A task takes all chips of a TPU's topology.
            assert pool.machine_cpu or pool.topology
        assert item.security_context.run_as_non_root
