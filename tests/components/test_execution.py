"""Running a step: records, failures, and what was there before."""

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path

import pytest

from paring.artifacts import (
    Model,
    PrunedModel,
    Selection,
    content_digest,
    read_record,
    record_digest,
)
from paring.errors import (
    ArtifactTypeError,
    MissingDependencyError,
    ModelError,
    OutputError,
    ParameterError,
    StepFailedError,
    UnsupportedError,
)
from paring.execution import Call, execute
from paring.step import Attempted, Input, Inputs, Output, step
from paring.system import interruption


@step(version="7")
def copy(model: Input[Model], pruned: Output[PrunedModel], *, mode: str = "work") -> None:
    """Copy a file, or fail in the requested way."""
    (pruned.path / "half").write_text("half")
    if mode == "unsupported":
        raise UnsupportedError("this layer can't be pruned")
    if mode == "crash":
        raise ZeroDivisionError("by zero")
    if mode == "interrupt":
        raise KeyboardInterrupt
    if mode == "wrapped interrupt":
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("while running a stage") from error
    (pruned.path / "model").write_text(content_digest(model.path))
    pruned.sparsity = 0.5


@step
def gather(models: Inputs[Model], selection: Output[Selection]) -> None:
    """Say what became of each member."""
    outcomes = {
        key: item.failure.outcome if item.failure else "made" for key, item in models.items()
    }
    selection.selected = ",".join(f"{key}={outcome}" for key, outcome in sorted(outcomes.items()))


@step
def look(model: Attempted[Model], selection: Output[Selection]) -> None:
    """Say what became of the model."""
    selection.selected = model.failure.outcome if model.failure else "made"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.model"
    path.write_bytes(b"weights")
    return path


def _call(source: Path, out: Path, mode: str = "work", *, tolerate: bool = False) -> Call:
    return Call({"model": source}, {"pruned": out}, {"mode": mode}, tolerate, identity="abc")


def test_the_record_says_from_which_bytes_and_by_which_step(source: Path, tmp_path: Path) -> None:
    made = execute(copy, _call(source, tmp_path / "out"))["pruned"]
    assert made.path == tmp_path / "out"
    assert made.digest == content_digest(tmp_path / "out")
    record = read_record(tmp_path / "out")
    assert record is not None
    assert record["facts"]["sparsity"] == 0.5
    lineage = record["lineage"]
    assert (lineage["step"], lineage["version"], lineage["identity"]) == ("copy", "7", "abc")
    assert lineage["parameters"] == {"mode": "work", "trust_model": False, "signature": ""}
    assert lineage["inputs"]["model"]["digest"] == content_digest(source)
    assert lineage["environment"]["numpy"] != "absent"


@step
def train(model: Input[Model], pruned: Output[PrunedModel], *, strategy: str = "auto") -> None:
    """Stand for a step that trains, and imports TensorFlow for that."""
    raise AssertionError(f"strategy {strategy}: TensorFlow was imported")


