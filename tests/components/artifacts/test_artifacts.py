"""Artifacts: records, digests and facts."""

import os
import shutil
from pathlib import Path

import pytest

from paring.artifacts import (
    BenchmarkMetrics,
    Examples,
    Failure,
    Model,
    PrunedModel,
    Servable,
    artifact,
    content_bytes,
    content_digest,
)
from paring.errors import ArtifactTypeError


def _saved(path: Path) -> PrunedModel:
    (path / "Format-Serving").mkdir(parents=True)
    (path / "Format-Serving" / "saved_model.pb").write_bytes(b"graph")
    model = PrunedModel(path, sparsity=0.25, lineage={"step": "prune"})
    model.save()
    return model


def test_a_saved_artifact_loads_as_its_own_type_with_its_facts(tmp_path: Path) -> None:
    saved = _saved(tmp_path / "pruned")
    loaded = Servable.load(tmp_path / "pruned")
    assert loaded == saved
    assert isinstance(loaded, PrunedModel)


def test_a_path_without_a_record_is_taken_as_the_type_asked_for(tmp_path: Path) -> None:
    assert type(Model.load(tmp_path)) is Model


def test_a_record_of_another_type_is_refused_with_both_names(tmp_path: Path) -> None:
    _saved(tmp_path / "pruned")
    with pytest.raises(ArtifactTypeError, match=r"not a Examples[\s\S]*PrunedModel"):
        Examples.load(tmp_path / "pruned")


def test_a_cut_off_record_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path / "pruned")
    record = tmp_path / "pruned" / "paring.json"
    record.write_text(record.read_text()[:20])
    with pytest.raises(ArtifactTypeError, match="not readable"):
        Model.load(tmp_path / "pruned")


def test_a_failure_survives_saving(tmp_path: Path) -> None:
    failure = Failure("unsupported", "prune", "no layer can be pruned")
    PrunedModel(tmp_path, failure=failure).save()
    assert Model.load(tmp_path).failure == failure


def test_facts_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    assert BenchmarkMetrics(tmp_path, p50_ms=1.5).facts() == {"digest": "", "p50_ms": 1.5}
    assert BenchmarkMetrics.fact_types()["peak_memory_bytes"] is int


def test_the_digest_is_of_names_and_bytes_but_not_of_the_record(tmp_path: Path) -> None:
    _saved(tmp_path / "a")
    _saved(tmp_path / "b").sparsity = 0.5
    (tmp_path / "b" / "paring.json").write_text("{}")
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b")
    assert content_bytes(tmp_path / "a") == 5
    (tmp_path / "b" / "Format-Serving" / "saved_model.pb").rename(tmp_path / "b" / "other.pb")
    assert content_digest(tmp_path / "a") != content_digest(tmp_path / "b")


@pytest.fixture
def written(tmp_path: Path) -> PrunedModel:
    folder = tmp_path / "model"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "weights").write_bytes(bytes(100))
    PrunedModel(folder, sparsity=0.5).save()
    return PrunedModel.load(folder)


def test_what_is_as_it_was_written_is_not_read_again(
    written: PrunedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "content_digest", lambda *_: pytest.fail("it is read"))
    written.verify()


@pytest.mark.parametrize("change", ["byte", "added", "removed", "renamed"])
def test_content_that_was_changed_is_refused(written: PrunedModel, change: str) -> None:
    inner = written.path / "inner"
    if change == "byte":
        (inner / "weights").write_bytes(bytes(99) + b"1")
    elif change == "added":
        (inner / "other").write_text("x")
    elif change == "removed":
        (inner / "weights").unlink()
    else:
        (inner / "weights").rename(inner / "other")
    with pytest.raises(ArtifactTypeError, match="changed since it was written"):
        written.verify()


def test_a_byte_changed_without_a_trace_is_found_by_reading(written: PrunedModel) -> None:
    file = written.path / "inner" / "weights"
    before = file.stat().st_mtime_ns
    file.write_bytes(bytes(99) + b"1")
    os.utime(file, ns=(before, before))
    written.verify()
    with pytest.raises(ArtifactTypeError, match="changed since it was written"):
        written.verify(thoroughly=True)


def test_a_copy_is_the_same_whatever_its_times(written: PrunedModel) -> None:
    copy = written.path.with_name("copy")
    shutil.copytree(written.path, copy, copy_function=shutil.copyfile)
    os.utime(copy / "paring.json", ns=(0, 0))
    PrunedModel.load(copy).verify()


def test_a_path_without_a_record_and_a_failure_are_not_verified(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    Model.load(tmp_path).verify(thoroughly=True)
    PrunedModel(tmp_path, failure=Failure("failed", "prune", "x")).save()
    PrunedModel.load(tmp_path).verify(thoroughly=True)
