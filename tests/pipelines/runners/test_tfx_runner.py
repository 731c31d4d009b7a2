"""The runner on TFX: who runs the nodes, and what is reported of them."""

from pathlib import Path

import pytest

from paring.artifacts import Artifact, Model, artifact, content_digest
from paring.errors import ArtifactTypeError, ModelError, OutputError
from paring.execution import Call, execute
from paring.step import Step
from paring.steps.import_model import import_model
from paring.system import logs
from paring_pipelines.pipeline.dag import Dag
from paring_pipelines.pipeline.settings import RunnerName
from paring_pipelines.runners.base import NodeEvent, RunResult
from paring_pipelines.runners.tfx import TFXRunner

DIGESTS = {"model": "sha256:1"}


def _dag() -> Dag:
    dag = Dag("small", {"model": Model})
    first = dag.add("import_model", import_model, {"original": dag.source("model")})
    dag.add("again", import_model, {"original": first.out("model")}, candidate="int8")
    return dag


@pytest.mark.parametrize("kind", ["local", "beam"])
def test_steps_are_run_by_whom_the_runner_was_given_and_their_nodes_reported(
    tmp_path: Path, kind: RunnerName
) -> None:
    dag, events, known = _dag(), list[NodeEvent](), list[object]()

    def execute(step: Step, call: Call) -> dict[str, Artifact]:
        known.append(logs.known().get("candidate"))
        made = Model(call.outputs["model"], size_bytes=9)
        made.save()
        return {"model": made}

    runner = TFXRunner(
        {"model": tmp_path}, DIGESTS, root=tmp_path / "root", kind=kind, execute=execute
    )
    identities = dag.identities(DIGESTS, "here")
    result = runner.run(dag, identities, events.append)
    nodes = list(dag.nodes.values())
    assert [event.node for event in events] == [nodes[0], nodes[0], nodes[1], nodes[1]]
    assert [event.is_start for event in events] == [True, False, True, False]
    assert known == [None, "int8"]
    assert result.nodes == 2
    assert result.cached == []
    assert Model.load(result.outputs["again"]["model"]).size_bytes == 9

    again = runner.run(dag, identities, events.append)
    assert again.cached == ["import_model", "again"]
    assert again.outputs == result.outputs
    assert len(events) == 4


@pytest.mark.parametrize("kind", ["local", "beam"])
def test_a_record_that_is_changed_while_a_run_goes_on_is_an_error_and_made_again(
    tmp_path: Path, kind: RunnerName
) -> None:
    dag, paths = _dag(), list[Path]()

    def execute_and_remember(step: Step, call: Call) -> dict[str, Artifact]:
        if paths:
            return execute(step, call)
        made = Model(call.outputs["model"], size_bytes=9)
        made.path.mkdir(parents=True, exist_ok=True)
        made.save()
        paths.append(made.path)
        return {"model": made}

    def edit(event: NodeEvent) -> None:
        if event.is_start and event.node.id == "again":
            record = paths[0] / "paring.json"
            record.write_text(record.read_text().replace('"size_bytes": 9', '"size_bytes": 1'))

    runner = TFXRunner(
        *({"model": tmp_path}, DIGESTS),
        root=tmp_path / "root",
        kind=kind,
        execute=execute_and_remember,
    )
    identities = dag.identities(DIGESTS, "here")
    with pytest.raises(ArtifactTypeError, match="changed since its step wrote it"):
        runner.run(dag, identities, edit)
    events = list[NodeEvent]()
    paths.clear()
    with pytest.raises(ModelError):
        # The first node runs again; what it makes here is no model that can be imported.
        runner.run(dag, identities, events.append)
    assert [item.node.id for item in events] == ["import_model"] * 2 + ["again"] * 2


def test_what_a_step_finds_changed_by_reading_is_made_again_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag, made = _dag(), list[Path]()

    def execute(step: Step, call: Call) -> dict[str, Artifact]:
        source = call.inputs["original"]
        assert isinstance(source, Path)
        Model.load(source).verify(thoroughly=True)
        model = Model(call.outputs["model"])
        (model.path / "weights").write_bytes(bytes(9))
        model.save()
        made.append(model.path)
        return {"model": model}

    def run(digest: str) -> RunResult:
        runner = TFXRunner({"model": tmp_path / "source"}, DIGESTS, root=root, execute=execute)
        identities = dag.identities(DIGESTS, "here")
        return runner.run(dag, identities | {"again": digest})

    root = tmp_path / "root"
    (tmp_path / "source").mkdir()
    run("first")
    (made[0] / "weights").write_bytes(bytes(8) + b"1")
    # As a fault of the disk would leave it, which changes no time.
    monkeypatch.setattr(artifact, "_newest", lambda folder: 0)
    with pytest.raises(ArtifactTypeError, match="has been changed"):
        run("second")
    assert run("second").cached == []
    assert len(made) == 4


@pytest.mark.parametrize("kind", ["local", "beam"])
def test_a_source_that_is_changed_after_the_start_of_a_run_is_an_error(
    tmp_path: Path, kind: RunnerName
) -> None:
    dag, source = _dag(), tmp_path / "source.keras"
    source.write_bytes(b"first")
    digests = {"model": content_digest(source)}
    source.write_bytes(b"second")
    runner = TFXRunner({"model": source}, digests, root=tmp_path / "root", kind=kind)
    with pytest.raises(ModelError, match="changed since the run was started"):
        runner.run(dag, dag.identities(digests, "here"))


@pytest.mark.parametrize("change", ["overwritten", "cut off", "a folder"])
def test_a_broken_metadata_store_is_named_with_what_to_remove(tmp_path: Path, change: str) -> None:
    dag, root = _dag(), tmp_path / "root"

    def execute(step: Step, call: Call) -> dict[str, Artifact]:
        made = Model(call.outputs["model"])
        made.save()
        return {"model": made}

    runner = TFXRunner({"model": tmp_path}, DIGESTS, root=root, execute=execute)
    runner.run(dag, dag.identities(DIGESTS, "here"))
    file = root / "metadata.sqlite"
    content = file.read_bytes()
    if change == "overwritten":
        file.write_bytes(b"junk" * 1000)
    elif change == "cut off":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
        file.mkdir()
    with pytest.raises(OutputError, match="metadata store of earlier runs") as raised:
        runner.run(dag, dag.identities(DIGESTS, "here"))
    assert raised.value.remedy is not None
    assert str(root) in raised.value.remedy


def test_the_error_of_a_node_ends_the_run_and_is_reported(tmp_path: Path) -> None:
    dag, events = _dag(), list[NodeEvent]()

    def execute(step: Step, call: Call) -> dict[str, Artifact]:
        raise ModelError("there is no model")

    runner = TFXRunner(
        {"model": tmp_path}, DIGESTS, root=tmp_path / "root", kind="local", execute=execute
    )
    with pytest.raises(ModelError, match="there is no model") as caught:
        runner.run(dag, dag.identities(DIGESTS, "here"), events.append)
    assert [event.error for event in events] == [None, caught.value]
