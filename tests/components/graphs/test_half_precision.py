"""Heavy operators compute in half precision, delicate ones do not."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from paring.errors import UnsupportedError
from paring.graphs.half_precision import HalfPrecision, to_half_precision

GENERATOR = np.random.default_rng(0)


def weights(*shape: int) -> Any:
    return tf.constant(GENERATOR.normal(size=shape).astype(np.float32) / 4)


def network() -> Any:
    """From `x` [2, 6, 6, 3] to `y` [2, 5], and `mean` [2, 4] on the way."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (2, 6, 6, 3), "x")
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, weights(3, 3, 3, 4), 1, "SAME"), weights(4)))
        x = tf.concat([x, tf.nn.max_pool2d(x, 1, 1, "VALID")], axis=-1)[..., :4]
        mean = tf.reduce_mean(x, [1, 2], name="mean")
        # A mask for attention, which float16 can't hold.
        masked = tf.matmul(mean, weights(4, 5)) + tf.constant([[0.0, 0, 0, 0, -1e9]])
        tf.nn.softmax(masked, name="y")
    return graph.as_graph_def()


def run(graph_def: Any, outputs: list[str]) -> list[Any]:
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        with tf.compat.v1.Session(graph=graph) as session:
            given = np.random.default_rng(1).random((2, 6, 6, 3), np.float32)
            result: list[Any] = session.run(outputs, {"x:0": given})
    return result


def types(graph_def: Any) -> dict[str, set[str]]:
    """The dtypes that each kind of operator computes in."""
    result: dict[str, set[str]] = {}
    for node in graph_def.node:
        if "T" in node.attr:
            result.setdefault(node.op, set()).add(tf.as_dtype(node.attr["T"].type).name)
    return result


@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 2e-3), ("bfloat16", 2e-2)])
def test_products_and_what_follows_them_are_halved(
    precision: HalfPrecision, tolerance: float
) -> None:
    before = network()
    after = to_half_precision(before, ["y:0", "mean:0"], precision)
    result = types(after)
    for op in ("Conv2D", "BiasAdd", "Relu", "MaxPool", "ConcatV2", "StridedSlice", "MatMul"):
        assert result[op] == {precision}, op
    for op in ("Mean", "Softmax"):
        assert result[op] == {"float32"}, op
    # bfloat16 has float32's range.
    assert result["AddV2"] == {"float32" if precision == "float16" else precision}
    stored = [node for node in after.node if node.op == "Const" and "half" not in node.name]
    large = [
        tf.as_dtype(node.attr["dtype"].type).name
        for node in stored
        if tf.make_ndarray(node.attr["value"].tensor).size >= 20
    ]
    assert large == [precision] * 2
    expected, given = run(before, ["y:0", "mean:0"]), run(after, ["y:0", "mean:0"])
    for item, other in zip(expected, given, strict=True):
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, item, atol=tolerance)
    assert np.abs(expected[0] - given[0]).max() > 0


def test_a_result_that_is_given_keeps_its_type() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (2, 4), "x")
        tf.matmul(tf.matmul(x, weights(4, 4)), weights(4, 4), name="y")
    after = to_half_precision(graph.as_graph_def(), ["y:0"], "float16")
    with tf.Graph().as_default() as made:
        tf.graph_util.import_graph_def(after, name="")
    assert made.get_tensor_by_name("y:0").dtype == tf.float32
    assert types(after)["MatMul"] == {"float16", "float32"}


def test_a_graph_without_products_is_refused() -> None:
    with tf.Graph().as_default() as graph:
        tf.nn.relu(tf.compat.v1.placeholder(tf.float32, (2, 4), "x"), name="y")
    with pytest.raises(UnsupportedError, match="nothing in this model gains from bfloat16"):
        to_half_precision(graph.as_graph_def(), ["y:0"], "bfloat16")


def test_a_graph_whose_weights_do_not_fit_is_refused_with_them() -> None:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, (2, 4), "x")
        tf.nn.relu(tf.matmul(x, 1e6 * np.ones((4, 4), np.float32), name="large"), name="y")
    reason = "values up to 1e\\+06 in a constant of large, and float16 holds up to 65504"
    with pytest.raises(UnsupportedError, match=reason):
        to_half_precision(graph.as_graph_def(), ["y:0"], "float16")
    to_half_precision(graph.as_graph_def(), ["y:0"], "bfloat16")
