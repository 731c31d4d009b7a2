"""`quantize`: becomes an integer model without a representative set."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Model, QuantizedModel, TFLiteModel
from paring.data.examples import Split
from paring.errors import UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.steps.cluster import cluster
from paring.steps.convert_tflite import convert_tflite
from paring.steps.prune import prune
from paring.steps.quantize import quantize
from paring_pipelines.demo import Digits


@pytest.fixture(scope="module")
def quantized(
    digits_model: Path, digits_npz: Path, tmp_path_factory: pytest.TempPathFactory
) -> QuantizedModel:
    """The digits model after one epoch with fake quantization."""
    return _quantize(digits_model, digits_npz, tmp_path_factory.mktemp("qat") / "out", epochs=1)


def _quantize(model: Path, examples: Path, out: Path, **parameters: object) -> QuantizedModel:
    call = Call({"model": model, "examples": examples}, {"quantized": out}, parameters)
    artifact = execute(quantize, call)["quantized"]
    assert isinstance(artifact, QuantizedModel)
    return artifact


def _to_int8(folder: Path) -> bytes:
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    content: bytes = converter.convert()
    return content


def test_signature_is_that_of_the_source(quantized: QuantizedModel, digits_model: Path) -> None:
    assert SavedModel(quantized.serving_dir).signature() == SavedModel(digits_model).signature()


def test_it_converts_to_int8_without_a_representative_set(
    quantized: QuantizedModel, digits: Digits
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    content = _to_int8(quantized.serving_dir)
    interpreter = Interpreter(model_content=content)
    interpreter.resize_tensor_input(0, digits.x_eval.shape)
    run = interpreter.get_signature_runner("serving_default")
    scores = run(image=digits.x_eval)["digit"]

    assert scores.dtype == np.float32
    assert np.mean(scores.argmax(axis=1) == digits.y_eval) >= 0.95
    # Float is left only where the model is entered and left.
    floats = [
        detail for detail in interpreter.get_tensor_details() if detail["dtype"] == np.float32
    ]
    assert len(floats) == 2


def test_a_source_whose_statistics_lag_far_behind_can_be_trained(
    digits_keras: Path, digits_npz: Path, digits: Digits, tmp_path: Path
) -> None:
    import tf_keras

    from paring.models.loading import load_keras

    model = tf_keras.models.load_model(digits_keras, compile=False)
    for layer in model.layers:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            layer.moving_variance.assign(1e4 * layer.moving_variance)
    model.save(tmp_path / "lagging.keras")
    made = _quantize(tmp_path / "lagging.keras", digits_npz, tmp_path / "out", epochs=1)
    scores = load_keras(made).predict(digits.x_eval, verbose=0)
    assert np.mean(scores.argmax(axis=1) == digits.y_eval) >= 0.9


def test_twice_gives_the_same_bytes(
    quantized: QuantizedModel, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    again = _quantize(digits_model, digits_npz, tmp_path / "out", epochs=1)
    assert _to_int8(again.serving_dir) == _to_int8(quantized.serving_dir)


def test_both_forms_round_alike(quantized: QuantizedModel, digits: Digits) -> None:
    import tensorflow as tf

    from paring.models.loading import load_keras

    serve = tf.saved_model.load(str(quantized.serving_dir)).signatures["serving_default"]
    served = serve(image=tf.constant(digits.x_eval))["digit"].numpy()
    again = load_keras(quantized)(digits.x_eval, training=False).numpy()
    np.testing.assert_allclose(served, again, atol=1e-5)
    functions = SavedModel(quantized.serving_dir).meta_graph.graph_def.library.function
    kinds = {node.op for function in functions for node in function.node_def}
    assert {"FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel"} <= kinds


@pytest.fixture(scope="module")
def clustered(
    digits_model: Path, digits_npz: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The digits model at half zeros and at most 16 values in each kernel."""
    folder = tmp_path_factory.mktemp("clustered")
    inputs = {"model": digits_model, "examples": digits_npz}
    execute(prune, Call(inputs, {"pruned": folder / "pruned"}, {"epochs": 1}))
    inputs["model"] = folder / "pruned"
    parameters = {"preserve_sparsity": True, "epochs": 1}
    execute(cluster, Call(inputs, {"clustered": folder / "out"}, parameters))
    return folder / "out"


