"""ONNX files of a small trained network, in every precision."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from paring.artifacts import ONNXModel, QuantizedModel, Servable
from paring.errors import ExamplesError, ModelError, ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.runtimes import open_runtime
from paring.runtimes.onnx import OnnxRuntime
from paring.steps.export_onnx import export_onnx
from paring.steps.import_model import import_model
from paring.steps.quantize import quantize


def exported(
    model: Path, out: Path, examples: Path | None = None, **parameters: object
) -> ONNXModel:
    inputs = {"model": model} | ({"examples": examples} if examples else {})
    made = execute(export_onnx, Call(inputs, {"exported": out}, parameters))["exported"]
    assert isinstance(made, ONNXModel)
    return made


def scores(model: Path, images: np.ndarray) -> np.ndarray:
    (result,) = open_runtime(Servable(model)).run({"image": images}).values()
    return result


def exact_classes(file: Path, images: np.ndarray) -> np.ndarray:
    """The classes that an int8 graph stands for, computed node by node.

    Joined into integer kernels, its sums overflow on processors without VNNI.
    """
    (result,) = OnnxRuntime(file, optimized=False).run({"image": images}).values()
    return result.argmax(1)


def weight_types(file: Path) -> Counter[str]:
    """Count the constants of two dimensions or more of each dtype."""
    arrays = [onnx.numpy_helper.to_array(item) for item in onnx.load(file).graph.initializer]
    return Counter(array.dtype.name for array in arrays if array.ndim > 1)


def zero_points(file: Path) -> set[tuple[str, int]]:
    """The dtype and the value of each zero point."""
    graph = onnx.load(file).graph
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
    nodes = [item for item in graph.node if item.op_type in ("QuantizeLinear", "DequantizeLinear")]
    result = [arrays[item.input[2]] for item in nodes]
    return {(array.dtype.name, int(value)) for array in result for value in array.ravel()}


@pytest.fixture(scope="module")
def aware(
    digits_keras: Path, digits_npz: Path, tmp_path_factory: pytest.TempPathFactory
) -> QuantizedModel:
    call = Call(
        {"model": digits_keras, "examples": digits_npz},
        {"quantized": tmp_path_factory.mktemp("aware") / "model"},
        {"epochs": 1},
    )
    made = execute(quantize, call)["quantized"]
    assert isinstance(made, QuantizedModel)
    return made


def test_the_float_file_computes_what_its_source_does(
    digits: Any, digits_model: Path, tmp_path: Path
) -> None:
    made = exported(digits_model, tmp_path / "out")
    images = digits[2][:50]
    np.testing.assert_allclose(scores(made.path, images), scores(digits_model, images), atol=1e-5)
    content = made.file.read_bytes()
    assert (made.precision, made.opset, made.size_bytes) == ("fp32", 18, len(content))
    assert made.difference == 0
    assert made.gzip_bytes < made.size_bytes
    assert [(item.domain, item.version) for item in onnx.load(made.file).opset_import][:1] == [
        ("", 18)
    ]


def test_names_dtypes_and_the_open_batch_are_the_signatures(
    digits_model: Path, tmp_path: Path
) -> None:
    graph = onnx.load(exported(digits_model, tmp_path / "out").file).graph
    sizes = {
        item.name: [size.dim_param or size.dim_value for size in item.type.tensor_type.shape.dim]
        for item in (*graph.input, *graph.output)
    }
    assert sizes == {"image": ["batch", 32, 32, 1], "digit": ["batch", 10]}


def test_the_same_model_gives_the_same_bytes(digits_model: Path, tmp_path: Path) -> None:
    item, other = (exported(digits_model, tmp_path / name) for name in ("one", "other"))
    assert item.file.read_bytes() == other.file.read_bytes()


def test_an_older_opset_is_what_the_file_says(digits_model: Path, tmp_path: Path) -> None:
    made = exported(digits_model, tmp_path / "out", opset=13)
    assert made.opset == onnx.load(made.file).opset_import[0].version == 13


def test_half_precision_halves_the_file_and_keeps_what_goes_in_and_out(
    digits: Any, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    whole = exported(digits_model, tmp_path / "whole")
    made = exported(digits_model, tmp_path / "half", digits_npz, precision="fp16")
    assert set(weight_types(made.file)) == {"float16"}
    assert made.size_bytes < 0.7 * whole.size_bytes
    result = scores(made.path, digits[2])
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, scores(digits_model, digits[2]), atol=0.02)


@pytest.mark.parametrize("int8_runtime", ["tensorrt", "onnxruntime"])
def test_int8_predicts_as_the_float_model_does(
    digits: Any, digits_model: Path, digits_npz: Path, tmp_path: Path, int8_runtime: str
) -> None:
    made = exported(
        digits_model, tmp_path / "out", digits_npz, precision="int8", int8_runtime=int8_runtime
    )
    assert set(weight_types(made.file)) == {"int8"}
    assert (made.precision, made.int8_runtime, made.float_layers) == ("int8", int8_runtime, ())
    agreed = exact_classes(made.file, digits[2]) == scores(digits_model, digits[2]).argmax(1)
    assert agreed.mean() > 0.95


def test_what_is_for_tensorrt_is_symmetric_with_biases_in_float(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    symmetric = exported(digits_model, tmp_path / "trt", digits_npz, precision="int8")
    assert zero_points(symmetric.file) == {("int8", 0)}
    other = exported(
        digits_model, tmp_path / "ort", digits_npz, precision="int8", int8_runtime="onnxruntime"
    )
    assert "uint8" in {dtype for dtype, _ in zero_points(other.file)}


@pytest.mark.parametrize("int8_runtime", ["tensorrt", "onnxruntime"])
def test_a_quantization_aware_model_keeps_its_own_ranges(
    digits: Any, digits_npz: Path, aware: QuantizedModel, tmp_path: Path, int8_runtime: str
) -> None:
    made = exported(
        aware.path, tmp_path / "out", digits_npz, precision="int8", int8_runtime=int8_runtime
    )
    assert set(weight_types(made.file)) == {"int8"}
    assert made.float_layers == ()
    assert ({dtype for dtype, _ in zero_points(made.file)} == {"int8"}) == (
        int8_runtime == "tensorrt"
    )
    agreed = exact_classes(made.file, digits[2]) == scores(aware.path, digits[2]).argmax(1)
    assert agreed.mean() > 0.97


def test_a_quantization_aware_model_becomes_nothing_else(
    aware: QuantizedModel, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="precision int8, for which it was trained"):
        exported(aware.path, tmp_path / "out")


def test_a_model_trained_without_rounding_has_no_ranges_to_keep(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    claimed = QuantizedModel(tmp_path / "claimed")
    shutil.copytree(digits_model, claimed.serving_dir)
    claimed.save()
    with pytest.raises(UnsupportedError, match="no weight of this model was rounded"):
        exported(claimed.path, tmp_path / "out", digits_npz, precision="int8")


def test_int8_needs_examples(digits_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="--examples"):
        exported(digits_model, tmp_path / "out", precision="int8")


def test_a_file_that_is_too_far_from_its_source_is_not_made(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    # The model's own noise: int8 gives some example of 300 another class.
    with np.load(digits_npz) as arrays:
        noisy = {name: arrays[name] for name in arrays.files}
    generator = np.random.default_rng(0)
    noisy["x_train"] = generator.random(noisy["x_train"].shape, np.float32)
    np.savez(tmp_path / "noise.npz", **noisy)
    with pytest.raises(
        UnsupportedError, match=r"differs from its source[\s\S]*of 300 examples get another class"
    ):
        exported(
            digits_model,
            tmp_path / "out",
            tmp_path / "noise.npz",
            precision="int8",
            max_difference=0.0,
        )
    assert not (tmp_path / "out" / "Format-Serving").exists()


def test_operators_that_onnx_lacks_are_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import tensorflow as tf

    class Special(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, name="x")])
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"log": tf.math.lgamma(x), "bessel": tf.math.bessel_i0e(x)}

    module = Special()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.__call__)
    capfd.readouterr()
    with pytest.raises(UnsupportedError, match=r"ONNX lacks\n.*(Lgamma|BesselI0e) \(1\)"):
        exported(tmp_path / "model", tmp_path / "out")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_layers_keep_their_open_batch(kind: str, tmp_path: Path) -> None:
    import keras

    tokens = keras.Input((6,), dtype="int32", name="tokens")
    values = keras.layers.Embedding(20, 8)(tokens)
    values = keras.layers.Bidirectional(getattr(keras.layers, kind)(4))(values)
    keras.Model(tokens, keras.layers.Dense(3, name="scores")(values)).save(tmp_path / "m.keras")
    call = Call({"original": tmp_path / "m.keras"}, {"model": tmp_path / "model"})
    model = execute(import_model, call)["model"].path
    made = exported(model, tmp_path / "out")
    features = {"tokens": np.arange(18, dtype=np.int32).reshape(3, 6)}
    (expected,) = open_runtime(Servable(model)).run(features).values()
    (result,) = open_runtime(made).run(features).values()
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_the_exact_gelu_of_transformers_is_exported(tmp_path: Path) -> None:
    import keras

    given = keras.Input((4, 8), name="given")
    values = keras.layers.MultiHeadAttention(2, 4)(given, given)
    values = keras.layers.LayerNormalization()(values + given)
    values = keras.layers.Dense(16, activation="gelu")(values)
    keras.Model(given, keras.layers.Dense(3, name="scores")(values)).export(
        tmp_path / "model", verbose=False
    )
    made = exported(tmp_path / "model", tmp_path / "out")
    features = {"given": np.random.default_rng(0).normal(size=(3, 4, 8)).astype(np.float32)}
    (expected,) = open_runtime(Servable(tmp_path / "model")).run(features).values()
    (result,) = open_runtime(made).run(features).values()
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_log1p_is_exported(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([None, 3], tf.float32, "price")
    module.serve = tf.function(lambda price: {"y": tf.math.log1p(price)}, input_signature=[spec])
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    prices = np.array([[0, 1e-3, 2.5], [17, 1e4, 1e-6]], np.float32)
    result = open_runtime(exported(tmp_path / "model", tmp_path / "out")).run({"price": prices})
    np.testing.assert_allclose(result["y"], np.log1p(prices), rtol=1e-5, atol=1e-6)


def test_grouped_convolutions_are_exported(tmp_path: Path) -> None:
    """As ConvNeXt and ResNeXt have them. Keras has XLA compile each, in a function of its own."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    network = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 4), name="image"),
            layers.Conv2D(8, 3, padding="same", groups=2, activation="relu"),
            layers.Conv2D(8, 7, padding="same", groups=8),
            layers.LayerNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="kind"),
        ]
    )
    network.save(tmp_path / "network.keras")
    images = np.random.default_rng(0).random((5, 8, 8, 4), np.float32)
    made = exported(tmp_path / "network.keras", tmp_path / "out")
    (result,) = open_runtime(made).run({"image": images}).values()
    np.testing.assert_allclose(result, network(images).numpy(), atol=1e-5)


