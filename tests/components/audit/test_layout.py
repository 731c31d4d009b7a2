from collections.abc import Callable
from typing import Any

import tensorflow as tf

from paring.audit import Subject
from paring.audit.layout import layout_transposes

SUBJECT_OF = Callable[..., Subject]
KERNEL = tf.Variable(tf.random.stateless_normal((3, 3, 4, 4), (1, 2)))


def convolved(x: Any) -> Any:
    return tf.nn.relu(tf.nn.conv2d(x, KERNEL, 1, "SAME"))


def test_transposes_around_a_convolution_are_found(subject_of: SUBJECT_OF) -> None:
    def serve(x: Any) -> dict[str, Any]:
        last = tf.transpose(x, (0, 2, 3, 1), name="to_last")
        return {"y": tf.transpose(convolved(last), (0, 3, 1, 2), name="to_first")}

    spec = tf.TensorSpec((None, 4, 8, 8), name="x")
    result = layout_transposes(subject_of(serve, spec, kernel=KERNEL))
    assert len(result) == 1
    assert "to_last" in result[0].place
    assert "to_first" in result[0].place
    assert f"2 transposes: {2 * 2 * 4 * 8 * 8 * 4:,} bytes" in result[0].cost
    assert result[0].severity == "medium"


def test_other_transposes_are_none(subject_of: SUBJECT_OF) -> None:
    def serve(x: Any) -> dict[str, Any]:
        # Height and width change places, as an image is turned.
        turned = convolved(tf.transpose(x, (0, 2, 1, 3)))
        # Heads of attention, which no convolution is near.
        heads = tf.transpose(tf.reshape(x[:, 0], (-1, 2, 4, 4)), (0, 2, 3, 1))
        return {"y": turned, "heads": tf.matmul(heads, heads, transpose_b=True)}

    spec = tf.TensorSpec((None, 8, 8, 4), name="x")
    assert layout_transposes(subject_of(serve, spec, kernel=KERNEL)) == []
