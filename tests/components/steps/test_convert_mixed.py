"""`convert_mixed`: the layers that int8 hurts stay in float, and only those."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.saved_models import save_signature

from paring.artifacts import TFLiteModel
from paring.converters.tflite.conversion import has_fake_quantization
from paring.errors import UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.runtimes import open_runtime
from paring.step import Step
from paring.steps.convert_mixed import convert_mixed
from paring.steps.convert_tflite import convert_tflite
from paring_pipelines.demo import Digits


@pytest.fixture(scope="module")
def lopsided(digits_keras: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model with one channel blown up, and brought back by the next layer.

    It computes the same, but in steps that fit the large channel int8 loses the others.
    """
    import tf_keras

    network = tf_keras.models.load_model(digits_keras, compile=False)
    norm = next(layer for layer in network.layers if "normalization" in layer.name)
    following = next(layer for layer in network.layers if "depthwise" in layer.name)
    gamma, beta, mean, variance = norm.get_weights()
    channel = int(np.argmax(gamma))
    gamma[channel], beta[channel] = 2000 * gamma[channel], 2000 * beta[channel]
    norm.set_weights([gamma, beta, mean, variance])
    (kernel,) = following.get_weights()
    kernel[:, :, channel] /= 2000
    following.set_weights([kernel])
    folder = tmp_path_factory.mktemp("lopsided") / "saved_model"
    save_signature(network, folder)
    return folder


def _converted(
    model: Path, examples: Path, out: Path, step: Step = convert_mixed, **parameters: object
) -> TFLiteModel:
    call = Call({"model": model, "examples": examples}, {"converted": out}, parameters)
    made = execute(step, call)["converted"]
    assert isinstance(made, TFLiteModel)
    return made


def _classes(model: TFLiteModel, digits: Digits) -> Any:
    scores = open_runtime(model).run({"image": digits.x_eval})["digit"]
    return scores.argmax(axis=1)


def _table(model: TFLiteModel) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(model.layer_table.read_text())
    return rows


@pytest.fixture(scope="module")
def mixed(
    lopsided: Path, digits_npz: Path, tmp_path_factory: pytest.TempPathFactory
) -> TFLiteModel:
    return _converted(lopsided, digits_npz, tmp_path_factory.mktemp("mixed") / "out")


def test_what_int8_breaks_is_repaired_by_a_few_layers_in_float(
    mixed: TFLiteModel, lopsided: Path, digits_npz: Path, digits: Digits, tmp_path: Path
) -> None:
    full = _converted(lopsided, digits_npz, tmp_path / "int8", convert_tflite, quantization="int8")
    plain = _converted(lopsided, digits_npz, tmp_path / "float", convert_tflite)
    reference = _classes(plain, digits)
    assert np.mean(_classes(full, digits) == reference) < 0.9
    assert np.mean(_classes(mixed, digits) == reference) > 0.97
    assert mixed.layers is not None
    assert mixed.layers_in_float is not None
    assert 1 <= mixed.layers_in_float <= mixed.layers / 2
    assert mixed.size_bytes < plain.size_bytes


def test_the_table_holds_all_layers_the_worst_first(mixed: TFLiteModel) -> None:
    rows = _table(mixed)
    errors = [row["error"] for row in rows]
    assert errors == sorted(errors, reverse=True)
    assert all(0 <= error <= 1 for error in errors)
    assert len(rows) == mixed.layers
    assert [row["in_float"] for row in rows] == [
        index < (mixed.layers_in_float or 0) for index in range(len(rows))
    ]
    # It is the blown up output of the first convolution.
    assert rows[0]["operator"] == "CONV_2D"
    assert rows[0]["error"] > 0.5


def test_a_model_that_int8_does_not_hurt_has_nothing_in_float(
    digits_model: Path, digits_npz: Path, digits: Digits, tmp_path: Path
) -> None:
    made = _converted(digits_model, digits_npz, tmp_path / "out", max_difference=0.05)
    assert made.layers_in_float == 0
    assert not any(row["in_float"] for row in _table(made))


