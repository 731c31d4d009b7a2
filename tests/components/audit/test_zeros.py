from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from paring.audit import Subject
from paring.audit.zeros import densified_tensors, one_hot_products, zero_weights

SUBJECT_OF = Callable[..., Subject]
IDS = tf.TensorSpec((None, 6), tf.int32, name="ids")


def weight(rows: int, columns: int) -> Any:
    return tf.Variable(tf.random.stateless_normal((rows, columns), (1, 2)))


def test_a_product_with_a_one_hot_matrix_is_found(subject_of: SUBJECT_OF) -> None:
    table = weight(100, 4)

    def serve(ids: Any) -> dict[str, Any]:
        return {"y": tf.matmul(tf.one_hot(ids, 100, name="words"), table, name="embed")}

    result = one_hot_products(subject_of(serve, IDS, table=table))
    assert [item.severity for item in result] == ["high"]
    assert "words" in result[0].place
    assert "embed" in result[0].place
    # 6 rows of 100 products and sums for each of 4 columns.
    assert f"{2 * 6 * 100 * 4:,} operations" in result[0].cost
    assert f"{6 * 100 * 4:,} bytes" in result[0].cost


def test_a_bag_of_words_is_found(subject_of: SUBJECT_OF) -> None:
    table = weight(100, 4)

    def serve(ids: Any) -> dict[str, Any]:
        return {"y": tf.matmul(tf.reduce_sum(tf.one_hot(ids, 100), axis=1), table)}

    assert len(one_hot_products(subject_of(serve, IDS, table=table))) == 1


def test_a_gather_and_a_one_hot_output_are_none(subject_of: SUBJECT_OF) -> None:
    table = weight(100, 4)

    def serve(ids: Any) -> dict[str, Any]:
        return {"y": tf.gather(table, ids), "mask": tf.one_hot(ids, 100)}

    assert one_hot_products(subject_of(serve, IDS, table=table)) == []


def test_a_sparse_tensor_made_dense_for_a_product_is_found(subject_of: SUBJECT_OF) -> None:
    table = weight(100, 4)

    def sparse(values: Any) -> Any:
        at = tf.cast(tf.stack([tf.range(6) * 0, tf.range(6) * 7], axis=1), tf.int64)
        return tf.SparseTensor(at, values, (1, 100))

    def densified(values: Any) -> dict[str, Any]:
        return {"y": tf.matmul(tf.sparse.to_dense(sparse(values)), table)}

    def kept(values: Any) -> dict[str, Any]:
        return {"y": tf.sparse.sparse_dense_matmul(sparse(values), table)}

    spec = tf.TensorSpec((6,), tf.float32, name="values")
    assert len(densified_tensors(subject_of(densified, spec, table=table))) == 1
    assert densified_tensors(subject_of(kept, spec, table=table)) == []


@pytest.mark.parametrize(("kept", "count"), [(0.1, 1), (0.5, 0)])
def test_weights_are_found_where_most_are_zero(
    subject_of: SUBJECT_OF, kept: float, count: int
) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(100, 64)) * (rng.random((100, 64)) < kept)
    table = tf.Variable(values.astype("float32"))

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.matmul(x, table)}

    result = zero_weights(subject_of(serve, tf.TensorSpec((None, 100), name="x"), table=table))
    assert len(result) == count
    if result:
        zeros = np.mean(values == 0)
        assert f"at least {zeros:.0%} zeros" in result[0].cost
        assert f"{round(4 * 6400 - (1 - zeros) * 6400 * 20):,} bytes" in result[0].cost
