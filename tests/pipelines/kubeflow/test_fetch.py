"""Download of the results of a finished run on the cluster."""

from dataclasses import replace
from pathlib import Path

import pytest

from paring.artifacts import Artifact, Report, SelectedModel, Selection, content_digest
from paring.errors import ClusterError, OutputError, ParameterError, StorageError
from paring.storage import join, put, write_text
from paring_pipelines.kubeflow.fetch import fetch_run
from paring_pipelines.kubeflow.types import Run

RUN_ID = "4b5f7d1e-0000-4000-8000-000000000001"
SALT = "0a1b2c3d-0000-4000-8000-000000000002"


def _run(root: str, state: str = "SUCCEEDED") -> Run:
    return Run(
        id=RUN_ID,
        name="paring-optimize-a-b",
        state=state,
        created=None,
        finished=None,
        error="",
        pipeline="paring-optimize",
        pipeline_root=root,
    )


def _leave(root: str, folder: Path, salt: str = "", text: str = "weights") -> None:
    """Outputs as Kubeflow's launcher uploads them."""
    made: dict[str, tuple[str, Artifact]] = {
        "selected": ("select", SelectedModel(folder / "selected")),
        "selection": ("select", Selection(folder / "selection")),
        "report": ("report", Report(folder / "report")),
    }
    for name, (task, artifact) in made.items():
        artifact.path.mkdir(parents=True)
        files = {"selected": "model.tflite", "selection": "selection.json", "report": "report.html"}
        (artifact.path / files[name]).write_text(text)
        artifact.save()
        place = [task, salt, name] if salt else [task, name]
        put(artifact.path, join(root, "paring-optimize", RUN_ID, *place))


@pytest.mark.parametrize("salt", ["", SALT])
def test_the_selected_model_and_the_report_come_from_a_store(
    salt: str, bucket: str, tmp_path: Path
) -> None:
    root = f"s3://{bucket}/v2/artifacts"
    _leave(root, tmp_path / "made", salt)
    fetched = fetch_run(_run(root), tmp_path / "out")
    assert (fetched.selected / "model.tflite").read_text() == "weights"
    assert SelectedModel.load(fetched.selected).digest == content_digest(fetched.selected)
    assert fetched.selection.read_text() == fetched.report.read_text() == "weights"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "selected",
        "selection.json",
    ]


def test_a_later_run_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    _leave(root, tmp_path / "first")
    fetch_run(_run(root), tmp_path / "out")
    _leave(root, tmp_path / "second", text="other")
    assert fetch_run(_run(root), tmp_path / "out").report.read_text() == "other"


def test_what_came_through_broken_is_refused_and_what_was_there_stays(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    _leave(root, tmp_path / "made")
    fetch_run(_run(root), tmp_path / "out")
    place = join(root, "paring-optimize", RUN_ID, "select", "selected", "model.tflite")
    write_text(place, "cut off")
    with pytest.raises(StorageError, match="changed since it was written"):
        fetch_run(_run(root), tmp_path / "out")
    assert (tmp_path / "out" / "selected" / "model.tflite").read_text() == "weights"


def test_a_run_that_has_not_succeeded_has_nothing_to_fetch(tmp_path: Path) -> None:
    for state, remedy in (("RUNNING", "wait"), ("FAILED", "paring status"), ("", "wait")):
        with pytest.raises(ClusterError) as raised:
            fetch_run(_run(str(tmp_path), state), tmp_path / "out")
        assert remedy in raised.value.remedy


def test_where_nobody_says_where_it_lies_the_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="--pipeline-root"):
        fetch_run(_run(""), tmp_path / "out")
    unnamed = replace(_run(str(tmp_path)), pipeline="")
    with pytest.raises(ParameterError, match="--pipeline NAME"):
        fetch_run(unnamed, tmp_path / "out")


def test_what_kubeflow_took_from_its_cache_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cache"):
        fetch_run(_run(str(tmp_path / "root")), tmp_path / "out")


def test_a_folder_of_someone_elses_is_left_alone(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    _leave(root, tmp_path / "made")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(OutputError):
        fetch_run(_run(root), tmp_path / "out")