def test_a_tpu_that_is_not_there_is_an_error_before_anything_is_imported(
    source: Path, tmp_path: Path
) -> None:
    call = Call({"model": source}, {"pruned": tmp_path / "out"}, {"strategy": "tpu"})
    with pytest.raises(MissingDependencyError, match="there is no TPU"):
        execute(train, call)
    # To a pipeline it is the failure of this candidate.
    made = execute(train, dataclasses.replace(call, tolerate=True))["pruned"]
    assert made.failure is not None
    assert "there is no TPU" in made.failure.reason


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nvidia-l4", "requests nvidia-l4: there is no NVIDIA GPU"),
        ("tpu-v5e", "requests tpu-v5e: there is no TPU"),
    ],
)
def test_an_accelerator_that_is_requested_and_not_there_ends_a_step_before_it_begins(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PARING_ACCELERATOR", name)
    # Not a failure of the candidate: another machine may have the accelerator.
    with pytest.raises(MissingDependencyError, match=f"PARING_ACCELERATOR {words}") as caught:
        execute(copy, _call(source, tmp_path / "out", tolerate=True))
    assert caught.value.remedy
    assert not (tmp_path / "out").exists()


def test_an_accelerator_that_is_none_is_an_error_of_the_variable(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARING_ACCELERATOR", "gpu")
    with pytest.raises(ParameterError, match="PARING_ACCELERATOR: must be a GPU as nvidia-l4"):
        execute(copy, _call(source, tmp_path / "out"))
    monkeypatch.setenv("PARING_ACCELERATOR", "none")
    execute(copy, _call(source, tmp_path / "out"))


def test_lineage_reaches_back_through_every_step(source: Path, tmp_path: Path) -> None:
    execute(copy, _call(source, tmp_path / "one"))
    execute(copy, _call(tmp_path / "one", tmp_path / "two"))
    record = read_record(tmp_path / "two")
    assert record is not None
    before = record["lineage"]["inputs"]["model"]
    assert before["type"] == "PrunedModel"
    assert before["lineage"]["inputs"]["model"]["path"] == str(source)


@pytest.mark.parametrize("change", ["edited", "removed"])
def test_an_input_with_another_record_than_expected_is_refused(
    source: Path, tmp_path: Path, change: str
) -> None:
    item, two = tmp_path / "one", tmp_path / "two"
    execute(copy, _call(source, item))
    call = dataclasses.replace(_call(item, two), records={item: record_digest(item)})
    execute(copy, call)
    record = item / "paring.json"
    if change == "edited":
        record.write_text(record.read_text().replace("0.5", "0.9"))
    else:
        record.unlink()
    with pytest.raises(ArtifactTypeError, match=r"model: the record .* has been changed"):
        execute(copy, call)


@pytest.mark.parametrize("mode", ["unsupported", "crash", "interrupt"])
def test_what_was_there_before_a_failure_is_untouched(
    source: Path, tmp_path: Path, mode: str
) -> None:
    out = tmp_path / "out"
    execute(copy, _call(source, out))
    before = content_digest(out)
    with pytest.raises((UnsupportedError, ZeroDivisionError, KeyboardInterrupt)):
        execute(copy, _call(source, out, mode))
    assert content_digest(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source.model"]


@step
def complain(model: Input[Model], pruned: Output[PrunedModel], *, library: bool = False) -> None:
    """Fail with the path of the output in the message."""
    file = pruned.path / "file"
    if library:
        raise ValueError(f"{file} is wrong\nattr {{\n  key: 'T'\n}}")
    raise ModelError(f"{file} is wrong", received=file, remedy=f"look into {file}")


@pytest.mark.parametrize("library", [False, True])
def test_messages_name_the_output_and_not_where_it_is_staged(
    source: Path, tmp_path: Path, library: bool
) -> None:
    call = Call({"model": source}, {"pruned": tmp_path / "out"}, {"library": library})
    if not library:
        with pytest.raises(ModelError) as raised:
            execute(complain, call)
        assert str(raised.value).count(str(tmp_path / "out" / "file")) == 3
        assert ".partial-" not in str(raised.value)
    failure = execute(complain, dataclasses.replace(call, tolerate=True))["pruned"].failure
    assert failure is not None
    assert f"{tmp_path / 'out' / 'file'} is wrong" in failure.reason
    assert ".partial-" not in failure.reason
    assert "attr" not in failure.reason


def test_an_earlier_output_is_replaced(source: Path, tmp_path: Path) -> None:
    execute(copy, _call(source, tmp_path / "out"))
    source.write_bytes(b"other weights")
    execute(copy, _call(source, tmp_path / "out"))
    assert (tmp_path / "out" / "model").read_text() == content_digest(source)


def test_a_folder_of_somebody_elses_is_not_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years")
    with pytest.raises(OutputError, match="did not write"):
        execute(copy, _call(source, tmp_path / "out"))
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("out", [Path(), Path("/"), Path("..")])
def test_the_working_folder_and_the_root_are_not_replaced(
    out: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty" / "inner"
    empty.mkdir(parents=True)
    monkeypatch.chdir(empty)
    with pytest.raises(OutputError, match="this folder can't be replaced"):
        execute(copy, _call(source, out))
    assert empty.is_dir()


@pytest.mark.parametrize(("mode", "outcome"), [("unsupported", "unsupported"), ("crash", "failed")])
def test_a_tolerated_failure_is_recorded_and_passed_on(
    source: Path, tmp_path: Path, mode: str, outcome: str
) -> None:
    made = execute(copy, _call(source, tmp_path / "out", mode, tolerate=True))["pruned"]
    assert made.failure is not None
    assert (made.failure.outcome, made.failure.step) == (outcome, "copy")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["paring.json"]

    after = execute(copy, _call(tmp_path / "out", tmp_path / "next", tolerate=True))["pruned"]
    assert after.failure == made.failure
    with pytest.raises(StepFailedError, match="could not be made"):
        execute(copy, _call(tmp_path / "out", tmp_path / "next"))


@pytest.mark.parametrize(("mode", "outcome"), [("unsupported", "unsupported"), ("work", "made")])
def test_a_step_that_asks_for_an_attempt_sees_its_failure(
    source: Path, tmp_path: Path, mode: str, outcome: str
) -> None:
    execute(copy, _call(source, tmp_path / "out", mode, tolerate=True))
    call = Call({"model": tmp_path / "out"}, {"selection": tmp_path / "selection"})
    assert execute(look, call)["selection"].facts()["selected"] == outcome


def test_a_family_is_handed_its_failed_members(source: Path, tmp_path: Path) -> None:
    execute(copy, _call(source, tmp_path / "good"))
    execute(copy, _call(source, tmp_path / "bad", "unsupported", tolerate=True))
    models = {"good": tmp_path / "good", "bad": tmp_path / "bad"}
    made = execute(gather, Call({"models": models}, {"selection": tmp_path / "sel"}))
    assert isinstance(made["selection"], Selection)
    assert made["selection"].selected == "bad=unsupported,good=made"


def test_missing_and_unknown_names_are_refused(source: Path, tmp_path: Path) -> None:
    out = {"pruned": tmp_path / "out"}
    with pytest.raises(ParameterError, match="needs input model"):
        execute(copy, Call({}, out))
    with pytest.raises(ParameterError, match="did you mean 'model'"):
        execute(copy, Call({"modle": source}, out))
    with pytest.raises(ParameterError, match="needs output pruned"):
        execute(copy, Call({"model": source}, {}))
    with pytest.raises(ParameterError, match="path does not exist"):
        execute(copy, Call({"model": tmp_path / "absent"}, out))


def test_an_output_below_a_file_is_refused(source: Path) -> None:
    with pytest.raises(OutputError, match="can't be written"):
        execute(copy, _call(source, source / "out"))


def test_a_worker_that_does_not_lead_is_refused_what_it_takes_no_part_in(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = {"worker": ["one:2222", "two:2222"]}
    for index in (0, 1):
        task = {"type": "worker", "index": index}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
        call = _call(source, tmp_path / str(index))
        if index == 0:
            execute(copy, call)
        else:
            with pytest.raises(ParameterError, match="copy runs on the first alone"):
                execute(copy, call)
    assert (tmp_path / "0").exists()
    assert not (tmp_path / "1").exists()


def test_an_interruption_that_a_library_has_wrapped_is_no_tolerated_failure(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    with pytest.raises(KeyboardInterrupt), interruption.handle_interrupts():
        execute(copy, _call(source, tmp_path / "out", "wrapped interrupt", tolerate=True))
    assert [path.name for path in tmp_path.iterdir()] == ["source.model"]
