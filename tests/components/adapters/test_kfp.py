"""A step as a Kubeflow component, and what its container does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paring.adapters.kfp import (
    candidate_of_task,
    component,
    kfp_type,
    local_path,
    member_inputs,
    run_executor_input,
)
from paring.artifacts import (
    Artifact,
    BenchmarkMetrics,
    Examples,
    Findings,
    Model,
    PrunedModel,
    Report,
    Selection,
    Servable,
    artifact_types,
    read_record,
    record_digest,
)
from paring.errors import ArtifactTypeError, OutputError, ParameterError, UnsupportedError
from paring.step import Input, Inputs, Output, step


@step(version="3")
def shrink(
    model: Input[Model],
    examples: Input[Examples | None],
    shrunk: Output[PrunedModel],
    *,
    rate: float = 0.5,
    rounds: int = 2,
    thorough: bool = False,
    mode: str = "work",
) -> None:
    """Write what was received."""
    if mode == "unsupported":
        raise UnsupportedError("this layer can't be shrunk")
    shrunk.serving_dir.mkdir()
    received = [rate, rounds, thorough, examples is None]
    (shrunk.serving_dir / "received.json").write_text(json.dumps(received))
    shrunk.sparsity = rate if mode == "work" else float("nan")


@step
def gather(
    models: Inputs[Model], selection: Output[Selection], report: Output[Report], *, note: str = ""
) -> None:
    """Say which members there were."""
    selection.selected = ",".join(f"{key}={item.path.name}" for key, item in sorted(models.items()))
    report.file.write_text(f"<html>{note}</html>")


@step
def weigh(model: Input[Model], metrics: Output[BenchmarkMetrics]) -> None:
    """Give some figures, without the file that Kubeflow would be shown."""
    metrics.p50_ms, metrics.size_bytes = 0.25, 7


def _artifact(uri: Path) -> dict[str, Any]:
    return {"artifacts": [{"name": "7", "uri": str(uri), "type": {"instanceSchema": ""}}]}


def _executor_input(
    root: Path, inputs: dict[str, Path], outputs: list[str], **parameters: object
) -> str:
    (root / "store").mkdir(exist_ok=True)
    return json.dumps(
        {
            "inputs": {
                "parameterValues": parameters,
                "artifacts": {name: _artifact(path) for name, path in inputs.items()},
            },
            "outputs": {
                "artifacts": {name: _artifact(root / "store" / name) for name in outputs},
                "outputFile": str(root / "not" / "there" / "yet.json"),
            },
        }
    )


def _told(root: Path, output: str) -> dict[str, Any]:
    result = json.loads((root / "not" / "there" / "yet.json").read_text())
    metadata: dict[str, Any] = result["artifacts"][output]["artifacts"][0]["metadata"]
    return metadata


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights")
    return path


def test_a_component_has_the_steps_inputs_outputs_and_defaults() -> None:
    spec = component(shrink, image="paring:1").component_spec
    types = {name: item.type for name, item in spec.inputs.items()}
    assert types == {
        "model": "system.Model@0.0.1",
        "examples": "system.Dataset@0.0.1",
        "rate": "Float",
        "rounds": "Integer",
        "thorough": "Boolean",
        "mode": "String",
        "trust_model": "Boolean",
        "signature": "String",
        "source_digest": "String",
    }
    assert {name for name, item in spec.inputs.items() if not item.optional} == {"model"}
    assert (spec.inputs["rate"].default, spec.inputs["rounds"].default) == (0.5, 2)
    assert {name: item.type for name, item in spec.outputs.items()} == {
        "shrunk": "system.Model@0.0.1"
    }


def test_the_container_runs_the_command_line_with_the_steps_identity() -> None:
    container = component(shrink, image="paring:1", tolerate=True).component_spec.implementation
    assert container.container.image == "paring:1"
    assert container.container.command == [
        *("paring", "step", "shrink", "--executor-input", "{{$}}"),
        *("--identity", "shrink@3:{{$.inputs.parameters['source_digest']}}"),
        "--tolerate",
    ]


def test_a_component_can_be_used_in_a_users_own_pipeline(tmp_path: Path) -> None:
    from kfp import compiler, dsl

    shrink_task = component(shrink, image="paring:1")

    @dsl.pipeline(name="own")
    def own(uri: str, rate: float) -> None:
        imported = dsl.importer(artifact_uri=uri, artifact_class=dsl.Model)
        first = shrink_task(model=imported.output, rate=rate)
        shrink_task(model=first.outputs["shrunk"], mode=f"{uri}!")

    compiler.Compiler().compile(own, str(tmp_path / "own.yaml"))
    assert "componentInputParameter: rate" in (tmp_path / "own.yaml").read_text()


def test_a_familys_members_get_an_input_each_under_distinct_names() -> None:
    named = member_inputs(gather, {"models": ["a-b", "a_b", "tflite-int8"]})
    assert named == {
        "models__a_b": ("models", "a-b"),
        "models__a_b_2": ("models", "a_b"),
        "models__tflite_int8": ("models", "tflite-int8"),
    }
    made = component(gather, image="i", members={"models": ["a-b", "a_b"]}).component_spec
    assert [name for name in made.inputs if name.startswith("models")] == [
        "models__a_b",
        "models__a_b_2",
    ]
    assert made.outputs["report_html"].type == "system.HTML@0.0.1"


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ParameterError, match="no family 'model'"):
        member_inputs(shrink, {"model": ["a"]})


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("gs://bucket/a/b", "/gcs/bucket/a/b"),
        ("s3://bucket/a", "/s3/bucket/a"),
        ("minio://mlpipeline/v2/artifacts/x", "/minio/mlpipeline/v2/artifacts/x"),
        ("oci://registry/models/digits:1", "/oci/registry_models_digits:1/models"),
        ("/data/model", "/data/model"),
    ],
)
def test_uris_map_to_paths_as_in_the_launcher(uri: str, path: str) -> None:
    assert local_path(uri) == Path(path)


def test_the_step_gets_doubles_as_its_own_types_and_tells_its_facts(
    tmp_path: Path, model: Path
) -> None:
    given = _executor_input(
        tmp_path,
        {"model": model},
        ["shrunk"],
        rate=0.25,
        rounds=3.0,
        thorough=True,
        source_digest="sha256:1",
        **{"pipelinechannel--uri": "injected by the compiler"},
    )
    run_executor_input(shrink, given, identity="shrink@3:sha256:1")
    out = tmp_path / "store" / "shrunk"
    received = json.loads((out / "Format-Serving" / "received.json").read_text())
    assert received == [0.25, 3, True, True]
    record = read_record(out)
    assert record is not None
    assert record["lineage"]["identity"] == "shrink@3:sha256:1"
    result = _told(tmp_path, "shrunk")
    assert result.pop("paring_type") == "PrunedModel"
    assert result.pop("record_digest") == record_digest(out)
    assert result == {"digest": record["digest"], **record["facts"]}
    assert result["digest"].startswith("sha256:")


def test_an_input_with_another_record_than_its_step_wrote_is_refused(
    tmp_path: Path, model: Path
) -> None:
    run_executor_input(shrink, _executor_input(tmp_path, {"model": model}, ["shrunk"]))
    shrunk = tmp_path / "store" / "shrunk"
    given = json.loads(_executor_input(tmp_path, {"model": shrunk}, ["metrics"]))
    # Kubeflow's driver hands on what the launcher has stored of the output.
    given["inputs"]["artifacts"]["model"]["artifacts"][0]["metadata"] = _told(tmp_path, "shrunk")
    run_executor_input(weigh, json.dumps(given))
    record = shrunk / "paring.json"
    record.write_text(record.read_text().replace('"sparsity": 0.5', '"sparsity": 0.9'))
    given["outputs"]["artifacts"]["metrics"]["artifacts"][0]["uri"] += "2"
    with pytest.raises(ArtifactTypeError, match=r"model: the record .* has been changed"):
        run_executor_input(weigh, json.dumps(given))


def test_an_optional_input_may_come_as_an_empty_list(tmp_path: Path, model: Path) -> None:
    given = json.loads(_executor_input(tmp_path, {"model": model}, ["shrunk"]))
    given["inputs"]["artifacts"]["examples"] = {}
    run_executor_input(shrink, json.dumps(given))
    received = tmp_path / "store" / "shrunk" / "Format-Serving" / "received.json"
    assert json.loads(received.read_text())[3] is True


def test_a_tolerated_failure_is_told_in_the_metadata(tmp_path: Path, model: Path) -> None:
    given = _executor_input(tmp_path, {"model": model}, ["shrunk"], mode="unsupported")
    run_executor_input(shrink, given, tolerate=True)
    result = _told(tmp_path, "shrunk")
    assert (result["outcome"], result["reason"]) == ("unsupported", "this layer can't be shrunk")
    assert Model.load(tmp_path / "store" / "shrunk").failure is not None


def test_a_failure_that_is_not_tolerated_tells_nothing(tmp_path: Path, model: Path) -> None:
    given = _executor_input(tmp_path, {"model": model}, ["shrunk"], mode="unsupported")
    with pytest.raises(UnsupportedError):
        run_executor_input(shrink, given)
    assert not (tmp_path / "not").exists()
    assert not any((tmp_path / "store").iterdir())


def test_a_figure_that_json_cannot_hold_is_left_out(tmp_path: Path, model: Path) -> None:
    given = _executor_input(tmp_path, {"model": model}, ["shrunk"], mode="nan")
    run_executor_input(shrink, given)
    assert "sparsity" not in _told(tmp_path, "shrunk")


def test_figures_are_told_as_numbers(tmp_path: Path, model: Path) -> None:
    run_executor_input(weigh, _executor_input(tmp_path, {"model": model}, ["metrics"]))
    result = _told(tmp_path, "metrics")
    assert (result["p50_ms"], result["size_bytes"]) == (0.25, 7)
    texts = {name for name, value in result.items() if isinstance(value, str)}
    assert texts == {"digest", "paring_type", "record_digest"}


def test_a_view_that_cannot_be_made_fails_the_task(tmp_path: Path, model: Path) -> None:
    outputs = ["metrics", "metrics_markdown"]
    with pytest.raises(ArtifactTypeError, match=r"benchmark\.json"):
        run_executor_input(weigh, _executor_input(tmp_path, {"model": model}, outputs))


def test_family_members_get_their_keys_back_and_the_report_is_a_page_too(
    tmp_path: Path, model: Path
) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(b"other")
    members = {"models__a_b": "a-b", "models__a_b_2": "a_b"}
    given = _executor_input(
        tmp_path,
        {"models__a_b": model, "models__a_b_2": other},
        ["selection", "report", "report_html"],
        family_members=json.dumps(members),
        note="seen",
    )
    run_executor_input(gather, given)
    assert _told(tmp_path, "selection")["selected"] == "a-b=model.bin,a_b=other.bin"
    assert (tmp_path / "store" / "report_html").read_text() == "<html>seen</html>"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"outputs": {"artifacts": {"shrunk": {}}}}'])
def test_what_is_no_executor_input_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(ParameterError, match="--executor-input is not Kubeflow's") as caught:
        run_executor_input(shrink, text)
    assert caught.value.remedy


def test_several_artifacts_for_one_input_are_refused(tmp_path: Path, model: Path) -> None:
    given = json.loads(_executor_input(tmp_path, {"model": model}, ["shrunk"]))
    given["inputs"]["artifacts"]["model"]["artifacts"] *= 2
    with pytest.raises(ParameterError, match="takes one artifact"):
        run_executor_input(shrink, json.dumps(given))


def test_an_output_file_that_cannot_be_written_is_named(tmp_path: Path, model: Path) -> None:
    given = _executor_input(tmp_path, {"model": model}, ["shrunk"])
    (tmp_path / "not").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match=r"outputs\.outputFile"):
        run_executor_input(shrink, given)


def test_a_container_starts_without_kfp(tmp_path: Path) -> None:
    code = "import sys, paring.adapters.kfp; print('kfp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("step_name", "node", "candidate"),
    [
        ("prune", "prune-prune-int8", "prune-int8"),
        ("convert_tflite", "convert_tflite-float32", "float32"),
        ("convert_tflite", "convert-tflite-float32", "float32"),
        ("prune", "prune-twice.2", "twice"),
        ("import_model", "import_model", ""),
        ("select", "select", ""),
    ],
)
def test_a_tasks_candidate_is_read_from_its_name(step_name: str, node: str, candidate: str) -> None:
    assert candidate_of_task(step_name, node) == candidate


@pytest.mark.parametrize("kind", artifact_types().values())
def test_every_artifact_with_figures_is_a_table_of_metrics(kind: type[Artifact]) -> None:
    is_model_or_data = issubclass(kind, Servable | Examples)
    has_figures = bool({int, float} & set(kind.fact_types().values())) and not is_model_or_data
    assert (kfp_type(kind).schema_title == "system.Metrics") == (has_figures or kind is Findings)
