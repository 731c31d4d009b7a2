"""The Dag on TFX: metadata, caching, both runners, and users' own pipelines."""

import io
import json
import os
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.pipelines.conftest import SETTINGS

from paring.artifacts import PrunedModel, TFLiteModel, content_digest
from paring.selection.candidates import SelectionResult
from paring.system import logs
from paring_pipelines.cli.console import NodeProgress, show_outcome
from paring_pipelines.demo import Digits
from paring_pipelines.pipeline.recipes import Recipe
from paring_pipelines.pipeline.settings import LocalSettings
from paring_pipelines.runners.session import Progress, PublishedRun, run

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[3] / "examples" / "tfx_pipeline.py"


def _rerun(
    first_run: tuple[Path, PublishedRun],
    model: Path,
    examples: Path,
    recipes: list[Recipe],
    **changed: Any,
) -> tuple[PublishedRun, set[str]]:
    """Run again into the same folder; return the run, and the nodes that were not cached."""
    done: set[str] = set()
    local = LocalSettings(runner=changed.pop("runner", "local"))
    settings = replace(SETTINGS, **changed)
    progress = Progress(observed=lambda event: done.add(event.node.id))
    outcome = run(
        model,
        examples,
        recipes=recipes,
        settings=settings,
        out=first_run[0],
        local=local,
        progress=progress,
    )
    return outcome, done


def test_a_run_says_what_became_of_every_candidate(first_run: tuple[Path, PublishedRun]) -> None:
    out, outcome = first_run
    assert SelectionResult.read(out / "selection.json") == outcome.selection
    result = {candidate.id: candidate for candidate in outcome.selection.candidates}
    assert set(result) == {"source", "float32", "pruned"}
    assert result["pruned"].outcome == "unsupported"
    assert "Keras" in result["pruned"].reasons[0]
    assert result["float32"].agreement == 1.0
    assert (result["float32"].p50_ms or 0) > 0
    assert Path(result["float32"].artifact).is_dir()
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    assert (out / "selected" / "Format-Serving").is_dir()


def test_facts_are_typed_properties_in_the_metadata_store(
    first_run: tuple[Path, PublishedRun],
) -> None:
    from ml_metadata.metadata_store import MetadataStore
    from tfx import v1 as tfx

    path = first_run[0] / "pipeline" / "metadata.sqlite"
    store = MetadataStore(tfx.orchestration.metadata.sqlite_metadata_connection_config(str(path)))
    (converted, unsupported) = sorted(
        store.get_artifacts_by_type("ParingTFLiteModel"), key=lambda item: "pruned" in item.uri
    )
    loaded = TFLiteModel.load(Path(converted.uri))
    assert converted.properties["size_bytes"].int_value == loaded.size_bytes > 0
    assert converted.properties["digest"].string_value == loaded.digest
    assert unsupported.custom_properties["outcome"].string_value == "unsupported"
    (metrics, *_) = store.get_artifacts_by_type("ParingBenchmarkMetrics")
    assert metrics.properties["p50_ms"].WhichOneof("value") == "double_value"


@pytest.mark.parametrize("runner", ["local", "beam"])
def test_nothing_is_done_again_when_nothing_changed(
    first_run: tuple[Path, PublishedRun],
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
    runner: str,
) -> None:
    outcome, done = _rerun(first_run, bare_model, digits_npz, few_recipes, runner=runner)
    assert done == set()
    assert len(outcome.cached) == outcome.nodes
    assert outcome.selection == first_run[1].selection


def test_a_run_that_is_put_in_place_is_logged_to_mlflow(
    first_run: tuple[Path, PublishedRun],
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "run7")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    _rerun(first_run, bare_model, digits_npz, few_recipes)
    assert "MLFLOW_RUN_ID is set, and nothing is logged" in caplog.text


def test_a_changed_parameter_redoes_only_what_hangs_on_it(
    first_run: tuple[Path, PublishedRun],
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
) -> None:
    outcome, done = _rerun(first_run, bare_model, digits_npz, few_recipes, max_size_mb=0.000001)
    assert done == {"select", "report"}
    assert outcome.selection.selected == "source"


def test_what_was_changed_in_the_cache_is_made_again(
    first_run: tuple[Path, PublishedRun],
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
) -> None:
    rows = {candidate.id: candidate for candidate in first_run[1].selection.candidates}
    file = Path(rows["float32"].artifact) / "Format-Serving" / "model.tflite"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    outcome, done = _rerun(first_run, bare_model, digits_npz, few_recipes)
    assert "float32" in str(sorted(done))
    assert "import_model" not in done
    again = {candidate.id: candidate for candidate in outcome.selection.candidates}
    made = TFLiteModel.load(Path(again["float32"].artifact))
    made.verify(thoroughly=True)
    content[-1] ^= 1
    assert (made.serving_dir / "model.tflite").read_bytes() == content


def test_a_changed_record_in_the_cache_is_made_again(
    first_run: tuple[Path, PublishedRun],
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
) -> None:
    folder = first_run[0] / "pipeline/artifacts/evaluate-float32/evaluation"
    for record in folder.glob("*/paring.json"):
        content = json.loads(record.read_text())
        content["facts"]["drop"] = 0.5
        record.write_text(json.dumps(content))
    outcome, done = _rerun(first_run, bare_model, digits_npz, few_recipes)
    assert "evaluate-float32" in done
    rows = {candidate.id: candidate for candidate in outcome.selection.candidates}
    assert rows["float32"].drop == 0.0


