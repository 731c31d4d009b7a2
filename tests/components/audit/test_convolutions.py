from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from paring.audit import Subject
from paring.audit.convolutions import standard_convolutions

SUBJECT_OF = Callable[..., Subject]


def test_what_a_separable_convolution_would_save_is_told(subject_of: SUBJECT_OF) -> None:
    kernel = tf.Variable(tf.random.stateless_normal((3, 3, 16, 32), (1, 2)))

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.nn.conv2d(x, kernel, 1, "SAME", name="wide")}

    spec = tf.TensorSpec((None, 8, 8, 16), name="x")
    result = standard_convolutions(subject_of(serve, spec, kernel=kernel))
    standard = 2 * 8 * 8 * 32 * 3 * 3 * 16
    separable = 2 * 8 * 8 * 16 * 3 * 3 + 2 * 8 * 8 * 16 * 32
    assert [item.severity for item in result] == ["high"]
    assert "wide" in result[0].place
    assert f"1 convolution with {standard:,} operations" in result[0].cost
    assert f"{standard - separable:,}" in result[0].cost


@pytest.mark.parametrize("shape", [(3, 3, 3, 32), (1, 1, 16, 32)])
def test_a_first_or_a_pointwise_convolution_is_none(
    subject_of: SUBJECT_OF, shape: tuple[int, ...]
) -> None:
    kernel = tf.Variable(tf.random.stateless_normal(shape, (1, 2)))

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.nn.conv2d(x, kernel, 1, "SAME")}

    spec = tf.TensorSpec((None, 8, 8, shape[2]), name="x")
    assert standard_convolutions(subject_of(serve, spec, kernel=kernel)) == []


def test_a_convolution_in_groups_is_none(subject_of: SUBJECT_OF) -> None:
    kernel = tf.Variable(tf.random.stateless_normal((3, 3, 8, 32), (1, 2)))

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.nn.conv2d(x, kernel, 1, "SAME")}

    spec = tf.TensorSpec((None, 8, 8, 16), name="x")
    assert standard_convolutions(subject_of(serve, spec, kernel=kernel)) == []
