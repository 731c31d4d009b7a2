"""`prune`: real zeros, accuracy kept, and clear refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.saved_models import save_signature

from paring.artifacts import PrunedModel, TFLiteModel
from paring.errors import ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.steps.convert_tflite import convert_tflite
from paring.steps.prune import prune
from paring_pipelines.demo import Digits


@pytest.fixture(scope="module")
def pruned(
    digits_model: Path, digits_npz: Path, tmp_path_factory: pytest.TempPathFactory
) -> PrunedModel:
    """The digits model at 60% zeros."""
    return _prune(digits_model, digits_npz, tmp_path_factory.mktemp("pruned") / "out", sparsity=0.6)


def _prune(model: Path, examples: Path, out: Path, **parameters: object) -> PrunedModel:
    call = Call({"model": model, "examples": examples}, {"pruned": out}, parameters)
    artifact = execute(prune, call)["pruned"]
    assert isinstance(artifact, PrunedModel)
    return artifact


def _scores(folder: Path, images: Any) -> Any:
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return serve(image=tf.constant(images))["digit"].numpy()


def _kernels(file: Path) -> dict[str, Any]:
    import tf_keras

    network = tf_keras.models.load_model(file, compile=False)
    kinds = (tf_keras.layers.Conv2D, tf_keras.layers.Dense)
    return {
        layer.name: layer.kernel.numpy() for layer in network.layers if isinstance(layer, kinds)
    }


def test_every_prunable_kernel_has_the_asked_share_of_zeros(pruned: PrunedModel) -> None:
    kernels = _kernels(pruned.keras_file)
    assert len(kernels) == 5
    for name, kernel in kernels.items():
        # Exact but for rounding to whole weights.
        assert np.mean(kernel == 0) == pytest.approx(0.6, abs=0.51 / kernel.size), name


def test_the_fact_is_the_measured_sparsity(pruned: PrunedModel) -> None:
    kernels = _kernels(pruned.keras_file).values()
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    assert pruned.sparsity == zeros / sum(kernel.size for kernel in kernels)
    assert pruned.sparsity == pytest.approx(0.6, abs=0.002)
    assert pruned.pattern == "unstructured"


def test_accuracy_is_kept_on_unseen_digits(pruned: PrunedModel, digits: Digits) -> None:
    scores = _scores(pruned.serving_dir, digits.x_eval)
    assert np.mean(scores.argmax(axis=1) == digits.y_eval) >= 0.94


def test_signature_and_architecture_are_those_of_the_source(
    pruned: PrunedModel, digits_model: Path, digits_keras: Path
) -> None:
    assert SavedModel(pruned.serving_dir).signature() == SavedModel(digits_model).signature()
    before, after = _kernels(digits_keras), _kernels(pruned.keras_file)
    assert {n: k.shape for n, k in before.items()} == {n: k.shape for n, k in after.items()}


def test_the_same_seed_gives_the_same_model(
    pruned: PrunedModel, digits_model: Path, digits_npz: Path, digits: Digits, tmp_path: Path
) -> None:
    again = _prune(digits_model, digits_npz, tmp_path / "out", sparsity=0.6)
    np.testing.assert_array_equal(
        _scores(again.serving_dir, digits.x_eval), _scores(pruned.serving_dir, digits.x_eval)
    )


@pytest.fixture
def small_npz(tmp_path: Path, digits: Digits) -> Path:
    """320 digits of 8x8, in both splits alike: enough where no accuracy is looked at."""
    images, labels = digits.x_train[:320, ::4, ::4], digits.y_train[:320]
    file = tmp_path / "small.npz"
    np.savez(file, x_train=images, y_train=labels, x_eval=images, y_eval=labels)
    return file


def _save(layers: list[Any], folder: Path) -> Any:
    import tf_keras

    network = tf_keras.Sequential([tf_keras.Input((8, 8, 1), name="image"), *layers])
    save_signature(network, folder)
    return network


def test_layers_that_cannot_be_pruned_stay_dense_and_are_named(
    tmp_path: Path, small_npz: Path
) -> None:
    import tf_keras

    layers = tf_keras.layers
    _save(
        [
            layers.Rescaling(2.0),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Flatten(),
            layers.Dense(10, name="digit"),
        ],
        tmp_path / "model",
    )
    artifact = _prune(tmp_path / "model", small_npz, tmp_path / "out", epochs=1)

    assert artifact.unpruned_layers == ("depthwise (DepthwiseConv2D)",)
    network = tf_keras.models.load_model(artifact.keras_file, compile=False)
    assert np.all(network.get_layer("depthwise").get_weights()[0] != 0)
    assert artifact.sparsity == 0.5


def _patterned(folder: Path) -> None:
    import tf_keras

    layers = tf_keras.layers
    _save(
        [
            layers.Conv2D(12, 3, name="first"),
            layers.Conv2D(10, 3, activation="relu", name="second"),
            layers.SeparableConv2D(8, 3, name="separable"),
            layers.Reshape((4, 8)),
            layers.LSTM(8, unroll=True, name="recurrent"),
            layers.Dense(10, name="digit"),
        ],
        folder,
    )


def _stored_kernels(model: Path, examples: Path, out: Path) -> dict[tuple[int, ...], Any]:
    """The kernels of the int8 file, by shape: [channels out, ..., channels in]."""
    from paring.converters.tflite.tflite_weights import weight_tensors

    call = Call(
        {"model": model, "examples": examples}, {"converted": out}, {"quantization": "int8"}
    )
    made = execute(convert_tflite, call)["converted"]
    assert isinstance(made, TFLiteModel)
    return {tensor.values.shape: tensor.values for tensor in weight_tensors(made.file.read_bytes())}


def test_of_four_input_channels_two_are_zero_in_pattern_2_4(
    tmp_path: Path, small_npz: Path
) -> None:
    _patterned(tmp_path / "model")
    artifact = _prune(tmp_path / "model", small_npz, tmp_path / "out", epochs=1, pattern="2:4")
    assert artifact.pattern == "2:4"
    assert artifact.unpruned_layers == (
        "first (Conv2D: fewer than 4 input channels)",
        "separable.depthwise_kernel (SeparableConv2D: only its pointwise_kernel can be pruned)",
        "recurrent (LSTM: pattern 2:4 is for convolutions and dense layers)",
    )
    # The ten input channels of the separable one end in a group of two.
    assert artifact.sparsity == pytest.approx(
        (3 * 3 * 12 * 10 / 2 + 0.4 * 10 * 8 + 8 * 10 / 2) / (3 * 3 * 12 * 10 + 10 * 8 + 8 * 10)
    )
    stored = _stored_kernels(artifact.path, small_npz, tmp_path / "lite")
    for shape in ((10, 3, 3, 12), (10, 8)):
        groups = stored[shape].reshape(-1, 4)
        # Rounding may add zeros, and takes none away.
        assert np.count_nonzero(groups, axis=1).max() == 2, shape
        assert np.mean(stored[shape] == 0) >= 0.5


def test_blocks_of_four_output_channels_are_zero_in_pattern_1x4(
    tmp_path: Path, small_npz: Path
) -> None:
    _patterned(tmp_path / "model")
    parameters = {"epochs": 1, "pattern": "1x4", "sparsity": 0.7}
    artifact = _prune(tmp_path / "model", small_npz, tmp_path / "out", **parameters)
    assert artifact.pattern == "1x4"
    assert artifact.unpruned_layers == (
        "separable.depthwise_kernel (SeparableConv2D: only its pointwise_kernel can be pruned)",
        "recurrent (LSTM: pattern 1x4 is for convolutions and dense layers)",
    )
    assert artifact.sparsity == pytest.approx(0.7, abs=0.02)
    stored = _stored_kernels(artifact.path, small_npz, tmp_path / "lite")
    kernel = stored[(12, 3, 3, 1)]
    blocks = kernel.reshape(3, 4, 9)
    assert np.mean(np.all(blocks == 0, axis=1)) == pytest.approx(0.7, abs=0.02)
    # The last block of ten channels holds two.
    kernel = stored[(10, 3, 3, 12)].reshape(10, -1)
    blocks = [kernel[start : start + 4] for start in (0, 4, 8)]
    zeros = np.mean([np.all(block == 0, axis=0) for block in blocks])
    assert zeros == pytest.approx(0.7, abs=0.02)


def test_a_model_without_a_layer_for_the_pattern_is_unsupported(
    tmp_path: Path, small_npz: Path
) -> None:
    import tf_keras

    layers = tf_keras.layers
    recurrent = layers.LSTM(10, name="only")
    _save([layers.Reshape((8, 8)), recurrent, layers.Softmax()], tmp_path / "model")
    with pytest.raises(UnsupportedError, match=r"only \(LSTM: pattern 2:4 is for convolutions"):
        _prune(tmp_path / "model", small_npz, tmp_path / "out", pattern="2:4")


def test_pattern_2_4_takes_no_other_sparsity(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="pattern 2:4 makes half of the weights zero"):
        _prune(digits_model, digits_npz, tmp_path / "out", pattern="2:4", sparsity=0.6)


def test_pattern_2_4_leaves_nothing_to_allocate(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    parameters = {"pattern": "2:4", "allocation": "sensitivity"}
    with pytest.raises(ParameterError, match="nothing to allocate"):
        _prune(digits_model, digits_npz, tmp_path / "out", **parameters)


def test_the_budget_goes_where_zeros_cost_least(
    tmp_path: Path, small_npz: Path, digits: Digits
) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    image = tf_keras.Input((8, 8, 1), name="image")
    flat = layers.Flatten()(image)
    branches = [
        layers.Dense(32, activation="relu", name=name)(flat) for name in ("useful", "useless")
    ]
    scores = layers.Dense(10, name="digit")(layers.Concatenate()(branches))
    network = tf_keras.Model(image, scores)
    network.compile("adam", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    network.fit(digits.x_train[:320, ::4, ::4], digits.y_train[:320], epochs=20, verbose=0)
    kernel, bias = network.get_layer("digit").get_weights()
    kernel[32:] = 0
    network.get_layer("digit").set_weights([kernel, bias])
    save_signature(network, tmp_path / "model")

    parameters = {"allocation": "sensitivity", "sparsity": 0.6, "epochs": 1}
    artifact = _prune(tmp_path / "model", small_npz, tmp_path / "out", **parameters)
    # Each of the three kernels has a whole number of zeros.
    assert artifact.sparsity == pytest.approx(0.6, abs=1.5 / (2 * 64 * 32 + 64 * 10))
    shares = dict(item.split(" ") for item in artifact.layer_sparsities)
    assert shares.keys() == {"useful", "useless", "digit"}
    assert float(shares["useless"]) == pytest.approx(0.95, abs=0.001)
    assert float(shares["useful"]) < 0.5
    table = {load["layer"]: load for load in json.loads(artifact.sensitivity_file.read_text())}
    assert len(set(table["useless"]["losses"])) == 1
    assert table["useful"]["losses"][-1] > table["useful"]["losses"][0] + 0.1
    for name, share in shares.items():
        assert table[name]["asked"] == pytest.approx(float(share), abs=0.01)


@pytest.mark.slow
def test_a_keras_3_model_that_the_library_refuses_whole_is_pruned(
    keras_application: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    model, examples = keras_application("MobileNetV3Small", "expanded_conv_4_add")
    artifact = _prune(model, examples, tmp_path / "out", epochs=1, batch_size=8)
    assert artifact.sparsity == pytest.approx(0.5, abs=0.001)
    assert sum("DepthwiseConv2D" in layer for layer in artifact.unpruned_layers) == 5


def test_a_model_without_a_prunable_layer_is_unsupported(tmp_path: Path, small_npz: Path) -> None:
    import tf_keras

    layers = tf_keras.layers
    depthwise = layers.DepthwiseConv2D(3, depth_multiplier=10, name="only")
    _save([depthwise, layers.GlobalAveragePooling2D(), layers.Softmax()], tmp_path / "model")
    with pytest.raises(UnsupportedError, match=r"only \(DepthwiseConv2D\)"):
        _prune(tmp_path / "model", small_npz, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_signature_names_that_the_keras_form_does_not_know_are_kept(
    tmp_path: Path, small_npz: Path
) -> None:
    import tensorflow as tf
    import tf_keras

    network = _save(
        [tf_keras.layers.Flatten(), tf_keras.layers.Dense(10, name="digit")], tmp_path / "unused"
    )

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 1), tf.float32, name="pixels")])
    def serve(pixels: Any) -> dict[str, Any]:
        return {"scores": network(pixels)}

    network.save(tmp_path / "model", save_format="tf", signatures={"serving_default": serve})
    artifact = _prune(tmp_path / "model", small_npz, tmp_path / "out", epochs=1)
    signature = SavedModel(artifact.serving_dir).signature()
    assert (list(signature.inputs), list(signature.outputs)) == (["pixels"], ["scores"])


def test_examples_without_labels_are_unsupported(
    digits_model: Path, digits: Digits, tmp_path: Path
) -> None:
    np.savez(tmp_path / "unlabelled.npz", x_train=digits.x_train[:9], x_eval=digits.x_eval[:9])
    with pytest.raises(UnsupportedError, match="fine-tuning needs labels"):
        _prune(digits_model, tmp_path / "unlabelled.npz", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value"),
    [("sparsity", 1.0), ("sparsity", -0.1), ("epochs", 0), ("learning_rate", 0.0)],
)
def test_parameters_out_of_bounds_are_refused(
    digits_model: Path, digits_npz: Path, tmp_path: Path, name: str, value: float
) -> None:
    with pytest.raises(ParameterError, match=f"prune: {name}"):
        _prune(digits_model, digits_npz, tmp_path / "out", **{name: value})
