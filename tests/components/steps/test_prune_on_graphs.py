"""`prune` of SavedModels without a Keras form."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.bare_models import (
    save_frozen,
    save_images,
    save_keras_3,
    save_module,
    save_subclassed,
)

from paring.artifacts import Model, PrunedModel, TFLiteModel
from paring.errors import ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.steps.convert_tflite import convert_tflite
from paring.steps.import_model import import_model
from paring.steps.prune import prune
from paring_pipelines.demo import Digits


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """Examples of `save_images`."""
    file = tmp_path_factory.mktemp("images") / "images.npz"
    save_images(file, digits)
    return file


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SavedModel of `save_module`."""
    folder = tmp_path_factory.mktemp("module") / "model"
    save_module(folder)
    return folder


def _prune(model: Path, examples: Path, out: Path, **parameters: object) -> PrunedModel:
    call = Call({"model": model, "examples": examples}, {"pruned": out}, parameters)
    artifact = execute(prune, call)["pruned"]
    assert isinstance(artifact, PrunedModel)
    return artifact


def _variables(folder: Path) -> dict[str, Any]:
    """The values of all variables in a SavedModel's checkpoint, by their paths."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    names = [name for name in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in name]
    return {name.partition("/.")[0]: reader.get_tensor(name) for name in names}


def _call(folder: Path, values: Any, key: str = "serving_default") -> dict[str, Any]:
    import tensorflow as tf

    signature = tf.saved_model.load(str(folder)).signatures[key]
    (name,) = signature.structured_input_signature[1]
    outputs = signature(**{name: tf.constant(values)})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def test_kernels_of_a_module_are_pruned_in_its_file(
    module: Path, images: Path, tmp_path: Path
) -> None:
    pruned = _prune(module, images, tmp_path / "out", sparsity=0.5, epochs=2)
    before, after = _variables(module), _variables(pruned.serving_dir)
    zeros = {name: float(np.mean(after[name] == 0)) for name in ("filters", "mixing", "dense")}
    assert zeros == {"filters": 0.5, "mixing": 0.5, "dense": 0.5}
    assert pruned.layer_sparsities == tuple(
        f"{name} 0.500" for name in ("filters", "mixing", "dense", "size")
    )
    assert pruned.sparsity == 0.5
    assert pruned.unpruned_layers == ("table (no kernel of a convolution or matrix product)",)
    # A bias is trained along, from zeros.
    assert np.all(before["bias"] == 0)
    assert np.any(after["bias"] != 0)
    assert (pruned.keras, pruned.trained_form) == ("none", "graph")


def test_all_signatures_stay_and_read_the_pruned_weights(
    module: Path, images: Path, tmp_path: Path, digits: Digits
) -> None:
    pruned = _prune(module, images, tmp_path / "out", epochs=1)
    source, result = SavedModel(module), SavedModel(pruned.serving_dir)
    for key in ("serving_default", "features"):
        assert result.signature(key) == source.signature(key)
    assert (pruned.serving_dir / "saved_model.pb").read_bytes() == (
        module / "saved_model.pb"
    ).read_bytes()
    after = _variables(pruned.serving_dir)
    zeros = np.zeros((1, 8, 8, 1), np.float32)
    features = _call(pruned.serving_dir, zeros, "features")["features"]
    np.testing.assert_allclose(features[0, 0, 0], after["bias"], rtol=1e-6)


def test_fine_tuning_brings_the_outputs_back_to_the_sources(
    module: Path, images: Path, tmp_path: Path, digits: Digits
) -> None:
    pruned = _prune(module, images, tmp_path / "out", epochs=8, learning_rate=3e-3)
    masked = tmp_path / "masked"
    shutil.copytree(module, masked)
    _mask(masked, share=0.5)
    values = digits.x_eval[:, ::4, ::4]
    source = _call(module, values)
    result, untrained = (
        {key: float(np.abs(_call(folder, values)[key] - source[key]).mean()) for key in source}
        for folder in (pruned.serving_dir, masked)
    )
    assert result["digit"] < 0.5 * untrained["digit"]
    assert result["size"] < 0.5 * untrained["size"]


def _mask(folder: Path, share: float) -> None:
    """Zero the smallest weights of the kernels of `save_module`, without any training."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(folder))
    for kernel in (loaded.filters, loaded.mixing, loaded.dense, loaded.size):
        values = kernel.numpy()
        threshold = np.quantile(np.abs(values), share)
        kernel.assign(np.where(np.abs(values) < threshold, 0, values))
    target = folder.with_name("saved")
    tf.saved_model.save(loaded, str(target), signatures=loaded.signatures)
    shutil.rmtree(folder)
    target.rename(folder)


