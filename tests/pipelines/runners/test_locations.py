"""Models, examples and results in a store: a real S3 server on loopback."""

import json
import shutil
from pathlib import Path

import pytest
from tests.pipelines.conftest import Paring

from paring.artifacts import SelectedModel, content_digest, read_record
from paring.errors import ExamplesError, ModelError, OutputError, ParameterError
from paring.serving.versions import versions
from paring.storage import delete, exists, fetch, list_below, put, read_text, write_text
from paring_pipelines.runners.locations import Destination, destination, fetched, fetched_for_now
from paring_pipelines.runners.session import lock_workspace


@pytest.fixture
def stored(bucket: str, bare_model: Path, digits_npz: Path) -> tuple[str, str]:
    """The URIs of a model and examples."""
    put(bare_model, f"s3://{bucket}/trained/7/model")
    put(digits_npz, f"s3://{bucket}/data/digits.npz")
    return f"s3://{bucket}/trained/7/model", f"s3://{bucket}/data/digits.npz"


def test_results_on_this_machine_are_worked_in_where_they_are(tmp_path: Path) -> None:
    assert destination("here", None) == Destination(Path("here"))
    assert destination(tmp_path.as_uri(), None) == Destination(tmp_path)
    with pytest.raises(ParameterError, match="--work"):
        destination("here", tmp_path)


def test_results_in_a_store_are_worked_for_in_a_folder_here(tmp_path: Path) -> None:
    assert destination("s3://bucket/x/", tmp_path) == Destination(tmp_path, "s3://bucket/x")
    assert destination("s3://bucket/x", None) == Destination(Path("out"), "s3://bucket/x")


def test_sources_on_this_machine_stay_where_they_are(tmp_path: Path) -> None:
    result = fetched("model", (tmp_path / "few.npz").as_uri(), tmp_path / "folder")
    assert result == (Path("model"), tmp_path / "few.npz")
    assert not (tmp_path / "folder").exists()


def test_a_source_is_brought_under_the_parts_of_its_uri(
    stored: tuple[str, str], bucket: str, tmp_path: Path, bare_model: Path, digits_npz: Path
) -> None:
    model, examples = fetched(*stored, tmp_path)
    assert model == tmp_path / "s3" / bucket / "trained" / "7" / "model"
    assert content_digest(model) == content_digest(bare_model)
    assert content_digest(examples) == content_digest(digits_npz)


def test_a_source_is_brought_again_only_when_it_changed(
    stored: tuple[str, str], tmp_path: Path
) -> None:
    _, examples = fetched(*stored, tmp_path)
    before = examples.stat().st_ino
    _, examples = fetched(*stored, tmp_path)
    assert examples.stat().st_ino == before
    # As long as before, and within the same second: the tag tells.
    content = bytearray(examples.read_bytes())
    content[-1] ^= 1
    write_text(stored[1], "")
    (tmp_path / "changed.npz").write_bytes(content)
    put(tmp_path / "changed.npz", stored[1])
    _, examples = fetched(*stored, tmp_path)
    assert examples.read_bytes() == content


def test_a_source_that_is_not_there_is_named(stored: tuple[str, str], tmp_path: Path) -> None:
    for given, error, option in (
        ((f"{stored[0]}-absent", stored[1]), ModelError, "--model"),
        ((stored[0], f"{stored[1]}-absent"), ExamplesError, "--examples"),
    ):
        with pytest.raises(error, match=option) as raised:
            fetched(*given, tmp_path)
        assert raised.value.received.endswith("-absent")


def test_what_is_fetched_for_now_is_gone_afterwards(stored: tuple[str, str]) -> None:
    with fetched_for_now(*stored) as (model, examples):
        assert (model / "saved_model.pb").is_file()
        assert examples.is_file()
    assert not model.exists()
    assert not examples.exists()