def test_one_name_for_an_input_and_an_output_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(
        lambda x: {"x": x + 1.0}, input_signature=[tf.TensorSpec((None, 3), tf.float32, "x")]
    )
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.serve)
    with pytest.raises(UnsupportedError, match="an input and an output have one name"):
        exported(tmp_path / "model", tmp_path / "out")


def test_a_broken_savedmodel_is_a_model_error(digits_model: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_model, tmp_path / "broken")
    (tmp_path / "broken" / "variables" / "variables.index").unlink()
    with pytest.raises(ModelError, match="can't be loaded"):
        exported(tmp_path / "broken", tmp_path / "out")


def test_examples_of_another_shape_are_refused(digits_model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "flat.npz", x_train=np.zeros((4, 8), np.float32), y_train=np.zeros(4, int))
    with pytest.raises(ExamplesError):
        exported(digits_model, tmp_path / "out", tmp_path / "flat.npz", precision="int8")


def test_two_inputs_and_integers_keep_their_names(tmp_path: Path) -> None:
    import tensorflow as tf

    class Two(tf.Module):
        def __init__(self) -> None:
            self.table = tf.Variable(tf.random.stateless_normal((9, 4), (0, 0)))

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, 5), tf.int32, name="ids"),
                tf.TensorSpec((None, 4), tf.float32, name="extra"),
            ]
        )
        def __call__(self, ids: Any, extra: Any) -> dict[str, Any]:
            return {"sum": tf.reduce_sum(tf.gather(self.table, ids), axis=1) + extra, "same": ids}

    module = Two()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.__call__)
    made = exported(tmp_path / "model", tmp_path / "out")
    features = {"ids": np.arange(10, dtype=np.int32).reshape(2, 5) % 9, "extra": np.ones((2, 4))}
    features["extra"] = features["extra"].astype(np.float32)
    expected = open_runtime(Servable(tmp_path / "model")).run(features)
    result = open_runtime(made).run(features)
    assert result.keys() == expected.keys() == {"sum", "same"}
    for name, array in expected.items():
        np.testing.assert_allclose(result[name], array, atol=1e-6)
