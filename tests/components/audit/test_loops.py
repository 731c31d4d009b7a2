from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from paring.audit import Subject
from paring.audit.loops import unrolled_loops

SUBJECT_OF = Callable[..., Subject]
STEPS = 12
SEQUENCE = tf.TensorSpec((None, STEPS, 5), tf.float32, name="x")


@pytest.fixture
def recurrent() -> dict[str, Any]:
    return {
        "kernel": tf.Variable(tf.random.stateless_normal((5, 8), (1, 2)), name="kernel"),
        "recurrent": tf.Variable(tf.random.stateless_normal((8, 8), (3, 4)), name="recurrent"),
    }


def test_a_loop_that_python_unrolled_is_found(
    subject_of: SUBJECT_OF, recurrent: dict[str, Any]
) -> None:
    def serve(x: Any) -> dict[str, Any]:
        state = tf.zeros((tf.shape(x)[0], 8))
        for step in range(STEPS):
            state = tf.tanh(
                tf.matmul(x[:, step], recurrent["kernel"])
                + tf.matmul(state, recurrent["recurrent"], name="recur")
            )
        return {"y": state}

    result = unrolled_loops(subject_of(serve, SEQUENCE, **recurrent))
    assert [item.rule for item in result] == ["unrolled_loop"]
    assert result[0].severity == "high"
    # The first step, on zeros, is unlike the others.
    assert f"{STEPS - 1} equal steps" in result[0].cost
    assert "recur" in result[0].place
    assert "tf.while_loop" in result[0].fix


def test_a_loop_in_the_graph_is_none(subject_of: SUBJECT_OF, recurrent: dict[str, Any]) -> None:
    def serve(x: Any) -> dict[str, Any]:
        projected = tf.matmul(x, recurrent["kernel"])
        state = tf.zeros((tf.shape(x)[0], 8))

        def step(index: Any, state: Any) -> tuple[Any, Any]:
            new = tf.tanh(projected[:, index] + tf.matmul(state, recurrent["recurrent"]))
            return index + 1, new

        _, state = tf.while_loop(lambda index, _: index < STEPS, step, (0, state))
        return {"y": state}

    assert unrolled_loops(subject_of(serve, SEQUENCE, **recurrent)) == []


def test_a_layer_applied_to_slices_one_by_one_is_found(
    subject_of: SUBJECT_OF, recurrent: dict[str, Any]
) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {
            "y": tf.stack(
                [tf.matmul(item, recurrent["kernel"]) for item in tf.unstack(x, axis=1)], axis=1
            )
        }

    result = unrolled_loops(subject_of(serve, SEQUENCE, **recurrent))
    assert [item.rule for item in result] == ["layer_in_a_loop"]
    assert f"{STEPS} equal steps" in result[0].cost


def test_equal_blocks_with_weights_of_their_own_are_no_loop(subject_of: SUBJECT_OF) -> None:
    kernels = [
        tf.Variable(tf.random.stateless_normal((8, 8), (number, 1))) for number in range(STEPS)
    ]

    def serve(x: Any) -> dict[str, Any]:
        for kernel in kernels:
            x = tf.nn.softmax(tf.nn.relu(tf.matmul(x, kernel)) * 2.0)
        return {"y": x}

    spec = tf.TensorSpec((None, 8), tf.float32, name="x")
    assert unrolled_loops(subject_of(serve, spec, kernels=kernels)) == []


def test_two_towers_that_share_weights_are_no_loop(
    subject_of: SUBJECT_OF, recurrent: dict[str, Any]
) -> None:
    def serve(x: Any) -> dict[str, Any]:
        left, right = (tf.nn.relu(tf.matmul(x[:, i], recurrent["kernel"])) for i in (0, 1))
        return {"y": left * right}

    assert unrolled_loops(subject_of(serve, SEQUENCE, **recurrent)) == []
