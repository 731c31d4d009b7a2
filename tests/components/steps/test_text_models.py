"""Models whose signature does text work, from import to delivery."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.text_models import (
    example_of,
    save_estimator,
    save_review_classifier,
    save_taxi,
    taxi_rows,
    write_taxi_csv,
    write_taxi_records,
)

import paring
from paring.artifacts import Examples, Model, SelectedModel
from paring.errors import ExamplesError, UntrustedModelError
from paring.execution import Call, execute
from paring.models.numeric_parts import INTERFACE, SOURCE
from paring.models.saved_model import SavedModel
from paring.serving.delivery import deliver
from paring.steps.benchmark import benchmark
from paring.steps.convert_tflite import convert_tflite
from paring.steps.import_examples import import_examples
from paring.steps.import_model import import_model

TRAIN, EVAL = 300, 70


@pytest.fixture(scope="module")
def taxi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the taxi model as its trainer saved it."""
    folder = tmp_path_factory.mktemp("taxi") / "saved"
    save_taxi(folder)
    return folder


@pytest.fixture(scope="module")
def imported(taxi: Path) -> Model:
    call = Call({"original": taxi}, {"model": taxi.with_name("model")})
    model = execute(import_model, call)["model"]
    assert isinstance(model, Model)
    return model


def _import(source: Path, model: Model, out: Path, **parameters: Any) -> Examples:
    call = Call({"original": source, "model": model.path}, {"examples": out}, parameters)
    examples = execute(import_examples, call)["examples"]
    assert isinstance(examples, Examples)
    return examples


