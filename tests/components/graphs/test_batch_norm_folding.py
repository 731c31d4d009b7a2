"""Factors and shifts go into the layer before them where that changes nothing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from paring.graphs.batch_norm_folding import fold_batch_norms

GENERATOR = np.random.default_rng(0)


def values(*shape: int) -> Any:
    """A constant with values between 0.5 and 1.5."""
    return tf.constant(GENERATOR.uniform(0.5, 1.5, shape).astype(np.float32))


def fused(x: Any, channels: int) -> Any:
    parts = [values(channels) for _ in range(4)]
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=parts[0], offset=parts[1], mean=parts[2], variance=parts[3], is_training=False
    ).y


def graph_of(body: Callable[[Any], Any], *shape: int) -> Any:
    """A GraphDef from the placeholder `x` to `y`."""
    with tf.Graph().as_default() as graph:
        tf.identity(body(tf.compat.v1.placeholder(tf.float32, shape, "x")), name="y")
    return graph.as_graph_def()


def run(graph_def: Any, *shape: int) -> np.ndarray:
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        # TensorFlow fuses a grouped convolution with its activation, which it then can't run
        # on processors where it does without oneDNN.
        config = tf.compat.v1.ConfigProto()
        config.graph_options.rewrite_options.remapping = RewriterConfig.OFF
        with tf.compat.v1.Session(graph=graph, config=config) as session:
            given = np.random.default_rng(1).normal(size=shape).astype(np.float32)
            return np.asarray(session.run("y:0", {"x:0": given}))


def check(body: Callable[[Any], Any], *shape: int) -> set[str]:
    """Fold the graph, compare what it gives, and return the operators that it has left."""
    before = graph_of(body, *shape)
    after = fold_batch_norms(before, ["y:0"])
    np.testing.assert_allclose(run(after, *shape), run(before, *shape), rtol=1e-4, atol=1e-5)
    return {node.op for node in after.node} - {"Const", "Placeholder", "Identity"}


@pytest.mark.parametrize(
    ("layer", "operator"),
    [
        (lambda x: tf.nn.conv2d(x, values(3, 3, 4, 6), 1, "SAME"), "Conv2D"),
        (lambda x: tf.nn.conv2d(x, values(3, 3, 2, 6), 1, "VALID"), "Conv2D"),
        (
            lambda x: tf.nn.depthwise_conv2d(x, values(3, 3, 4, 2), (1, 2, 2, 1), "SAME"),
            "DepthwiseConv2dNative",
        ),
        (
            lambda x: tf.nn.conv2d_transpose(x, values(2, 2, 6, 4), (2, 16, 16, 6), 2),
            "Conv2DBackpropInput",
        ),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_batch_normalization_goes_into_every_convolution(
    layer: Callable[[Any], Any], operator: str, bias: bool
) -> None:
    def body(x: Any) -> Any:
        x = layer(x)
        channels = x.shape[-1]
        if bias:
            x = tf.nn.bias_add(x, values(channels))
        return tf.nn.relu(fused(x, channels))

    assert check(body, 2, 8, 8, 4) == {operator, "BiasAdd", "Relu"}


@pytest.mark.parametrize("transposed", [False, True])
def test_a_factor_and_a_shift_go_into_a_dense_layer(transposed: bool) -> None:
    def body(x: Any) -> Any:
        kernel = values(5, 4) if transposed else values(4, 5)
        x = tf.nn.bias_add(tf.matmul(x, kernel, transpose_b=transposed), values(5))
        return (x * values(5) + values(1, 5)) - values(5)

    assert check(body, 3, 4) == {"MatMul", "BiasAdd"}


def test_a_squeezed_axis_does_not_matter() -> None:
    def body(x: Any) -> Any:
        x = tf.nn.conv2d(tf.expand_dims(x, 1), values(1, 3, 4, 6), 1, "VALID")
        return tf.nn.bias_add(tf.squeeze(x, [1]), values(6)) * values(6) + values(6)

    assert check(body, 2, 8, 4) == {"ExpandDims", "Conv2D", "Squeeze", "BiasAdd"}


CONV = "Conv2D"


@pytest.mark.parametrize(
    ("body", "left"),
    [
        # The layer's own result is needed as well.
        (
            lambda x: (lambda y: fused(y, 6) + y)(tf.nn.conv2d(x, values(3, 3, 4, 6), 1, "SAME")),
            {CONV, "FusedBatchNormV3", "AddV2"},
        ),
        # An activation stands between.
        (
            lambda x: fused(tf.nn.relu(tf.nn.conv2d(x, values(3, 3, 4, 6), 1, "SAME")), 6),
            {CONV, "FusedBatchNormV3", "Relu"},
        ),
        # The factor is another one at each place.
        (
            lambda x: tf.nn.conv2d(x, values(3, 3, 4, 6), 1, "SAME") * values(8, 8, 6),
            {CONV, "Mul"},
        ),
        # The kernel is not known.
        (
            lambda x: fused(tf.nn.conv2d(x, tf.reshape(x, (8, 4, 4, 2)), 1, "SAME"), 2),
            {CONV, "Reshape", "FusedBatchNormV3"},
        ),
        # The product has one row for each channel, not one column.
        (
            lambda x: tf.matmul(values(2, 8), x[0, 0]) * values(2, 1),
            {"StridedSlice", "MatMul", "Mul"},
        ),
    ],
)
def test_what_would_change_the_result_is_left(body: Callable[[Any], Any], left: set[str]) -> None:
    assert check(body, 1, 8, 8, 4) == left


def test_what_is_given_keeps_its_value() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (2, 4), "x")
        product = tf.matmul(x, values(4, 3), name="product")
        tf.add(product * values(3), values(3), name="y")
    folded = fold_batch_norms(graph.as_graph_def(), ["product:0", "y:0"])
    np.testing.assert_allclose(run(folded, 2, 4), run(graph.as_graph_def(), 2, 4), rtol=1e-5)
    assert sorted(n.op for n in folded.node if n.op != "Const") == [
        "AddV2",
        "MatMul",
        "Mul",
        "Placeholder",
    ]