def test_a_place_in_a_store_that_is_somebody_elses_is_refused(bucket: str, tmp_path: Path) -> None:
    place = Destination(tmp_path, f"s3://{bucket}/results")
    place.check()
    write_text(f"s3://{bucket}/results/other", "fine")
    place.check()
    write_text(f"s3://{bucket}/results/report.html", "mine")
    with pytest.raises(OutputError, match="did not write") as raised:
        place.check()
    assert f"s3://{bucket}/results (report.html)" in raised.value.received


def test_results_from_which_the_pipeline_was_removed_are_still_ours(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(OutputError, match="did not write"), lock_workspace(tmp_path):
        pass
    (tmp_path / "selection.json").write_text('{"selected": "source"}')
    (tmp_path / "selected" / "Format-Serving").mkdir(parents=True)
    SelectedModel(tmp_path / "selected", candidate="source").save()
    with lock_workspace(tmp_path):
        assert (tmp_path / "pipeline" / "lock").is_file()


@pytest.mark.slow
def test_a_run_from_a_store_into_a_store(
    stored: tuple[str, str], bucket: str, paring: Paring, tmp_path: Path, digits_npz: Path
) -> None:
    recipes = tmp_path / "recipes.toml"
    recipes.write_text('[recipes.float32]\nsteps = [{ step = "convert_tflite" }]\n')
    uri, work = f"s3://{bucket}/results/7", tmp_path / "work"
    given = ("run", "--model", stored[0], "--examples", stored[1], "--recipes", recipes)
    serving = f"s3://{bucket}/serving/digits"
    given += ("--out", uri, "--work", work, "--push-to", serving, "--push-source")
    given += ("--max-accuracy-drop", "1", "--brief")
    code, shown, error = paring(*given)
    assert code == 0, error
    assert uri in shown
    assert f"pushed    {serving}/1\n" in shown
    assert {item.uri.removeprefix(f"{uri}/").split("/")[0] for item in list_below(uri)} == {
        *("report.html", "selection.json", "selected")
    }
    assert read_text(f"{uri}/selection.json") == (work / "selection.json").read_text()
    fetched_to = fetch(f"{uri}/selected", tmp_path)
    record = read_record(fetched_to)
    assert record is not None
    assert record["digest"] == content_digest(fetched_to)
    # The lineage tells where the sources came from.
    assert f"s3/{bucket}/trained/7/model" in json.dumps(record["lineage"])

    # The same bytes at another place are the same work, and a lost result is put back.
    delete(f"{uri}/report.html")
    shutil.rmtree(work / "pipeline" / "sources")
    code, shown, error = paring(*given)
    assert code == 0, error
    assert "11 of 12 nodes were cached" in shown
    assert exists(f"{uri}/report.html")
    # The push is not answered by the cache: it looked, and found the model there.
    assert f"{serving}/1, the newest version already" in shown
    (version,) = versions(serving)
    assert version.candidate == json.loads(read_text(f"{uri}/selection.json"))["selected"]
    assert version.run.startswith("paring ")


def test_advice_on_a_model_in_a_store(stored: tuple[str, str], paring: Paring) -> None:
    code, shown, error = paring("advise", "--model", stored[0], "--examples", stored[1])
    assert code == 0, error
    assert "worth trying" in shown


def test_a_bucket_for_the_results_that_is_not_there_is_named_first(
    stored: tuple[str, str], paring: Paring, tmp_path: Path
) -> None:
    code, _, error = paring(
        *("run", "--model", stored[0], "--examples", stored[1]),
        *("--out", "s3://absent-bucket/results", "--work", tmp_path / "work"),
    )
    assert code == 18
    assert "absent-bucket" in error
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("demo", "--out", "s3://bucket/x"),
        ("compile", "--out", "s3://bucket/x"),
        ("plan", "--recipes", "s3://bucket/x"),
        ("lineage", "s3://bucket/x"),
        ("step", "prune", "--model", "s3://bucket/x"),
        ("step", "select", "--candidates", "source=s3://bucket/x"),
    ],
)
def test_where_only_a_path_is_taken_a_uri_is_refused(
    arguments: tuple[str, ...], paring: Paring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = paring(*arguments)
    assert code == 2
    assert "s3://bucket/x" in error
    assert list(tmp_path.iterdir()) == []
