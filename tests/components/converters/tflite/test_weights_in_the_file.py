"""A TFLite file holds its source's weights, whatever wrote the SavedModel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import TFLiteModel
from paring.converters.tflite.conversion import check_weights
from paring.errors import UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.runtimes import open_runtime
from paring.steps.convert_tflite import convert_tflite

WIDTHS = (8, 16, 3)
COUNT = 8 * 16 + 16 * 3


@pytest.fixture(scope="module")
def kernels() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = [(8, 16), (16,), (16, 3), (3,)]
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    x = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
    file = tmp_path_factory.mktemp("examples") / "examples.npz"
    np.savez(file, x=x)
    return file


def outputs(kernels: list[np.ndarray], x: np.ndarray) -> np.ndarray:
    first, first_bias, second, second_bias = kernels
    hidden: np.ndarray = np.maximum(x @ first + first_bias, 0) @ second + second_bias
    return hidden


def _network(library: Any, kernels: list[np.ndarray]) -> Any:
    network = library.Sequential(
        [
            library.Input(WIDTHS[:1], name="x"),
            library.layers.Dense(WIDTHS[1], activation="relu"),
            library.layers.Dense(WIDTHS[2]),
        ]
    )
    network.set_weights(kernels)
    return network


def _alone(folder: Path, kernels: list[np.ndarray]) -> None:
    import keras
    import tensorflow as tf

    network = _network(keras, kernels)
    spec = tf.TensorSpec([None, 8], tf.float32, "x")
    serve = tf.function(lambda x: {"y": network(x)}, input_signature=[spec])
    tf.saved_model.save(network, str(folder), signatures={"serving_default": serve})


def _attribute(folder: Path, kernels: list[np.ndarray]) -> None:
    import keras
    import tensorflow as tf

    module = tf.Module()
    module.network = _network(keras, kernels)
    spec = tf.TensorSpec([None, 8], tf.float32, "x")
    module.serve = tf.function(lambda x: {"y": module.network(x)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def _exported(folder: Path, kernels: list[np.ndarray]) -> None:
    import keras

    _network(keras, kernels).export(folder, verbose=False)


def _tf_keras(folder: Path, kernels: list[np.ndarray]) -> None:
    import tf_keras

    _network(tf_keras, kernels).save(folder, save_format="tf")


def _captured(folder: Path, kernels: list[np.ndarray]) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.parts = [tf.Variable(kernel) for kernel in kernels]
    first, first_bias, second, second_bias = module.parts

    @tf.function(input_signature=[tf.TensorSpec([None, 8], tf.float32, "x")])
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.nn.relu(x @ first + first_bias) @ second + second_bias}

    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})


WRITERS: dict[str, Callable[[Path, list[np.ndarray]], None]] = {
    "keras alone": _alone,
    "attribute of a module": _attribute,
    "export": _exported,
    "tf_keras": _tf_keras,
    "captured variables": _captured,
}


def converted(model: Path, out: Path, examples: Path, quantization: str) -> TFLiteModel:
    call = Call(
        {"model": model, "examples": examples}, {"converted": out}, {"quantization": quantization}
    )
    made = execute(convert_tflite, call)["converted"]
    assert isinstance(made, TFLiteModel)
    return made


@pytest.mark.parametrize(
    ("writer", "quantization", "tolerance"),
    [
        *((writer, "none", 1e-5) for writer in WRITERS),
        *(("keras alone", quantization, 0.1) for quantization in ("dynamic", "int8")),
        *(("attribute of a module", quantization, 0.1) for quantization in ("fp16", "int16x8")),
    ],
)
def test_weights_are_in_the_file(
    writer: str,
    quantization: str,
    tolerance: float,
    kernels: list[np.ndarray],
    examples: Path,
    tmp_path: Path,
) -> None:
    WRITERS[writer](tmp_path / "model", kernels)
    made = converted(tmp_path / "model", tmp_path / "lite", examples, quantization)
    assert made.weight_count == COUNT
    assert made.compared == "32 examples"
    with np.load(examples) as arrays:
        x = arrays["x"]
    expected = outputs(kernels, x)
    (result,) = open_runtime(made).run({"x": x}).values()
    np.testing.assert_allclose(result, expected, atol=tolerance * np.abs(expected).max())


def test_a_file_that_reads_what_nobody_wrote_is_refused(
    kernels: list[np.ndarray], tmp_path: Path
) -> None:
    import tensorflow as tf

    from paring.converters.tflite.conversion import quiet_converter

    _alone(tmp_path / "model", kernels)
    with quiet_converter():
        # As TensorFlow converts it by itself.
        content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "model")).convert()
    with pytest.raises(UnsupportedError, match="holds less than the weights") as caught:
        check_weights(content, COUNT)
    assert "4 variables that nothing sets" in caught.value.received


def test_a_file_that_computes_something_else_is_refused(
    kernels: list[np.ndarray], examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paring.converters.tflite import conversion

    _captured(tmp_path / "model", kernels)
    _captured(tmp_path / "other", [*kernels[:2], *(-kernel for kernel in kernels[2:])])
    own = conversion.convert

    def convert_another(model: SavedModel, *parameters: Any, **more: Any) -> Any:
        return own(SavedModel(tmp_path / "other"), *parameters, **more)

    # A converter that takes the wrong weights.
    monkeypatch.setattr(conversion, "convert", convert_another)
    for quantization in ("none", "int8"):
        with pytest.raises(UnsupportedError, match="does not compute what its source does"):
            converted(tmp_path / "model", tmp_path / "lite", examples, quantization)
        assert not (tmp_path / "lite").exists()