def _answers(folder: Path, rows: list[dict[str, Any]], key: str = "serving_default") -> Any:
    """Return what TensorFlow itself gives for rows."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    examples = tf.constant([example_of(row) for row in rows])
    return loaded.signatures[key](examples=examples)["outputs"].numpy()


def test_the_core_takes_numbers_and_the_source_is_kept_whole(taxi: Path, imported: Model) -> None:
    assert imported.preprocess_inputs == ("examples",)
    assert imported.keras == "none"
    assert imported.uncut is None
    core = SavedModel.open(imported).signature()
    assert {name: item.dtype for name, item in core.inputs.items()} == {
        "company": "int64",
        "fare": "float32",
        "hour": "int64",
    }
    kept = imported.parts_dir / SOURCE / "saved_model.pb"
    assert kept.read_bytes() == (taxi / "saved_model.pb").read_bytes()


def _tfx(folder: Path) -> Path:
    write_taxi_records(folder / "Split-train" / "data_tfrecord-00000-of-00001.gz", TRAIN, seed=1)
    write_taxi_records(folder / "Split-eval" / "data_tfrecord-00000-of-00001.gz", EVAL, seed=2)
    return folder


def _csv(folder: Path) -> Path:
    folder.mkdir()
    write_taxi_csv(folder / "train.csv", TRAIN, seed=1)
    write_taxi_csv(folder / "eval.csv", EVAL, seed=2)
    return folder


def _parquet(folder: Path) -> Path:
    from pyarrow import csv, parquet

    for file in _csv(folder).glob("*.csv"):
        options = csv.ConvertOptions(null_values=[""], strings_can_be_null=True)
        parquet.write_table(
            csv.read_csv(file, convert_options=options), file.with_suffix(".parquet")
        )
        file.unlink()
    return folder


@pytest.mark.parametrize("make", [_tfx, _csv, _parquet], ids=["tfx", "csv", "parquet"])
def test_examples_of_each_form_become_the_same_inputs_of_the_core(
    tmp_path: Path, imported: Model, make: Callable[[Path], Path]
) -> None:
    examples = _import(make(tmp_path / "given"), imported, tmp_path / "out", label="tips")
    assert (examples.train_count, examples.eval_count, examples.labelled) == (TRAIN, EVAL, True)
    assert examples.compared_with_whole > 0
    arrays = {file.stem: np.load(file) for file in (tmp_path / "out/Split-eval").glob("*.npy")}
    rows = list(taxi_rows(EVAL, seed=2))
    np.testing.assert_array_equal(arrays["hour"][:, 0], [row["hour"] for row in rows])
    np.testing.assert_allclose(arrays["fare"][:, 0], [row["fare"] for row in rows], rtol=1e-6)
    np.testing.assert_array_equal(arrays["label"], [row["tips"] for row in rows])
    # Of StringLookup: 0 is what is not in the vocabulary.
    ids = {"flash": 1, "blue": 2, "yellow": 3}
    np.testing.assert_array_equal(
        arrays["company"][:, 0], [ids.get(row["company"], 0) for row in rows]
    )


def test_a_column_that_the_model_needs_is_named(tmp_path: Path, imported: Model) -> None:
    (tmp_path / "rows.csv").write_text("fare,company,tips\n1.5,flash,1\n2.5,blue,0\n")
    with pytest.raises(ExamplesError, match="no column for the model's feature 'hour'"):
        _import(tmp_path / "rows.csv", imported, tmp_path / "out")


def test_text_where_the_model_takes_a_number_is_refused(tmp_path: Path, imported: Model) -> None:
    (tmp_path / "rows.csv").write_text("fare,hour,company\n1.5,noon,flash\n2.5,3,blue\n")
    with pytest.raises(ExamplesError, match=r"row 0 .*takes int64 for 'hour'"):
        _import(tmp_path / "rows.csv", imported, tmp_path / "out")


def test_arrays_of_the_core_are_taken_as_they_are(tmp_path: Path, imported: Model) -> None:
    arrays = {
        "fare": np.ones((10, 1), np.float32),
        "hour": np.ones((10, 1), np.int64),
        "company": np.ones((10, 1), np.int64),
    }
    np.savez(tmp_path / "arrays.npz", **arrays)
    examples = _import(tmp_path / "arrays.npz", imported, tmp_path / "out")
    assert examples.compared_with_whole == 0
    assert examples.train_count == 8


def test_columns_of_text_are_taken_by_the_inputs_names(tmp_path: Path) -> None:
    save_review_classifier(tmp_path / "saved")
    call = Call({"original": tmp_path / "saved"}, {"model": tmp_path / "model"})
    model = execute(import_model, call)["model"]
    assert isinstance(model, Model)
    texts = ["good film", "bad film", "a great story", "never seen"] * 5
    lines = [f"{text},{row % 2}" for row, text in enumerate(texts)]
    (tmp_path / "reviews.csv").write_text("\n".join(["review,label", *lines]) + "\n")
    examples = _import(tmp_path / "reviews.csv", model, tmp_path / "out")
    assert examples.labelled
    assert examples.compared_with_whole > 0
    assert np.load(tmp_path / "out/Split-train/review.npy").shape == (16, 8)


def test_the_whole_is_delivered_around_each_core(
    tmp_path: Path, taxi: Path, imported: Model
) -> None:
    rows = list(taxi_rows(20, seed=3))
    expected = _answers(taxi, rows)
    serialized = {"examples": [example_of(row) for row in rows]}

    call = Call({"model": imported.path}, {"converted": tmp_path / "lite"})
    lite = execute(convert_tflite, call)["converted"]
    delivered = SelectedModel(tmp_path / "delivered")
    delivered.path.mkdir()
    deliver(imported, lite.path / "Format-Serving", delivered, is_source=False)
    assert (delivered.serving_dir / "model.tflite").is_file()
    runner = paring.load_runner(delivered.path)
    assert runner.input_names == ("examples",)
    np.testing.assert_allclose(runner.run(serialized)["outputs"], expected, atol=1e-5)
    runner.close()

    joined = SelectedModel(tmp_path / "joined")
    joined.path.mkdir()
    deliver(imported, imported.serving_dir, joined, is_source=False)
    np.testing.assert_allclose(_answers(joined.serving_dir, rows), expected, atol=1e-6)
    assert joined.numeric_core().path == joined.path / "Format-Core"

    source = SelectedModel(tmp_path / "source")
    source.path.mkdir()
    deliver(imported, imported.serving_dir, source, is_source=True)
    kept = (source.serving_dir / "saved_model.pb").read_bytes()
    assert kept == (taxi / "saved_model.pb").read_bytes()


def test_text_work_that_touches_files_is_not_run(tmp_path: Path, imported: Model) -> None:
    import shutil

    import tensorflow as tf

    shutil.copytree(imported.path, tmp_path / "model")
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples: Any) -> dict[str, Any]:
        tf.io.write_file(str(tmp_path / "written"), "x")
        return {"fare": tf.zeros([1, 1]), "hour": tf.zeros([1, 1], tf.int64), "company": examples}

    shutil.rmtree(tmp_path / "model/Format-Parts/preprocess")
    tf.saved_model.save(
        module,
        str(tmp_path / "model/Format-Parts/preprocess"),
        signatures={"serving_default": serve},
    )
    hostile = Model(tmp_path / "model")
    selected = SelectedModel(tmp_path / "selected")
    selected.path.mkdir()
    with pytest.raises(UntrustedModelError, match="may touch files"):
        deliver(hostile, hostile.serving_dir, selected, is_source=False)
    assert not (tmp_path / "written").exists()


def test_a_broken_interface_is_an_error_of_the_model(tmp_path: Path, imported: Model) -> None:
    import shutil

    from paring.errors import ModelError
    from paring.models.part_calls import PartCalls

    shutil.copytree(imported.parts_dir, tmp_path / "parts")
    content = json.loads((tmp_path / "parts" / INTERFACE).read_text())
    (tmp_path / "parts" / INTERFACE).write_text(json.dumps({**content, "core_inputs": [1]}))
    with pytest.raises(ModelError, match="not readable"):
        PartCalls(tmp_path / "parts")


def test_benchmark_states_the_speed_of_the_whole(tmp_path: Path, imported: Model) -> None:
    examples = _import(_csv(tmp_path / "given"), imported, tmp_path / "examples", label="tips")
    call = Call({"model": imported.path}, {"converted": tmp_path / "lite"})
    lite = execute(convert_tflite, call)["converted"]
    inputs = {"source": imported.path, "candidate": lite.path, "examples": examples.path}
    parameters = {"rounds": 2, "min_seconds": 0.2, "threads": 1}
    metrics: Any = execute(benchmark, Call(inputs, {"metrics": tmp_path / "m"}, parameters))
    measured = metrics["metrics"]
    assert measured.text_work_p50_ms > 0
    whole = (measured.source_p50_ms + measured.text_work_p50_ms) / (
        measured.p50_ms + measured.text_work_p50_ms
    )
    assert measured.whole_speedup == pytest.approx(whole)
    assert 1 < measured.whole_speedup < measured.speedup
    del inputs["candidate"]
    metrics = execute(benchmark, Call(inputs, {"metrics": tmp_path / "source"}, parameters))
    assert metrics["metrics"].text_work_p50_ms > 0
    assert metrics["metrics"].whole_speedup is None


def test_an_estimator_with_a_vocabulary_file_is_imported_untrusted(tmp_path: Path) -> None:
    save_estimator(tmp_path / "saved")
    call = Call({"original": tmp_path / "saved"}, {"model": tmp_path / "model"})
    model = execute(import_model, call)["model"]
    assert isinstance(model, Model)
    assert model.preprocess_inputs == ("inputs",)
    assert set(SavedModel.open(model).signature().outputs) == {"scores"}
