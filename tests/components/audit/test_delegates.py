from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from paring.audit import Subject
from paring.audit.delegates import (
    NOT_IN_TFLITE,
    blocks_tensorrt,
    blocks_tflite,
    blocks_xla,
)

SUBJECT_OF = Callable[..., Subject]
X = tf.TensorSpec((4, 4), tf.float32, name="x")
RULES = {"xla": blocks_xla, "tflite": blocks_tflite, "tensorrt": blocks_tensorrt}

Case = tuple[str, Callable[[Any], Any], set[str]]
CASES: list[Case] = [
    ("MatrixInverse", tf.linalg.inv, {"tflite", "tensorrt"}),
    ("MatrixDeterminant", tf.linalg.det, {"xla", "tflite", "tensorrt"}),
    ("AsString", tf.strings.as_string, {"xla", "tflite", "tensorrt"}),
    ("Digamma", tf.math.digamma, {"tflite", "tensorrt"}),
    ("MatMul", lambda x: tf.matmul(x, x), set()),
]


@pytest.mark.parametrize(("kind", "operator", "blocked"), CASES)
def test_what_is_said_to_be_blocked_is_named(
    subject_of: SUBJECT_OF, kind: str, operator: Callable[[Any], Any], blocked: set[str]
) -> None:
    subject = subject_of(lambda x: {"y": operator(x)}, X)
    result = {name: rule(subject) for name, rule in RULES.items()}
    assert {name for name, item in result.items() if item} == blocked
    for name in blocked:
        assert f"({kind})" in result[name][0].place


@pytest.mark.parametrize(("kind", "operator", "blocked"), CASES)
def test_what_is_said_to_be_blocked_really_fails(
    kind: str, operator: Callable[[Any], Any], blocked: set[str]
) -> None:
    function = tf.function(operator, input_signature=[X])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    assert _fails(converter.convert) == ("tflite" in blocked)
    compiled = tf.function(operator, jit_compile=True)
    assert _fails(lambda: compiled(tf.eye(4))) == ("xla" in blocked)
    assert (kind in NOT_IN_TFLITE) == ("tflite" in blocked)


def _fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except Exception:
        # The converter's own class, and several of TensorFlow's.
        return True
    return False


def test_a_loop_with_a_list_of_tensors_blocks_nothing(subject_of: SUBJECT_OF) -> None:
    import tf_keras

    layer = tf_keras.layers.LSTM(4)
    layer.build((None, 6, 3))
    subject = subject_of(
        lambda x: {"y": layer(x)}, tf.TensorSpec((None, 6, 3), name="x"), layer=layer
    )
    assert [rule(subject) for rule in RULES.values()] == [[], [], []]


def test_what_export_onnx_converts_by_itself_does_not_block_tensorrt(
    subject_of: SUBJECT_OF,
) -> None:
    assert blocks_tensorrt(subject_of(lambda x: {"y": tf.math.erfc(x)}, X)) == []
