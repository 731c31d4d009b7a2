"""Every step through all three adapters: the same declaration, the same result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from tests.conformance.kfp_runner import run_package

from paring.adapters import cli, kfp
from paring.adapters.kfp_views import HTML, views
from paring.artifacts import (
    DEFAULT_SIGNATURE,
    Artifact,
    BenchmarkMetrics,
    EvaluationMetrics,
    Model,
    TFLiteModel,
    read_record,
)
from paring.catalog import STEPS
from paring.step import SIGNATURE, TRUST_ENGINE, InputSpec, Step
from paring_pipelines.pipeline.dag import Dag

KEYS = ("source", "tflite-int8")
RUNTIME = Path(__file__).parents[3] / "k8s" / "runtime.toml"

_KFP_PARAMETERS = {str: "String", int: "Integer", float: "Float", bool: "Boolean"}
_OURS = {kfp.SOURCE_DIGEST, kfp.FAMILY_MEMBERS}


@pytest.fixture(params=STEPS.values(), ids=STEPS.keys())
def step(request: pytest.FixtureRequest) -> Step:
    declared: Step = request.param
    return declared


def test_the_command_has_what_the_step_declares(step: Step) -> None:
    options = {
        item.name: item for item in cli.command(step).params if isinstance(item, click.Option)
    }
    own = ("executor_input", "identity", "tolerate", "step_time_limit", "step_memory_limit")
    for name in own:
        options.pop(name)
    assert list(options) == [*step.inputs, *step.outputs, *step.parameters]
    for name, spec in step.inputs.items():
        assert options[name].multiple == spec.family
        assert spec.type.__name__ in (options[name].help or "")
    for name, kind in step.outputs.items():
        assert kind.__name__ in (options[name].help or "")
    for name, parameter in step.parameters.items():
        option = options[name]
        if parameter.type is bool:
            assert (option.is_flag, option.default) == (True, parameter.default)
        else:
            # The default of a general option is a word of its text.
            shown = DEFAULT_SIGNATURE if name == SIGNATURE else f"[default: {parameter.default!r}]"
            assert shown in (option.help or "")
            expected = "|".join(parameter.choices) or parameter.type.__name__.upper()
            assert option.metavar == expected


def test_the_tfx_component_has_what_the_step_declares(step: Step) -> None:
    from tfx import types
    from tfx.types import standard_artifacts

    from paring.adapters import tfx

    def channel(spec: InputSpec) -> Any:
        made = types.Channel(type=tfx.tfx_type(spec.type))
        return dict.fromkeys(KEYS, made) if spec.family else made

    made = tfx.component(step, **{name: channel(spec) for name, spec in step.inputs.items()})
    assert {name: item.type for name, item in made.inputs.items()} == {
        key: tfx.tfx_type(spec.type)
        for name, spec in step.inputs.items()
        for key in ([f"{name}__{member}" for member in KEYS] if spec.family else [name])
    }
    blessing = {tfx.BLESSING: standard_artifacts.ModelBlessing} if step.name == "select" else {}
    assert {name: item.type for name, item in made.outputs.items()} == {
        name: tfx.tfx_type(kind) for name, kind in step.outputs.items()
    } | blessing
    properties = {
        name: value
        for name, value in made.exec_properties.items()
        if not name.startswith("paring_")
    }
    assert properties == {name: item.default for name, item in step.parameters.items()}
    for name, parameter in step.parameters.items():
        stored = int if parameter.type is bool else parameter.type
        assert type(properties[name]) is stored


def test_the_kfp_component_has_what_the_step_declares(step: Step) -> None:
    members = {name: KEYS for name, spec in step.inputs.items() if spec.family}
    spec = kfp.component(step, image="paring:1", members=members).component_spec
    inputs = {name: item for name, item in (spec.inputs or {}).items() if name not in _OURS}
    expected: dict[str, str] = {}
    for name, item in step.inputs.items():
        names = [f"{name}__source", f"{name}__tflite_int8"] if item.family else [name]
        expected |= dict.fromkeys(names, _kfp_type(item.type))
        assert all(inputs[key].optional == item.optional for key in names)
    for name, parameter in step.parameters.items():
        expected[name] = _KFP_PARAMETERS[parameter.type]
        assert inputs[name].default == parameter.default
        assert type(inputs[name].default) is parameter.type
    assert {name: item.type for name, item in inputs.items()} == expected
    outputs = {name: item.type for name, item in spec.outputs.items()}
    assert {name: outputs[name] for name in step.outputs} == {
        name: _kfp_type(kind) for name, kind in step.outputs.items()
    }
    shown = {
        name + view.suffix: f"system.{'HTML' if view.suffix == HTML else 'Markdown'}@0.0.1"
        for name, kind in step.outputs.items()
        for view in views(kind)
    }
    assert {name: outputs[name] for name in outputs if name not in step.outputs} == shown


def _kfp_type(kind: type[Artifact]) -> str:
    made = kfp.kfp_type(kind)
    return f"{made.schema_title}@{made.schema_version}"


def _candidate(folder: Path, name: str, made: Artifact, content: bytes) -> Path:
    made.path = folder / name
    serving = made.path / "Format-Serving"
    serving.mkdir(parents=True)
    (serving / "model").write_bytes(content)
    made.save()
    return made.path


def _figures(folder: Path, name: str, made: Artifact) -> Path:
    made.path = folder / name
    made.path.mkdir()
    made.save()
    return made.path


@pytest.fixture
def families(tmp_path: Path) -> dict[str, dict[str, Path]]:
    """Inputs of `select`, with made-up figures: int8 is twice as fast."""
    folder = tmp_path / "given"
    lite = TFLiteModel(folder, size_bytes=40, quantization="int8", gzip_bytes=30)
    times = {"source_p50_ms": 2.0, "peak_memory_bytes": 9, "gzip_bytes": 30}
    slow = BenchmarkMetrics(
        folder, p50_ms=2.0, speedup=1.0, speedup_low=0.9, speedup_high=1.1, size_bytes=90, **times
    )
    fast = BenchmarkMetrics(
        folder, p50_ms=1.0, speedup=2.0, speedup_low=1.9, speedup_high=2.1, size_bytes=40, **times
    )
    right = EvaluationMetrics(folder, count=9, accuracy=0.9, source_accuracy=0.9, agreement=1.0)
    right.metric, right.score, right.source_score, right.drop = "top_1", 0.9, 0.9, 0.0
    return {
        "candidates": {
            "source": _candidate(folder, "model", Model(folder, size_bytes=90), b"m" * 90),
            "tflite-int8": _candidate(folder, "lite", lite, b"l" * 40),
        },
        "benchmarks": {
            "source": _figures(folder, "slow", slow),
            "tflite-int8": _figures(folder, "fast", fast),
        },
        "evaluations": {
            "source": _figures(folder, "right", right),
            "tflite-int8": _figures(folder, "right-too", right),
        },
    }


PARAMETERS = {"max_latency_ms": 5.5, "objective": "size"}


def _dag(families: Mapping[str, Mapping[str, Path]]) -> tuple[Dag, dict[str, Path]]:
    """A Dag of `select` alone, and the paths of its sources."""
    sources: dict[str, type[Artifact]] = {}
    paths: dict[str, Path] = {}
    for family, members in families.items():
        for key, path in members.items():
            name = f"{family}_{key.replace('-', '_')}"
            sources[name], paths[name] = type(Artifact.load(path)), path
    dag = Dag("contract", sources)
    wires = {
        family: {key: dag.source(f"{family}_{key.replace('-', '_')}") for key in members}
        for family, members in families.items()
    }
    dag.add("select", STEPS["select"], wires, PARAMETERS)
    return dag, paths


def _by_command(families: Mapping[str, Mapping[str, Path]], root: Path) -> dict[str, Path]:
    step = STEPS["select"]
    arguments = [
        f"--{family}={key}={path}"
        for family, members in families.items()
        for key, path in members.items()
    ]
    arguments += [f"--{name.replace('_', '-')}={value}" for name, value in PARAMETERS.items()]
    arguments += [f"--{name}={root / name}" for name in step.outputs]
    done = CliRunner().invoke(cli.command(step), arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return {name: root / name for name in step.outputs}


def _by_tfx(families: Mapping[str, Mapping[str, Path]], root: Path) -> dict[str, Path]:
    from tfx import v1

    from paring.adapters import tfx

    dag, paths = _dag(families)
    importers = {
        name: v1.dsl.Importer(
            source_uri=str(paths[name]), artifact_type=tfx.tfx_type(kind)
        ).with_id(name)
        for name, kind in dag.sources.items()
    }
    channels = {
        family: {key: importers[edge.node].outputs["result"] for key, edge in wire.items()}
        for family, wire in dag.nodes["select"].inputs.items()
        if isinstance(wire, Mapping)
    }
    made = tfx.component(STEPS["select"], **channels, **PARAMETERS)
    pipeline = v1.dsl.Pipeline(
        pipeline_name=dag.name,
        pipeline_root=str(root / "artifacts"),
        components=[*importers.values(), made],
        metadata_connection_config=v1.orchestration.metadata.sqlite_metadata_connection_config(
            str(root / "metadata.sqlite")
        ),
    )
    v1.orchestration.LocalDagRunner().run(pipeline)
    made_at = root / "artifacts" / "select"
    return {name: next((made_at / name).iterdir()) for name in STEPS["select"].outputs}


def _by_kfp(families: Mapping[str, Mapping[str, Path]], root: Path) -> dict[str, Path]:
    from paring_pipelines.kubeflow.compile import compile_dag
    from paring_pipelines.kubeflow.placement_rules import place

    dag, paths = _dag(families)
    placements = place(dag, [RUNTIME], target="cpu-server")
    compile_dag(dag, root / "package.yaml", image="paring:1", placements=placements)
    run = run_package(
        root / "package.yaml",
        root / "artifacts",
        {f"{name}_uri": str(path) for name, path in paths.items()},
    )
    assert "`tflite-int8`" in run.path("select", "selection_markdown").read_text()
    assert "<svg" in run.path("select", "selection_html").read_text()
    return {name: run.path("select", name) for name in STEPS["select"].outputs}


def test_a_step_gives_the_same_records_through_all_adapters(
    tmp_path: Path, families: dict[str, dict[str, Path]]
) -> None:
    by_command = _records(_by_command(families, tmp_path / "cli"))
    assert by_command["selection"]["facts"]["selected"] == "tflite-int8"
    assert by_command["selected"]["lineage"]["parameters"]["max_latency_ms"] == 5.5
    assert _records(_by_tfx(families, tmp_path / "tfx")) == by_command
    assert _records(_by_kfp(families, tmp_path / "kfp")) == by_command


def _records(paths: Mapping[str, Path]) -> dict[str, Any]:
    """The records without what is the caller's own to give: a pipeline trusts its engines."""
    result: dict[str, Any] = {}
    for name, path in paths.items():
        record = read_record(path)
        assert record is not None
        record["lineage"].pop("identity")
        record["lineage"]["parameters"].pop(TRUST_ENGINE)
        result[name] = json.loads(json.dumps(record))
    return result
