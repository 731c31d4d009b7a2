"""`draw_calibration`: which examples are drawn, and whether they are enough."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from paring.artifacts import CalibrationSet
from paring.execution import Call, execute
from paring.steps.convert_tflite import convert_tflite
from paring.steps.draw_calibration import draw_calibration
from paring_pipelines.demo import Digits


def _draw(model: Path, examples: Path, out: Path, **parameters: object) -> CalibrationSet:
    call = Call({"model": model, "examples": examples}, {"calibration": out}, parameters)
    made = execute(draw_calibration, call)["calibration"]
    assert isinstance(made, CalibrationSet)
    return made


def _manifest(made: CalibrationSet) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(made.manifest.read_text())
    return content


@pytest.fixture(scope="module")
def drawn(
    digits_model: Path, digits_npz: Path, tmp_path_factory: pytest.TempPathFactory
) -> CalibrationSet:
    return _draw(digits_model, digits_npz, tmp_path_factory.mktemp("drawn") / "out", size=100)


def test_the_manifest_names_the_rows_that_were_drawn(drawn: CalibrationSet, digits: Digits) -> None:
    manifest = _manifest(drawn)
    rows = manifest["rows"]
    assert (len(rows), manifest["count"], manifest["available"]) == (100, 100, 1437)
    images = np.load(drawn.path / "Split-train" / "image.npy")
    np.testing.assert_array_equal(images, digits.x_train[rows])
    labels = np.load(drawn.path / "Split-train" / "label.npy")
    np.testing.assert_array_equal(labels, digits.y_train[rows])


def test_each_class_has_its_share(drawn: CalibrationSet, digits: Digits) -> None:
    shares = np.bincount(digits.y_train) / len(digits.y_train)
    for label, count in _manifest(drawn)["classes"].items():
        assert abs(count - 100 * shares[int(label)]) < 1


def test_enough_examples_are_not_called_too_few(drawn: CalibrationSet) -> None:
    assert drawn.range_difference is not None
    assert 0 < drawn.range_difference < 0.1
    assert (drawn.too_small, drawn.warning) == (0, None)


def test_the_draw_is_the_same_for_a_seed(
    drawn: CalibrationSet, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    again = _draw(digits_model, digits_npz, tmp_path / "again", size=100)
    assert again.digest == drawn.digest
    other = _draw(digits_model, digits_npz, tmp_path / "other", size=100, seed=1)
    assert _manifest(other)["rows"] != _manifest(drawn)["rows"]


def test_examples_that_are_also_in_eval_are_passed_over(
    digits_model: Path, digits: Digits, tmp_path: Path
) -> None:
    # The first half of the train split is judged on too.
    x_eval, y_eval = digits.x_train[:100], digits.y_train[:100]
    np.savez(
        tmp_path / "few.npz",
        x_train=digits.x_train[:200],
        y_train=digits.y_train[:200],
        x_eval=x_eval,
        y_eval=y_eval,
    )
    made = _draw(digits_model, tmp_path / "few.npz", tmp_path / "out", size=50)
    assert min(_manifest(made)["rows"]) >= 100
    assert made.also_in_eval == 0


def test_one_set_for_both_splits_is_said(
    digits_model: Path, digits: Digits, tmp_path: Path
) -> None:
    images, labels = digits.x_train[:40], digits.y_train[:40]
    np.savez(tmp_path / "one.npz", x_train=images, y_train=labels, x_eval=images, y_eval=labels)
    made = _draw(digits_model, tmp_path / "one.npz", tmp_path / "out", size=20)
    assert made.also_in_eval == 20
    assert made.warning is not None
    assert "20 examples that it is also judged on" in made.warning


def test_too_few_examples_are_said_on_what_was_calibrated_on_them(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    made = _draw(digits_model, digits_npz, tmp_path / "drawn", size=1)
    assert (made.train_count, made.range_difference, made.too_small) == (1, None, 1)
    inputs = {"model": digits_model, "calibration": made.path}
    for quantization, note in (("int8", "calibrated on too few examples, 1"), ("dynamic", None)):
        call = Call(inputs, {"converted": tmp_path / quantization}, {"quantization": quantization})
        result = execute(convert_tflite, call)["converted"].facts().get("note")
        assert result is None if note is None else str(result).startswith(note)


def test_the_class_of_one_of_several_outputs_is_kept_under_its_name(tmp_path: Path) -> None:
    module = tf.Module()
    module.kernel = tf.Variable(np.eye(4, 3, dtype=np.float32))
    serve = tf.function(
        lambda x: {"kind": tf.nn.softmax(x @ module.kernel), "size": tf.reduce_sum(x, 1)},
        input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")],
    )
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=serve)
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    kinds = np.argmax(x[:, :3], 1)
    split = {"x_train": x, "kind_train": kinds, "size_train": x.sum(1)}
    others = {name.replace("train", "eval"): array[:20] for name, array in split.items()}
    np.savez(tmp_path / "few.npz", **split, **others)
    made = _draw(tmp_path / "model", tmp_path / "few.npz", tmp_path / "drawn", size=30)
    drawn = np.load(made.path / "Split-train" / "kind.npy")
    np.testing.assert_array_equal(drawn, kinds[_manifest(made)["rows"]])
    call = Call(
        {"model": tmp_path / "model", "calibration": made.path},
        {"converted": tmp_path / "lite"},
        {"quantization": "int8"},
    )
    assert execute(convert_tflite, call)["converted"].failure is None


def test_a_file_calibrated_on_the_set_is_that_calibrated_on_its_rows(
    digits_model: Path, digits_npz: Path, drawn: CalibrationSet, tmp_path: Path
) -> None:
    def converted(name: str, inputs: dict[str, Path], **more: object) -> bytes:
        call = Call(
            {"model": digits_model} | inputs,
            {"converted": tmp_path / name},
            {"quantization": "int8"} | more,
        )
        path = execute(convert_tflite, call)["converted"].path
        return (path / "Format-Serving" / "model.tflite").read_bytes()

    by_set = converted("set", {"calibration": drawn.path, "examples": digits_npz})
    assert by_set == converted("rows", {"examples": digits_npz}, calibration_size=100)
    assert by_set != converted("fewer", {"calibration": drawn.path}, calibration_size=5)