def test_zeros_and_clusters_are_in_the_integer_file(
    clustered: Path, digits_npz: Path, digits: Digits, tmp_path: Path
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from paring.converters.tflite.tflite_weights import weight_tensors

    made = _quantize(
        clustered,
        digits_npz,
        tmp_path / "qat",
        epochs=1,
        preserve_sparsity=True,
        preserve_clusters=True,
    )
    assert made.sparsity == pytest.approx(0.5, abs=0.01)
    assert made.distinct_weights == 16
    assert sum("(no zeros, no clusters)" in item for item in made.not_preserved) == 3

    inputs = {"model": made.path}
    call = Call(inputs, {"converted": tmp_path / "lite"}, {"quantization": "int8"})
    lite = execute(convert_tflite, call)["converted"]
    assert isinstance(lite, TFLiteModel)
    content = lite.file.read_bytes()
    preserved = [item for item in weight_tensors(content) if item.values.shape[:3] != (1, 3, 3)]
    assert len(preserved) == 5
    for tensor in preserved:
        assert tensor.values.dtype == np.int8
        assert len(np.unique(tensor.values)) <= 16, tensor.name
        assert tensor.zeros / tensor.values.size >= 0.49, tensor.name
    assert lite.distinct_weights is not None
    assert lite.distinct_weights <= 16

    run = Interpreter(model_content=content).get_signature_runner("serving_default")
    scores = np.concatenate([run(image=item[None])["digit"] for item in digits.x_eval])
    assert np.mean(scores.argmax(axis=1) == digits.y_eval) >= 0.94


def test_there_must_be_something_to_preserve(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match=r"no clusters to preserve(.|\n)*cluster it first"):
        _quantize(digits_model, digits_npz, tmp_path / "out", preserve_clusters=True)
    assert not (tmp_path / "out").exists()


def test_activation_ranges_start_from_the_data(digits: Digits) -> None:
    import tf_keras

    from paring.training.quantization.qat import calibrate_ranges, fake_quantized

    layers = tf_keras.layers
    image = tf_keras.Input((32, 32, 1), name="image")
    hidden = layers.Dense(8, activation="relu", name="hidden")(layers.Flatten()(image))
    model = tf_keras.Model(image, layers.Dense(10, name="digit")(hidden))
    # Grey levels of 0 to 255, so that activations are far outside [-6, 6].
    images = digits.x_train[:64] * 255
    split = Split({"image": images}, None, 64)

    wrapped = fake_quantized(model).model
    calibrate_ranges(wrapped, split, np.arange(64), batch_size=64, seed=0)

    highest = float(np.max(tf_keras.Model(image, hidden)(images)))
    result = {
        weight.name.split(":")[0]: weight.numpy() for weight in wrapped.get_layer("hidden").weights
    }
    assert highest > 60
    assert result["hidden/post_activation_max"] == pytest.approx(highest, rel=1e-5)
    assert result["hidden/post_activation_min"] == 0


def _rescaled(layers: Any, values: Any) -> Any:
    return layers.Rescaling(2.0, name="scale")(values)


def _nested(layers: Any, values: Any) -> Any:
    import tf_keras

    inner = tf_keras.Input((8, 8, 1))
    return tf_keras.Model(inner, layers.ReLU()(inner), name="backbone")(values)


def _function(layers: Any, values: Any) -> Any:
    import tensorflow as tf

    return tf.nn.gelu(values)


def _activation(layers: Any, values: Any) -> Any:
    return layers.Activation("elu", name="bent")(values)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (_rescaled, "layer scale is a Rescaling"),
        (_nested, "layer backbone is a model inside the model"),
        (_function, "is a call of tf.nn.gelu"),
        (_activation, "layer bent has the activation elu"),
    ],
)
def test_a_layer_without_a_quantized_form_is_named(
    start: Callable[[Any, Any], Any], reason: str
) -> None:
    import tf_keras

    from paring.training.quantization.qat import fake_quantized

    layers = tf_keras.layers
    image = tf_keras.Input((8, 8, 1), name="image")
    values = start(layers, image)
    for convolution in (layers.Conv2D(4, 3), layers.DepthwiseConv2D(3)):
        values = layers.BatchNormalization()(convolution(values))
    model = tf_keras.Model(image, layers.Dense(10)(layers.Flatten()(values)))

    made = fake_quantized(model)
    reasons = "; ".join(made.float_layers.values())
    assert re.search(reason, reasons)
    # Batch normalization that is folded away is quantized with its convolution.
    assert "BatchNormalization" not in reasons
    quantized = [item for item in made.model.layers if type(item).__name__ == "QuantizeWrapperV2"]
    assert {"Conv2D", "DepthwiseConv2D"} <= {type(item.layer).__name__ for item in quantized}