def test_a_selected_model_whose_times_were_set_back_is_made_again(
    first_run: tuple[Path, PublishedRun],
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
) -> None:
    selected = first_run[0] / "selected"
    digest = content_digest(selected)
    folder = first_run[0] / "pipeline/artifacts/select/selected"
    for file in folder.glob("*/Format-Serving/*.*"):
        before, content = file.stat(), bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    _, done = _rerun(first_run, bare_model, digits_npz, few_recipes)
    assert "select" in done
    assert content_digest(selected) == digest


def test_events_tell_the_run_and_the_node(
    first_run: tuple[Path, PublishedRun],
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
) -> None:
    stream = io.StringIO()
    logs.write_json(stream)
    try:
        _rerun(first_run, bare_model, digits_npz, few_recipes, max_size_mb=50.0)
    finally:
        logs.stop()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    ended = [item for item in lines if item["event"] == "step ended"]
    assert {item["node"] for item in ended} == {"select", "report"}
    (run_id,) = {item["run"] for item in ended}
    assert run_id


def test_the_selected_model_is_tuned_and_the_source_checked_for_tpus(
    first_run: tuple[Path, PublishedRun],
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
) -> None:
    def told(**limits: float) -> tuple[PublishedRun, str]:
        console = Console(file=io.StringIO(), width=200)
        shown = NodeProgress(console)
        settings = replace(SETTINGS, **limits, tune_batch=True, target="tpu")
        outcome = run(
            bare_model,
            digits_npz,
            recipes=few_recipes,
            settings=settings,
            out=first_run[0],
            progress=shown.progress(),
        )
        shown.close()
        show_outcome(console, outcome, 1.0)
        return outcome, console.file.getvalue()

    outcome, shown = told()
    tuned = outcome.tuned
    assert tuned is not None
    assert outcome.selection.selected == "float32"
    assert tuned.lineage["inputs"]["candidate"]["type"] == "SelectedModel"
    assert f"tuned     batch {tuned.batch_size}, threads {tuned.threads}, processes" in shown
    assert "of a TPU's operations on padding" in shown
    page = outcome.report.read_text()
    assert "How float32 serves the most" in page
    assert "The source model on a TPU" in page

    # Less than any process takes: that is reported, and ends nothing.
    outcome, shown = told(max_memory_mb=1.0)
    assert outcome.tuned is not None
    assert outcome.tuned.failure is not None
    assert "tuned     not: " in shown
    assert "more than 1 MiB of memory" in shown
    assert "It could not be tuned" in outcome.report.read_text()
    assert "check_tpu" in outcome.cached


def test_a_changed_model_at_the_same_path_is_noticed(
    tmp_path: Path,
    first_run: tuple[Path, PublishedRun],
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
) -> None:
    model = tmp_path / "model"
    shutil.copytree(bare_model, model)
    (model / "assets" / "note.txt").write_text("one more file")
    examples = tmp_path / "digits.npz"
    shutil.copyfile(digits_npz, examples)
    few = [recipe for recipe in few_recipes if recipe.name == "pruned"]
    _rerun(first_run, model, examples, few)
    _, done = _rerun(first_run, model, examples, few)
    assert done == set()
    (model / "assets" / "note.txt").write_text("changed")
    _, done = _rerun(first_run, model, examples, few)
    assert {"import_model", "benchmark-source", "prune_channels-pruned", "select"} <= done


def _write_examples(folder: Path, digits: Digits) -> None:
    """256 digits a split, as TFX's ExampleGen writes them."""
    import tensorflow as tf

    splits = {"train": (digits.x_train, digits.y_train), "eval": (digits.x_eval, digits.y_eval)}
    for split, (images, labels) in splits.items():
        file = folder / f"Split-{split}" / "data_tfrecord-00000-of-00001.gz"
        file.parent.mkdir(parents=True)
        with tf.io.TFRecordWriter(str(file), options="GZIP") as writer:
            for image, label in zip(images[:256], labels[:256], strict=True):
                features = {
                    "image": tf.train.Feature(float_list=tf.train.FloatList(value=image.ravel())),
                    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                }
                example = tf.train.Example(features=tf.train.Features(feature=features))
                writer.write(example.SerializeToString())


def test_steps_stand_between_a_users_importer_and_pusher(
    tmp_path: Path, digits_model: Path, digits: Digits
) -> None:
    """TFX's standard Model and Examples go in, and TFX's Pusher takes what comes out."""
    from tfx import v1 as tfx

    build = runpy.run_path(str(EXAMPLE))["build"]
    shutil.copytree(digits_model, tmp_path / "trained" / "Format-Serving")
    _write_examples(tmp_path / "examples", digits)
    pipeline = build(
        *(tmp_path / "trained", tmp_path / "examples", tmp_path),
        epochs=1,
        max_accuracy_drop=1.0,
        min_seconds=0.2,
    )
    tfx.orchestration.LocalDagRunner().run(pipeline)

    (selection,) = (tmp_path / "root" / "select" / "selection").iterdir()
    selected = SelectionResult.read(selection / "selection.json").selected
    (version,) = (tmp_path / "pushed").iterdir()
    served = "model.tflite" if selected == "tflite" else "saved_model.pb"
    assert (version / served).is_file()
    (artifact,) = (tmp_path / "root" / "prune" / "pruned").iterdir()
    assert PrunedModel.load(artifact).sparsity == pytest.approx(0.6, abs=0.01)
