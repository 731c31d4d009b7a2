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
        return {"y": tf.numpy_function(lambda one: one, [x], tf.float32, name="mine")}

    found = python_functions(subject_of(serve, X))
    assert [one.severity for one in found] == ["high"]
    assert "mine" in found[0].place


def test_a_call_into_python_is_found_in_the_body_of_a_loop(subject_of: SUBJECT_OF) -> None:
    def step(index: Any, x: Any) -> tuple[Any, Any]:
        new = tf.numpy_function(lambda one: one, [x], tf.float32, name="mine")
        return index + 1, tf.ensure_shape(new, x.shape)

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.while_loop(lambda index, _: index < 3, step, (0, x))[1]}

    found = python_functions(subject_of(serve, X))
    assert len(found) == 1
    assert "while/" in found[0].place
    assert "mine" in found[0].place


def test_strings_between_products_are_found(subject_of: SUBJECT_OF) -> None:
    def serve(x: Any) -> dict[str, Any]:
        product = tf.matmul(x, KERNEL)
        read = tf.strings.to_number(tf.strings.as_string(product, name="print"), name="parse")
        return {"y": tf.matmul(read, KERNEL)}

    found = host_copies(subject_of(serve, X, kernel=KERNEL))
    assert len(found) == 1
    assert "print" in found[0].place
    assert "parse" in found[0].place
    assert "at least 32 bytes" in found[0].cost
    assert "keep strings out" in found[0].fix


def test_strings_before_the_first_product_are_none(subject_of: SUBJECT_OF) -> None:
    def serve(texts: Any) -> dict[str, Any]:
        read = tf.strings.to_number(texts)
        return {"y": tf.strings.as_string(tf.nn.relu(tf.matmul(read, KERNEL)))}

    spec = tf.TensorSpec((None, 8), tf.string, name="texts")
    subject = subject_of(serve, spec, kernel=KERNEL)
    assert host_copies(subject) == []
    assert python_functions(subject) == []
