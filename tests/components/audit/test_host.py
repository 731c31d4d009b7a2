from collections.abc import Callable
from typing import Any

import tensorflow as tf

from paring.audit import Subject
from paring.audit.host import host_copies, python_functions

SUBJECT_OF = Callable[..., Subject]
X = tf.TensorSpec((None, 8), tf.float32, name="x")
KERNEL = tf.Variable(tf.random.stateless_normal((8, 8), (1, 2)))


def test_a_call_into_python_is_found(subject_of: SUBJECT_OF) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.numpy_function(lambda item: item, [x], tf.float32, name="mine")}

    result = python_functions(subject_of(serve, X))
    assert [item.severity for item in result] == ["high"]
    assert "mine" in result[0].place


def test_a_call_into_python_is_found_in_the_body_of_a_loop(subject_of: SUBJECT_OF) -> None:
    def step(index: Any, x: Any) -> tuple[Any, Any]:
        new = tf.numpy_function(lambda item: item, [x], tf.float32, name="mine")
        return index + 1, tf.ensure_shape(new, x.shape)

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.while_loop(lambda index, _: index < 3, step, (0, x))[1]}

    result = python_functions(subject_of(serve, X))
    assert len(result) == 1
    assert "while/" in result[0].place
    assert "mine" in result[0].place


def test_strings_between_products_are_found(subject_of: SUBJECT_OF) -> None:
    def serve(x: Any) -> dict[str, Any]:
        product = tf.matmul(x, KERNEL)
        read = tf.strings.to_number(tf.strings.as_string(product, name="print"), name="parse")
        return {"y": tf.matmul(read, KERNEL)}

    result = host_copies(subject_of(serve, X, kernel=KERNEL))
    assert len(result) == 1
    assert "print" in result[0].place
    assert "parse" in result[0].place
    assert "at least 32 bytes" in result[0].cost
    assert "keep strings out" in result[0].fix


def test_strings_before_the_first_product_are_none(subject_of: SUBJECT_OF) -> None:
    def serve(texts: Any) -> dict[str, Any]:
        read = tf.strings.to_number(texts)
        return {"y": tf.strings.as_string(tf.nn.relu(tf.matmul(read, KERNEL)))}

    spec = tf.TensorSpec((None, 8), tf.string, name="texts")
    subject = subject_of(serve, spec, kernel=KERNEL)
    assert host_copies(subject) == []
    assert python_functions(subject) == []
