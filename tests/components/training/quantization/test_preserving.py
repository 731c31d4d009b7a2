"""Kernels keep their zeros and clusters through training with fake quantization."""

from typing import Any

import numpy as np
import pytest

from paring.errors import UnsupportedError
from paring.training.quantization.preserving import Preserving
from paring.training.quantization.qat import calibrate_ranges, fake_quantized


def _network(prepare: Any) -> Any:
    """A convolution and a dense layer, and one in float, their kernels prepared."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    network = tf_keras.Sequential(
        [
            tf_keras.Input((6, 6, 2), name="image"),
            layers.Conv2D(8, 3, use_bias=False, name="convolution"),
            layers.BatchNormalization(name="normal"),
            layers.ReLU(name="rectified"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Dense(6, activation="elu", name="bent"),
            layers.Flatten(name="flat"),
            layers.Dense(3, name="scores"),
        ]
    )
    for name in ("convolution", "scores"):
        kernel = network.get_layer(name).kernel
        kernel.assign(prepare(kernel.numpy()))
    return network


def _pruned(kernel: Any) -> Any:
    return np.where(np.abs(kernel) < np.median(np.abs(kernel)), 0, kernel)


def _clustered(kernel: Any) -> Any:
    # Five values, zero among them.
    return np.round(2 * kernel / np.abs(kernel).max()).astype(np.float32) / 2


def _train(network: Any) -> None:
    import tf_keras

    generator = np.random.default_rng(0)
    images = generator.normal(size=(64, 6, 6, 2)).astype(np.float32)
    network.compile(
        tf_keras.optimizers.Adam(0.01),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    network.fit(images, generator.integers(0, 3, 64), batch_size=16, epochs=2, verbose=0)


def _trained(prepare: Any, **asked: bool) -> tuple[Preserving, dict[str, Any]]:
    wrapped = fake_quantized(_network(prepare)).model
    preserving = Preserving(wrapped, **asked)
    _train(wrapped)
    preserving.settle()
    return preserving, {name: _kernel(wrapped, name) for name in ("convolution", "scores")}


def _variables(layer: Any) -> dict[str, Any]:
    """A wrapped layer's variables, by the last part of their names."""
    return {weight.name.split(":")[0].split("/")[-1]: weight for weight in layer.weights}


def _kernel(wrapped: Any, name: str) -> Any:
    return _variables(wrapped.get_layer(name))["kernel"].numpy()


def _before(prepare: Any) -> dict[str, Any]:
    network = _network(prepare)
    return {name: network.get_layer(name).kernel.numpy() for name in ("convolution", "scores")}


def test_zeros_stay_where_they_are_and_the_rest_is_trained() -> None:
    preserving, kernels = _trained(_pruned, sparsity=True, clusters=False)
    for name, before in _before(_pruned).items():
        np.testing.assert_array_equal(kernels[name] == 0, before == 0)
        assert np.all(kernels[name][before != 0] != before[before != 0])
    assert preserving.sparsity() == 0.5
    assert preserving.distinct_weights() is None
    assert preserving.not_preserved == ["depthwise (no zeros)", "bent (in float)"]


@pytest.mark.parametrize("sparsity", [False, True])
def test_equal_weights_move_together(sparsity: bool) -> None:
    preserving, kernels = _trained(_clustered, sparsity=sparsity, clusters=True)
    for name, before in _before(_clustered).items():
        after = kernels[name]
        for value in np.unique(before):
            (moved,) = np.unique(after[before == value])
            assert (moved == value) == (sparsity and value == 0)
    assert preserving.distinct_weights() == 5
    missing = "no zeros, no clusters" if sparsity else "no clusters"
    assert preserving.not_preserved == [f"depthwise ({missing})", "bent (in float)"]


def test_plain_training_with_fake_quantization_loses_both() -> None:
    """Check that the tests above would fail if nothing was preserved."""
    wrapped = fake_quantized(_network(_clustered)).model
    _train(wrapped)
    kernel = _kernel(wrapped, "convolution")
    assert np.mean(kernel == 0) < 0.01
    assert len(np.unique(kernel)) > 100


def test_a_kernel_with_clusters_has_one_scale_for_all_channels() -> None:
    wrapped = fake_quantized(_network(_clustered)).model
    Preserving(wrapped, sparsity=False, clusters=True)
    _train(wrapped)
    result = _variables(wrapped.get_layer("convolution"))
    highest = result["kernel_max"].numpy()
    assert highest.shape == (8,)
    assert len(set(highest)) == 1
    np.testing.assert_array_equal(result["kernel_min"].numpy(), -highest)


def test_a_channel_of_zeros_has_a_scale_that_its_bias_fits() -> None:
    def prepare(kernel: Any) -> Any:
        kernel = _pruned(kernel)
        kernel[..., 1] = 0
        return kernel

    wrapped = fake_quantized(_network(prepare)).model
    Preserving(wrapped, sparsity=True, clusters=False)
    _train(wrapped)
    result = _variables(wrapped.get_layer("convolution"))
    highest = result["kernel_max"].numpy()
    assert highest[1] == 1
    others = np.abs(result["kernel"].numpy()).max(axis=(0, 1, 2))
    # The range is from before the last update of the weights.
    np.testing.assert_allclose(np.delete(highest, 1), np.delete(others, 1), atol=0.05)


def test_settling_makes_weights_that_rounding_moved_apart_equal() -> None:
    wrapped = fake_quantized(_network(_clustered)).model
    preserving = Preserving(wrapped, sparsity=True, clusters=True)
    variable = _variables(wrapped.get_layer("scores"))["kernel"]
    exact = variable.numpy()
    shaken = exact.copy()
    shaken[0] = np.nextafter(shaken[0], np.float32(9))
    variable.assign(shaken)
    assert preserving.distinct_weights() != 5
    preserving.settle()
    assert preserving.distinct_weights() == 5
    np.testing.assert_allclose(variable.numpy(), exact, rtol=1e-6)
    np.testing.assert_array_equal(variable.numpy() == 0, exact == 0)


def test_ranges_of_activations_can_be_calibrated_with_it() -> None:
    from paring.data.examples import Split

    wrapped = fake_quantized(_network(_pruned)).model
    Preserving(wrapped, sparsity=True, clusters=False)
    images = np.full((4, 6, 6, 2), 3, np.float32)
    calibrate_ranges(wrapped, Split({"image": images}, None, 4), np.arange(4), batch_size=4, seed=0)
    # Where the library starts every range.
    assert abs(_variables(wrapped.get_layer("depthwise"))["post_activation_max"].numpy()) != 6


def _dense(kernel: Any) -> Any:
    return kernel


def _sparse_alone(kernel: Any) -> Any:
    # Few distinct values, since most are zero, and yet no clusters.
    return np.where(np.arange(kernel.size).reshape(kernel.shape) % 5, 0, kernel)


@pytest.mark.parametrize(
    ("prepare", "asked", "what", "remedy"),
    [
        (_dense, {"sparsity": True, "clusters": False}, "no zeros", "prune it first"),
        (_dense, {"sparsity": False, "clusters": True}, "no clusters", "cluster it first"),
        (_sparse_alone, {"sparsity": True, "clusters": True}, "no clusters", "cluster it first"),
    ],
)
def test_a_model_with_nothing_to_preserve_is_refused(
    prepare: Any, asked: dict[str, bool], what: str, remedy: str
) -> None:
    wrapped = fake_quantized(_network(prepare)).model
    with pytest.raises(UnsupportedError, match=rf"{what} to preserve(.|\n)*{remedy}"):
        Preserving(wrapped, **asked)
