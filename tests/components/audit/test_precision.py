from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from paring.audit import Subject
from paring.audit.precision import float64_operators, int64_indices

SUBJECT_OF = Callable[..., Subject]
X = tf.TensorSpec((None, 16), tf.float32, name="x")
TABLE = tf.Variable(tf.random.stateless_normal((100, 16), (1, 2)))


def test_double_precision_is_found_where_it_comes_in(subject_of: SUBJECT_OF) -> None:
    kernel = tf.Variable(tf.random.stateless_normal((16, 4), (1, 2), dtype=tf.float64))

    def serve(x: Any) -> dict[str, Any]:
        wide = tf.matmul(tf.cast(x, tf.float64), kernel, name="wide")
        return {"y": tf.cast(tf.nn.relu(wide), tf.float32)}

    result = float64_operators(subject_of(serve, X, kernel=kernel))
    assert [item.severity for item in result] == ["high"]
    assert "wide" in result[0].place
    assert "Relu" not in result[0].place
    assert f"2 operators in float64: {2 * 16 * 4 + 4:,} operations" in result[0].cost
    assert f"on {2 * 4 * 8:,} bytes" in result[0].cost


def test_single_precision_is_not_found(subject_of: SUBJECT_OF) -> None:
    assert float64_operators(subject_of(lambda x: {"y": tf.nn.relu(x)}, X)) == []


@pytest.mark.parametrize(("dtype", "count"), [(tf.int64, 1), (tf.int32, 0)])
def test_indices_of_64_bits_are_found(subject_of: SUBJECT_OF, dtype: tf.DType, count: int) -> None:
    spec = tf.TensorSpec((None, 6), dtype, name="ids")
    subject = subject_of(lambda ids: {"y": tf.gather(TABLE, ids, name="take")}, spec, table=TABLE)
    result = int64_indices(subject)
    assert len(result) == count
    if result:
        assert "take" in result[0].place
        assert "48 bytes of indices" in result[0].cost
        assert result[0].fix == "declare the input as tf.int32, or cast it"


def test_an_index_that_the_model_makes_wide_itself_is_found(subject_of: SUBJECT_OF) -> None:
    spec = tf.TensorSpec((None, 6), tf.int32, name="ids")

    def serve(ids: Any) -> dict[str, Any]:
        return {"y": tf.gather(TABLE, tf.cast(ids, tf.int64))}

    result = int64_indices(subject_of(serve, spec, table=TABLE))
    assert [item.fix for item in result] == ["cast to tf.int32 instead"]
