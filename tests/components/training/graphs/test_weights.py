"""Weights that are found in graphs, and batch normalizations with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.bare_models import save_frozen, save_keras_3, save_module

from paring.training.graphs.graph_model import GraphModel


def _values(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def _save(build: Callable[[Any], Callable[[Any], Any]], folder: Path) -> GraphModel:
    """Write what `build` makes of a tf.Module, a function of `image` [batch, 8, 8, 4]."""
    import tensorflow as tf

    module = tf.Module()
    call = build(module)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 4], tf.float32, "image")])
    def serve(image: Any) -> dict[str, Any]:
        return {"result": call(image)}

    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return GraphModel.open(folder)


def test_kernels_biases_and_tables_of_a_module(tmp_path: Path) -> None:
    save_module(tmp_path / "model")
    weights = GraphModel.open(tmp_path / "model").weights
    assert {item.name: item.layout for item in weights.kernels} == {
        "filters": "in_out",
        "mixing": "other",
        "dense": "out_in",
        "size": "in_out",
    }
    assert {item.name for item in weights.others} == {"bias", "table"}
    assert weights.left_out == ["table (no kernel of a convolution or matrix product)"]


def test_constants_are_weights_where_no_variable_is_a_kernel(tmp_path: Path) -> None:
    save_module(tmp_path / "model")
    save_frozen(tmp_path / "model", tmp_path / "frozen")
    source = GraphModel.open(tmp_path / "model").weights.kernels
    weights = GraphModel.open(tmp_path / "frozen").weights
    assert len(weights.kernels) == len({item.name for item in weights.kernels}) == 4
    for kernel, original in zip(weights.kernels, source, strict=True):
        np.testing.assert_array_equal(kernel.value, original.value)
        assert kernel.layout == original.layout
        assert kernel.variable is None
    # The bias of the convolution.
    assert [item.value.shape for item in weights.others] == [(16,)]


def test_a_constant_beside_variables_is_part_of_the_program(tmp_path: Path) -> None:
    import tensorflow as tf

    def build(module: Any) -> Callable[[Any], Any]:
        module.kernel = tf.Variable(_values(4, 6), name="kernel")
        fixed = _values(6, 6)
        return lambda image: tf.matmul(
            tf.matmul(tf.reduce_mean(image, [1, 2]), module.kernel), fixed
        )

    weights = _save(build, tmp_path / "model").weights
    assert [item.name for item in weights.kernels] == ["kernel"]
    assert len(weights.left_out) == 1
    assert weights.left_out[0].endswith("(a constant beside variables)")


def test_a_weight_that_a_loop_reads_is_named(tmp_path: Path) -> None:
    import tensorflow as tf

    def build(module: Any) -> Callable[[Any], Any]:
        module.kernel = tf.Variable(_values(4, 4), name="kernel")
        module.looped = tf.Variable(_values(4, 4), name="looped")

        def call(image: Any) -> Any:
            state = tf.matmul(tf.reduce_mean(image, [1, 2]), module.kernel)
            return tf.while_loop(
                lambda step, _: step < 3,
                lambda step, value: (step + 1, tf.tanh(tf.matmul(value, module.looped))),
                (tf.constant(0), state),
            )[1]

        return call

    weights = _save(build, tmp_path / "model").weights
    assert [item.name for item in weights.kernels] == ["kernel"]
    assert len(weights.left_out) == 1
    assert weights.left_out[0].startswith("looped (read by ")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("trainable", [False, True])
def test_batch_normalization_takes_the_statistics_of_the_batch(
    tmp_path: Path, fused: bool, trainable: bool
) -> None:
    import tensorflow as tf

    def build(module: Any) -> Callable[[Any], Any]:
        module.kernel = tf.Variable(_values(3, 3, 4, 6), name="kernel")
        module.scale = tf.Variable(_values(6), name="scale", trainable=trainable)
        module.offset = tf.Variable(_values(6), name="offset", trainable=trainable)
        module.mean = tf.Variable(_values(6), name="mean", trainable=False)
        module.variance = tf.Variable(_values(6) ** 2, name="variance", trainable=False)
        statistics = (module.mean, module.variance)
        scaling = (module.scale, module.offset)

        def call(image: Any) -> Any:
            hidden = tf.nn.conv2d(image, module.kernel, 1, "SAME")
            if not fused:
                return tf.nn.batch_normalization(
                    hidden, *statistics, module.offset, module.scale, 1e-3
                )
            return tf.compat.v1.nn.fused_batch_norm(
                hidden, *scaling, *statistics, epsilon=1e-3, is_training=False
            )[0]

        return call

    model = _save(build, tmp_path / "model")
    # What the SavedModel does not train keeps its statistics.
    assert len(model.batch_norms) == trainable
    names = {item.name for item in model.weights.others}
    assert not names & {"mean", "variance"}
    image = _values(16, 8, 8, 4)

    @tf.function(autograph=False)
    def call(values: Any) -> Any:
        return model.call({"image": values}, {}, [model.graph.outputs["result"]], training=True)[0]

    hidden = tf.nn.conv2d(image, _values(3, 3, 4, 6), 1, "SAME").numpy()
    if trainable:
        mean, variance = hidden.mean((0, 1, 2)), hidden.var((0, 1, 2))
    else:
        mean, variance = _values(6), _values(6) ** 2
    wanted = (hidden - mean) / np.sqrt(variance + 1e-3) * _values(6) + _values(6)
    np.testing.assert_allclose(call(image).numpy(), wanted, rtol=1e-3, atol=1e-3)


def test_the_batch_normalization_of_keras_3_is_found(tmp_path: Path) -> None:
    save_keras_3(tmp_path / "model")
    model = GraphModel.open(tmp_path / "model")
    ((batch_norm, axes),) = model.batch_norms.items()
    assert axes == (0, 1, 2)
    assert batch_norm.mean.name.endswith("moving_mean")
    assert batch_norm.variance.name.endswith("moving_variance")


def test_equal_constants_of_several_places_are_told_apart_by_name(tmp_path: Path) -> None:
    import tensorflow as tf

    same = _values(4, 4)

    def build(module: Any) -> Callable[[Any], Any]:
        def call(image: Any) -> Any:
            hidden = tf.reduce_mean(image, [1, 2])
            for name in ("first", "second"):
                hidden = tf.tanh(tf.matmul(hidden, tf.constant(same, name=name)))
            return hidden

        return call

    model = _save(build, tmp_path / "model")
    first, second = model.weights.kernels
    assert first.sources.isdisjoint(second.sources)
    model.save({first: 2 * same, second: 3 * same}, tmp_path / "other")
    kernels = GraphModel.open(tmp_path / "other").weights.kernels
    np.testing.assert_array_equal(kernels[0].value, 2 * same)
    np.testing.assert_array_equal(kernels[1].value, 3 * same)


def test_constants_of_the_program_are_no_biases(tmp_path: Path) -> None:
    import tensorflow as tf

    kernel, mask = _values(3, 3, 4, 6), np.triu(np.full((64, 64), -1e9, np.float32), 1)

    def build(module: Any) -> Callable[[Any], Any]:
        def call(image: Any) -> Any:
            hidden = tf.nn.conv2d(image, kernel, 1, "SAME")
            hidden *= tf.nn.relu6(hidden + 3.0) / 6.0
            flat = tf.reshape(hidden, [-1, 64, 6])
            scores = tf.matmul(flat, flat, transpose_b=True) + mask
            return tf.matmul(tf.nn.softmax(scores), flat)

        return call

    weights = _save(build, tmp_path / "model").weights
    assert len(weights.kernels) == 1
    assert not weights.others
    assert len(weights.left_out) == 1
