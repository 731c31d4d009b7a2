"""SavedModels and TFLite files that OpenVINO's own front ends read."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from paring.artifacts import OpenVINOModel, Servable
from paring.errors import UnsupportedError
from paring.execution import Call, execute
from paring.models.loading import export
from paring.runtimes import open_runtime
from paring.steps.convert_openvino import convert_openvino
from paring.steps.convert_tflite import convert_tflite

Values = np.ndarray[Any, Any]
layers = tf_keras.layers


def saved(function: Callable[[Any], dict[str, Any]], shape: list[int | None], out: Path) -> Path:
    module = tf.Module()
    module.serve = tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32, "x")])
    tf.saved_model.save(module, str(out), signatures=module.serve)
    return out


def converted(model: Path, out: Path) -> OpenVINOModel:
    made = execute(convert_openvino, Call({"model": model}, {"converted": out}, {}))["converted"]
    assert isinstance(made, OpenVINOModel)
    return made


def patches(x: Any) -> dict[str, Any]:
    sizes = [1, 2, 2, 1]
    return {"y": tf.image.extract_patches(x, sizes, sizes, [1, 1, 1, 1], "VALID")}


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: {"y": tf.abs(tf.signal.stft(x, 64, 32))}, [None, 640]),
        (patches, [None, 8, 8, 3]),
        (lambda x: {"y": tf.linalg.inv(x)}, [None, 4, 4]),
        (lambda x: {"y": tf.raw_ops.Bucketize(input=x, boundaries=[0.0, 0.5])}, [None, 8]),
    ],
    ids=["spectrogram", "patches", "inverse", "buckets"],
)
def test_operators_that_onnx_lacks_are_converted(
    function: Callable[[Any], dict[str, Any]], shape: list[int | None], tmp_path: Path
) -> None:
    made = converted(saved(function, shape, tmp_path / "model"), tmp_path / "out")
    x = np.random.default_rng(0).normal(size=[3, *shape[1:]]).astype(np.float32)
    expected = function(tf.constant(x))["y"].numpy()
    np.testing.assert_allclose(
        open_runtime(made).run({"x": x})["y"], expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("kind", [layers.LSTM, layers.GRU])
def test_recurrent_layers_keep_names_and_their_open_batch(kind: Any, tmp_path: Path) -> None:
    tf_keras.utils.set_random_seed(0)
    network = tf_keras.Sequential(
        [tf_keras.Input((6, 4), name="steps"), kind(8, return_sequences=True), layers.Dense(3)]
    )
    export(network, tmp_path / "model")
    made = converted(tmp_path / "model", tmp_path / "out")
    x = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
    (expected,) = open_runtime(Servable(tmp_path / "model")).run({"steps": x}).items()
    (result,) = open_runtime(made).run({"steps": x}).items()
    assert result[0] == expected[0]
    np.testing.assert_allclose(result[1], expected[1], atol=1e-5)


@pytest.mark.parametrize("through_tflite", [False, True])
def test_two_outputs_of_one_tensor_keep_their_names(through_tflite: bool, tmp_path: Path) -> None:
    def twice(x: Any) -> dict[str, Any]:
        positive = tf.nn.relu(x)
        return {"one": positive, "other": positive, "count": tf.reduce_sum(x, axis=1)}

    model = saved(twice, [None, 4], tmp_path / "model")
    if through_tflite:
        call = Call({"model": model}, {"converted": tmp_path / "tflite"}, {})
        model = execute(convert_tflite, call)["converted"].path
    x = np.array([[1, -2, 3, 0]], np.float32)
    result = open_runtime(converted(model, tmp_path / "out")).run({"x": x})
    assert result.keys() == {"one", "other", "count"}
    for name in ("one", "other"):
        np.testing.assert_array_equal(result[name], [[1, 0, 3, 0]])
    np.testing.assert_array_equal(result["count"], [2])


def test_an_input_that_is_handed_on_is_refused(tmp_path: Path) -> None:
    model = saved(lambda x: {"y": 2 * x, "same": tf.identity(x)}, [None, 4], tmp_path / "model")
    with pytest.raises(UnsupportedError, match="does not keep the inputs and outputs"):
        converted(model, tmp_path / "out")


def test_what_openvino_computes_otherwise_is_refused(tmp_path: Path) -> None:
    model = saved(lambda x: {"y": tf.nn.lrn(x)}, [None, 8, 8, 8], tmp_path / "model")
    with pytest.raises(UnsupportedError, match="does not compute what its source does"):
        converted(model, tmp_path / "out")


def test_operators_that_openvino_lacks_are_named(tmp_path: Path) -> None:
    model = saved(lambda x: {"y": tf.math.erfinv(x / 10)}, [None, 4], tmp_path / "model")
    with pytest.raises(UnsupportedError) as refused:
        converted(model, tmp_path / "out")
    assert refused.value.received == "operators Erfinv"