def test_the_same_seed_gives_the_same_bytes(
    mixed: TFLiteModel, lopsided: Path, digits_npz: Path, tmp_path: Path
) -> None:
    again = _converted(lopsided, digits_npz, tmp_path / "again")
    assert again.digest == mixed.digest


def test_a_model_that_was_trained_for_quantization_is_refused(
    digits_keras: Path, digits_npz: Path, tmp_path: Path
) -> None:
    import tf_keras

    from paring.training.quantization.qat import fake_quantized

    network = tf_keras.models.load_model(digits_keras, compile=False)
    fake_quantized(network).model.save(tmp_path / "trained", save_format="tf")
    assert has_fake_quantization(SavedModel(tmp_path / "trained"))
    with pytest.raises(UnsupportedError, match="convert_tflite"):
        _converted(tmp_path / "trained", digits_npz, tmp_path / "out")


@pytest.fixture(scope="module")
def expressions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small VGG-like classifier of seven classes, untrained, and images for it."""
    import tf_keras

    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(7)
    network = tf_keras.Sequential([tf_keras.Input((16, 16, 1), name="face")])
    for filters in (8, 16):
        network.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        network.add(layers.Conv2D(filters, 3, padding="same", activation="relu"))
        network.add(layers.MaxPooling2D())
        network.add(layers.Dropout(0.25))
    network.add(layers.Flatten())
    network.add(layers.Dense(32, activation="relu"))
    network.add(layers.Dense(7, activation="softmax", name="expression"))
    folder = tmp_path_factory.mktemp("expressions")
    save_signature(network, folder / "model")
    images = np.random.default_rng(0).random((120, 16, 16, 1)).astype(np.float32)
    np.savez(folder / "faces.npz", x_train=images, x_eval=images)
    return folder / "model", folder / "faces.npz"


def test_where_only_float_is_close_enough_every_layer_is_in_float(
    expressions: tuple[Path, Path], tmp_path: Path
) -> None:
    model, faces = expressions
    # Untrained, its scores are near one another: rounding anything changes some class.
    made = _converted(model, faces, tmp_path / "out", max_difference=0.0)
    assert made.layers
    assert made.layers_in_float == made.layers
    assert all(row["in_float"] for row in _table(made))
    plain = _converted(model, faces, tmp_path / "plain", convert_tflite)
    images = np.load(faces)["x_eval"]
    given = [open_runtime(item).run({"face": images})["expression"] for item in (made, plain)]
    np.testing.assert_allclose(*given, atol=1e-5)


def test_the_same_classifier_is_int8_where_that_is_let_pass(
    expressions: tuple[Path, Path], tmp_path: Path
) -> None:
    made = _converted(*expressions, tmp_path / "out", max_difference=1.0)
    assert made.layers_in_float == 0
    assert made.layers is not None
    assert made.layers > 4


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_layers_are_converted_for_one_example_at_a_time(
    kind: str, tmp_path: Path
) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    frames = tf_keras.Input((6, 4), name="frames")
    values = getattr(tf_keras.layers, kind)(8)(frames)
    model = tf_keras.Model(frames, tf_keras.layers.Dense(3, name="scores")(values))
    model.save(tmp_path / "model.keras")
    rows = np.random.default_rng(0).normal(size=(60, 6, 4)).astype(np.float32)
    np.savez(tmp_path / "examples.npz", x=rows)
    made = _converted(tmp_path / "model.keras", tmp_path / "examples.npz", tmp_path / "mixed")
    assert made.batch_size == 1
    assert made.layers
    runtime = open_runtime(made)
    scores = np.concatenate([runtime.run({"frames": row[None]})["scores"] for row in rows])
    expected = model.predict(rows, verbose=0)
    assert np.sqrt(np.mean(np.square(scores - expected))) < 0.05 * expected.std()