def test_batch_normalization_that_is_folded_into_nothing_is_named() -> None:
    import tf_keras

    from paring.training.quantization.qat import fake_quantized

    layers = tf_keras.layers
    values = tf_keras.Input((8,))
    hidden = layers.Dense(8, activation="relu")(values)
    # After an activation, after what is read twice, and after what is an output.
    hidden = layers.Dense(8, name="read_twice")(layers.BatchNormalization(name="first")(hidden))
    hidden = layers.Add()([hidden, layers.BatchNormalization(name="second")(hidden)])
    folded = layers.BatchNormalization(name="folded")(layers.Dense(4)(hidden))
    output = layers.Dense(3)(folded)
    third = layers.BatchNormalization(name="third")(output)
    made = fake_quantized(tf_keras.Model(values, [output, third]))
    assert set(made.float_layers) == {"first", "second", "third"}
    assert (
        "first is a BatchNormalization, which has no quantized form" in made.float_layers["first"]
    )


def test_a_layer_that_ends_in_a_swish_becomes_an_integer_kernel(
    digits: Digits, tmp_path: Path
) -> None:
    import tf_keras

    from paring.converters.tflite.tflite_weights import weight_tensors
    from paring.training.quantization.qat import calibrate_ranges, fake_quantized

    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            tf_keras.Input((32, 32, 1), name="image"),
            layers.Conv2D(8, 3, strides=4, activation="swish", name="first"),
            layers.DepthwiseConv2D(3, activation="swish"),
            layers.Flatten(),
            layers.Dense(16, activation="swish"),
            layers.Dense(10),
        ]
    )
    made = fake_quantized(model)
    assert made.float_layers == {}
    images = digits.x_train[:64]
    calibrate_ranges(
        made.model, Split({"image": images}, None, 64), np.arange(64), batch_size=64, seed=0
    )
    # Ranges of kernels are taken in training.
    made.model(images, training=True)
    expected = model.predict(images, verbose=0)
    result = made.model.predict(images, verbose=0)
    assert np.abs(result - expected).max() < 0.1 * np.abs(expected).max()
    made.model.save(tmp_path / "made", save_format="tf")
    stored = list(weight_tensors(_to_int8(tmp_path / "made")))
    assert {item.values.dtype for item in stored} == {np.dtype(np.int8)}
    assert sorted(item.values.size for item in stored) == [72, 72, 160, 4608]


def test_a_layer_that_ends_in_a_swish_and_is_called_twice_is_named() -> None:
    import tf_keras

    from paring.training.quantization.qat import fake_quantized

    values = tf_keras.Input((8,))
    twice = tf_keras.layers.Dense(8, activation="swish", name="twice")
    scores = tf_keras.layers.Dense(3)(twice(twice(values)))
    made = fake_quantized(tf_keras.Model(values, scores))
    assert "twice is called several times" in made.float_layers["twice"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "until"),
    [("EfficientNetB0", "block2b_add"), ("MobileNetV3Small", "expanded_conv_4_add")],
)
def test_what_the_library_refuses_whole_is_quantized_where_it_can_be(
    name: str, until: str, keras_application: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    """Kernels of a Keras 3 model become int8 beside layers that have no quantized form."""
    from paring.converters.tflite.tflite_weights import weight_tensors

    model, examples = keras_application(name, until)
    made = _quantize(model, examples, tmp_path / "out", epochs=1, batch_size=8)
    assert "is a Multiply, which has no quantized form" in "; ".join(made.float_layers)
    stored = list(weight_tensors(_to_int8(made.serving_dir)))
    assert {item.values.dtype for item in stored} == {np.dtype(np.int8)}
    assert sorted(item.values.size for item in stored) == _kernel_sizes(model)


def _kernel_sizes(file: Path) -> list[int]:
    from paring.models.loading import load_keras

    weights = load_keras(Model(file)).weights
    return sorted(int(np.prod(weight.shape)) for weight in weights if len(weight.shape) > 1)


def test_a_model_without_a_layer_that_can_be_quantized_is_refused() -> None:
    import tf_keras

    from paring.training.quantization.qat import fake_quantized

    values = tf_keras.Input((8,))
    scores = tf_keras.layers.Dense(3, activation="selu", name="scores")(values)
    with pytest.raises(UnsupportedError, match="scores has the activation selu"):
        fake_quantized(tf_keras.Model(values, scores))


def test_examples_without_labels_are_unsupported(
    digits_model: Path, digits: Digits, tmp_path: Path
) -> None:
    np.savez(tmp_path / "unlabelled.npz", x_train=digits.x_train[:9], x_eval=digits.x_eval[:9])
    with pytest.raises(UnsupportedError, match="fine-tuning needs labels"):
        _quantize(digits_model, tmp_path / "unlabelled.npz", tmp_path / "out")