def _of_frozen(folder: Path) -> None:
    save_module(folder.with_name("variables"))
    save_frozen(folder.with_name("variables"), folder)


@pytest.mark.parametrize("save", [save_module, _of_frozen, save_keras_3, save_subclassed])
def test_the_tflite_file_is_as_sparse_and_agrees(
    save: Callable[[Path], None], images: Path, tmp_path: Path, digits: Digits
) -> None:
    from paring.converters.tflite.tflite_weights import weight_tensors
    from paring.runtimes.tflite import TFLiteRuntime

    save(tmp_path / "model")
    pruned = _prune(tmp_path / "model", images, tmp_path / "out", epochs=1)
    assert pruned.sparsity == pytest.approx(0.5, abs=0.01)
    assert not pruned.not_reached
    call = Call({"model": pruned.path, "examples": images}, {"converted": tmp_path / "tflite"}, {})
    converted = execute(convert_tflite, call)["converted"]
    assert isinstance(converted, TFLiteModel)
    stored = weight_tensors(converted.file.read_bytes())
    kernels = [item.values for item in stored if item.values.ndim > 1]
    zeros = sum(np.count_nonzero(item == 0) for item in kernels)
    assert zeros / sum(item.size for item in kernels) > 0.45
    values = np.asarray(digits.x_eval[:16, ::4, ::4])
    (name,) = SavedModel(pruned.serving_dir).signature().inputs
    given = TFLiteRuntime(converted.file).run({name: values})
    for key, wanted in _call(pruned.serving_dir, values).items():
        np.testing.assert_allclose(given[key], wanted, rtol=1e-3, atol=1e-4)


def test_constants_of_a_frozen_graph_stay_constants(images: Path, tmp_path: Path) -> None:
    _of_frozen(tmp_path / "model")
    pruned = _prune(tmp_path / "model", images, tmp_path / "out", epochs=1)
    import tensorflow as tf

    loaded = tf.saved_model.load(str(pruned.serving_dir))
    assert not loaded.signatures["serving_default"].variables
    assert len(pruned.layer_sparsities) == 4


def test_statistics_of_batch_normalization_are_those_of_the_pruned_network(
    images: Path, tmp_path: Path, digits: Digits
) -> None:
    import tensorflow as tf

    save_keras_3(tmp_path / "model")
    pruned = _prune(tmp_path / "model", images, tmp_path / "out", sparsity=0.7, epochs=2)
    after = _variables(pruned.serving_dir)
    # Keras 3 exports each variable a second time, for its own layers, which no signature reads.
    kernel = next(
        value for value in after.values() if value.shape == (3, 3, 1, 16) and np.any(value == 0)
    )
    vectors = [value for value in after.values() if value.shape == (16,)]
    inputs = tf.nn.conv2d(digits.x_train[:320, ::4, ::4], kernel, 1, "VALID").numpy()
    mean, variance = inputs.mean((0, 1, 2)), inputs.var((0, 1, 2))
    # Over most of the examples: a tenth is held out.
    assert min(np.abs(vector - mean).max() for vector in vectors) < 0.1 * np.abs(mean).max()
    assert min(np.abs(vector - variance).max() for vector in vectors) < 0.1 * variance.max()


def test_patterns_and_allocation_are_those_of_the_keras_way(
    module: Path, images: Path, tmp_path: Path
) -> None:
    half = _prune(module, images, tmp_path / "half", pattern="2:4", epochs=1)
    assert half.pattern == "2:4"
    # [channels out, channels in] of a product with a transposed matrix.
    dense = _variables(half.serving_dir)["dense"]
    assert np.all(np.count_nonzero(dense.reshape(10, 4, 4), axis=-1) == 2)
    assert "filters (fewer than 4 input channels)" in half.unpruned_layers

    blocks = _prune(module, images, tmp_path / "blocks", pattern="1x4", epochs=1)
    assert blocks.pattern == "1x4"

    sensitive = _prune(module, images, tmp_path / "sensitive", allocation="sensitivity", epochs=1)
    assert sensitive.sensitivity_file.is_file()
    assert sensitive.sparsity == pytest.approx(0.5, abs=0.02)
    shares = {float(item.rpartition(" ")[2]) for item in sensitive.layer_sparsities}
    assert len(shares) > 1


