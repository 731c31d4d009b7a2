"""Artifacts: records, digests and facts."""

import json
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
    TFLiteModel,
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


@pytest.mark.parametrize(
    "failure",
    [
        {"outcome": "selected", "step": "prune", "reason": "none"},
        {"outcome": "failed", "step": "prune", "reason": 3},
        {"outcome": "failed"},
        "failed",
    ],
)
def test_a_failure_that_is_none_is_a_broken_record(tmp_path: Path, failure: object) -> None:
    PrunedModel(tmp_path).save()
    record = json.loads((tmp_path / "paring.json").read_text())
    (tmp_path / "paring.json").write_text(json.dumps(record | {"failure": failure}))
    with pytest.raises(ArtifactTypeError, match="not the record of a PrunedModel"):
        Model.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_facts_that_are_not_finite_count_as_not_measured(tmp_path: Path, value: float) -> None:
    PrunedModel(tmp_path, size_bytes=7, sparsity=value).save()
    loaded = PrunedModel.load(tmp_path)
    assert (loaded.size_bytes, loaded.sparsity) == (7, None)


def test_facts_that_were_not_measured_are_left_out(tmp_path: Path) -> None:
    assert BenchmarkMetrics(tmp_path, p50_ms=1.5).facts() == {"p50_ms": 1.5}
    assert BenchmarkMetrics.fact_types()["peak_memory_bytes"] is int


def test_facts_keep_their_types_through_the_record(tmp_path: Path) -> None:
    layers = ("conv, 3x3 (Conv2D)", "dense; 1 (Dense)")
    PrunedModel(tmp_path, sparsity=1, unpruned_layers=layers).save()
    record = json.loads((tmp_path / "paring.json").read_text())
    assert record["facts"]["unpruned_layers"] == list(layers)
    loaded = PrunedModel.load(tmp_path)
    assert (loaded.unpruned_layers, loaded.sparsity, loaded.not_reached) == (layers, 1, ())
    assert PrunedModel.fact_types()["unpruned_layers"] is tuple

    TFLiteModel(tmp_path, holds_state=True).save()
    assert TFLiteModel.load(tmp_path).holds_state is True
    assert TFLiteModel.fact_types()["holds_state"] is bool


def test_the_digest_is_stated_beside_the_facts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    saved = PrunedModel(tmp_path)
    saved.save()
    record = json.loads((tmp_path / "paring.json").read_text())
    assert record["digest"] == content_digest(tmp_path) == PrunedModel.load(tmp_path).digest
    assert "digest" not in record["facts"]
    assert "digest" not in PrunedModel.fact_types()


def test_facts_are_written_before_details(tmp_path: Path) -> None:
    metrics = BenchmarkMetrics(tmp_path, p50_ms=1.5, speedup=2.0)
    metrics.write_facts(metrics.file, {"batch_size": 1})
    written = json.loads(metrics.file.read_text())
    assert list(written.items()) == [("p50_ms", 1.5), ("speedup", 2.0), ("batch_size", 1)]


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


@pytest.mark.parametrize("change", ["byte", "added", "removed", "renamed", "link"])
def test_content_whose_times_were_set_back_is_refused(written: PrunedModel, change: str) -> None:
    inner, file = written.path / "inner", written.path / "inner" / "weights"
    before = inner.stat().st_mtime_ns
    if change == "byte":
        file.write_bytes(bytes(99) + b"1")
    elif change == "added":
        (inner / "other").write_text("x")
    elif change == "removed":
        file.unlink()
    elif change == "renamed":
        file.rename(inner / "other")
    else:
        file.rename(written.path.with_name("elsewhere"))
        file.symlink_to(written.path.with_name("elsewhere"))
    for place in (*inner.iterdir(), inner):
        os.utime(place, ns=(before, before), follow_symlinks=False)
    with pytest.raises(ArtifactTypeError):
        written.verify()


def test_a_byte_changed_without_a_trace_is_found_by_reading(
    written: PrunedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    (written.path / "inner" / "weights").write_bytes(bytes(99) + b"1")
    # As a fault of the disk would leave it, which changes no time.
    monkeypatch.setattr(artifact, "_newest", lambda folder: 0)
    written.verify()
    with pytest.raises(ArtifactTypeError, match="changed since it was written"):
        written.verify(thoroughly=True)


def test_what_was_renamed_to_its_place_is_not_read_again(
    written: PrunedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = written.path.rename(written.path.with_name("place"))
    monkeypatch.setattr(artifact, "content_digest", lambda *_: pytest.fail("it is read"))
    PrunedModel.load(place).verify()


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


def test_highlights_are_the_marked_facts_that_are_known(tmp_path: Path) -> None:
    pruned = PrunedModel(tmp_path, size_bytes=12_345, sparsity=0.5, unpruned_layers=("head",))
    assert pruned.highlights == {"size_bytes": "12,345 bytes", "sparsity": "50% zeros"}
    assert PrunedModel(tmp_path).highlights == {}


def test_a_marked_fact_is_a_fact_like_any_other(tmp_path: Path) -> None:
    assert PrunedModel.fact_types()["sparsity"] is float
    assert PrunedModel.fact_types()["size_bytes"] is int
    PrunedModel(tmp_path, sparsity=0.5).save()
    assert PrunedModel.load(tmp_path).sparsity == 0.5
