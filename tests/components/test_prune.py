"""`prune`: real zeros, accuracy kept, and clear refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import PrunedModel
from paring.errors import ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.prune import prune
from paring.tf.signature import read_signature
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
    return {one.name: one.kernel.numpy() for one in network.layers if isinstance(one, kinds)}


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


def test_accuracy_is_kept_on_unseen_digits(pruned: PrunedModel, digits: Digits) -> None:
    scores = _scores(pruned.serving_dir, digits.x_eval)
    assert np.mean(scores.argmax(axis=1) == digits.y_eval) >= 0.94


def test_signature_and_architecture_are_those_of_the_source(
    pruned: PrunedModel, digits_model: Path, digits_keras: Path
) -> None:
    assert read_signature(pruned.serving_dir) == read_signature(digits_model)
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
    network.save(folder, save_format="tf")
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

    assert artifact.left_dense == "depthwise (DepthwiseConv2D)"
    network = tf_keras.models.load_model(artifact.keras_file, compile=False)
    assert np.all(network.get_layer("depthwise").get_weights()[0] != 0)
    assert artifact.sparsity == 0.5


@pytest.mark.slow
def test_a_keras_3_model_that_the_library_refuses_whole_is_pruned(
    keras_application: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    model, examples = keras_application("MobileNetV3Small")
    artifact = _prune(model, examples, tmp_path / "out", epochs=1, batch_size=8)
    assert artifact.sparsity == pytest.approx(0.5, abs=0.001)
    assert artifact.left_dense.count("DepthwiseConv2D") == 11


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
    signature = read_signature(artifact.serving_dir)
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