def test_the_same_seed_gives_the_same_file(module: Path, images: Path, tmp_path: Path) -> None:
    first, second = (
        _variables(_prune(module, images, tmp_path / name, epochs=1).serving_dir)
        for name in ("first", "second")
    )
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_an_imported_model_whose_layers_tf_keras_lacks_is_pruned_on_its_graph(
    images: Path, tmp_path: Path
) -> None:
    save_subclassed(tmp_path / "model")
    call = Call({"original": tmp_path / "model"}, {"model": tmp_path / "imported"}, {})
    imported = execute(import_model, call)["model"]
    assert isinstance(imported, Model)
    assert imported.keras == "none"
    pruned = _prune(imported.path, images, tmp_path / "out", epochs=1)
    assert pruned.trained_form == "graph"
    assert not (pruned.serving_dir / "keras_metadata.pb").exists()


def _save(call: Callable[[Any, Any], Any], folder: Path) -> None:
    """Write `call` of an image and a variable [64, 8] as a SavedModel."""
    import tensorflow as tf

    module = tf.Module()
    draw = np.random.default_rng(0).normal(size=(64, 8))
    module.kernel = tf.Variable(draw.astype(np.float32), name="kernel")

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, "image")])
    def serve(image: Any) -> dict[str, Any]:
        return {"result": call(tf.reshape(image, [-1, 64]), module.kernel)}

    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})


def test_what_cannot_be_trained_is_refused_with_the_reason(images: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    def resized(flat: Any, kernel: Any) -> Any:
        square = tf.reshape(tf.matmul(flat, kernel), [-1, 2, 4, 1])
        return tf.compat.v1.image.resize_area(square, [1, 1])

    @tf.function(jit_compile=True)
    def compiled(flat: Any, kernel: Any) -> Any:
        # For which only XLA has a kernel.
        return tf.math.lgamma(tf.cast(tf.matmul(flat, kernel), tf.bfloat16))

    cases: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
        "nothing": (lambda flat, kernel: flat * 2, "no convolution or matrix product"),
        "gathered": (
            lambda flat, kernel: tf.gather(kernel, tf.cast(flat[:, 0], tf.int32)),
            "kernel .read by ResourceGather",
        ),
        "integers": (
            lambda flat, kernel: tf.argmax(tf.matmul(flat, kernel), axis=1),
            "none of a floating type",
        ),
        "rounded": (
            lambda flat, kernel: tf.cast(tf.matmul(flat, kernel) > 0, tf.float32),
            "no output of this model depends on a kernel",
        ),
        "resized": (resized, "ResizeArea"),
        "compiled": (
            lambda *given: tf.cast(compiled(*given), tf.float32),
            "that only XLA computes",
        ),
    }
    for name, (call, reason) in cases.items():
        _save(call, tmp_path / name)
        with pytest.raises(UnsupportedError, match=reason):
            _prune(tmp_path / name, images, tmp_path / f"{name}-out")


def test_a_function_that_xla_would_compile_is_trained(images: Path, tmp_path: Path) -> None:
    import tensorflow as tf

    _save(tf.function(tf.matmul, jit_compile=True), tmp_path / "model")
    assert _prune(tmp_path / "model", images, tmp_path / "out", epochs=1).sparsity == 0.5


def test_a_strategy_of_several_devices_is_refused(
    module: Path, images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="strategy mirrored"):
        _prune(module, images, tmp_path / "out", strategy="mirrored")


def test_layers_around_a_recurrent_one_are_pruned(tmp_path: Path) -> None:
    """Its loop calls functions of the graph, which the process has to know to run it."""
    import keras

    keras.utils.set_random_seed(0)
    ids = keras.Input((None,), dtype="int64", name="ids")
    hidden = keras.layers.GRU(8)(keras.layers.Embedding(50, 8)(ids))
    keras.Model(ids, keras.layers.Dense(4, name="tags")(hidden)).export(
        str(tmp_path / "model"), verbose=False
    )
    values = np.random.default_rng(0).integers(0, 50, (60, 5))
    np.savez(tmp_path / "ids.npz", x_train=values, x_eval=values)
    pruned = _prune(tmp_path / "model", tmp_path / "ids.npz", tmp_path / "out", epochs=1)
    assert pruned.sparsity == 0.5
    assert any("read by While" in item for item in pruned.unpruned_layers)
    dense = [item for item in _variables(pruned.serving_dir).values() if item.shape == (8, 4)]
    assert min(float(np.mean(item != 0)) for item in dense) == 0.5
    before, after = _call(tmp_path / "model", values), _call(pruned.serving_dir, values)
    for name, array in before.items():
        assert array.shape == after[name].shape
        assert np.any(array != after[name])
