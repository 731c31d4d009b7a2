from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from paring.audit import Subject
from paring.audit.branches import both_branches

SUBJECT_OF = Callable[..., Subject]
X = tf.TensorSpec((None, 16), tf.float32, name="x")


@pytest.fixture
def kernels() -> dict[str, Any]:
    return {
        name: tf.Variable(tf.random.stateless_normal((16, 16), (number, 1)))
        for number, name in enumerate(("left", "right"))
    }


def test_two_products_of_which_one_is_thrown_away_are_found(
    subject_of: SUBJECT_OF, kernels: dict[str, Any]
) -> None:
    def serve(x: Any) -> dict[str, Any]:
        left, right = (tf.nn.relu(tf.matmul(x, kernel)) for kernel in kernels.values())
        return {"y": tf.where(tf.reduce_sum(x) > 0, left, right, name="choice")}

    result = both_branches(subject_of(serve, X, **kernels))
    assert len(result) == 1
    assert "choice" in result[0].place
    assert f"2 operators and 2, and throws one away, at least {2 * 16 * 16 + 16:,} op" in (
        result[0].cost
    )
    assert "tf.cond" in result[0].fix


def test_a_choice_for_each_example_is_found(
    subject_of: SUBJECT_OF, kernels: dict[str, Any]
) -> None:
    def serve(x: Any) -> dict[str, Any]:
        left, right = (tf.matmul(x, kernel) for kernel in kernels.values())
        return {"y": tf.where(tf.reduce_sum(x, axis=1, keepdims=True) > 0, left, right)}

    result = both_branches(subject_of(serve, X, **kernels))
    assert len(result) == 1
    assert "tf.boolean_mask" in result[0].fix


def test_branches_of_unknown_cost_are_found_behind_a_loop(
    subject_of: SUBJECT_OF, kernels: dict[str, Any]
) -> None:
    def serve(x: Any) -> dict[str, Any]:
        looped = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x * 2.0), (0, x))[1]
        left, right = (tf.matmul(looped, kernel) for kernel in kernels.values())
        return {"y": tf.where(tf.reduce_sum(x) > 0, left, right)}

    result = both_branches(subject_of(serve, X, **kernels))
    assert [item.severity for item in result] == ["medium"]
    assert "at least 1 operator of unknown cost" in result[0].cost


def test_a_condition_in_the_graph_is_none(subject_of: SUBJECT_OF, kernels: dict[str, Any]) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {
            "y": tf.cond(
                tf.reduce_sum(x) > 0,
                lambda: tf.matmul(x, kernels["left"]),
                lambda: tf.matmul(x, kernels["right"]),
            )
        }

    assert both_branches(subject_of(serve, X, **kernels)) == []


def test_masks_and_activations_are_none(subject_of: SUBJECT_OF, kernels: dict[str, Any]) -> None:
    def serve(x: Any) -> dict[str, Any]:
        product = tf.matmul(x, kernels["left"])
        activated = tf.where(product > 0, product, tf.exp(product) - 1)
        masked = tf.where(x[:, :1] > 0, tf.matmul(activated, kernels["right"]), 0.0)
        return {"y": masked}

    assert both_branches(subject_of(serve, X, **kernels)) == []


def test_a_branch_that_is_needed_elsewhere_is_not_in_vain(
    subject_of: SUBJECT_OF, kernels: dict[str, Any]
) -> None:
    def serve(x: Any) -> dict[str, Any]:
        left, right = (tf.matmul(x, kernel) for kernel in kernels.values())
        return {"y": tf.where(tf.reduce_sum(x) > 0, left, right), "left": left, "right": right}

    assert both_branches(subject_of(serve, X, **kernels)) == []
