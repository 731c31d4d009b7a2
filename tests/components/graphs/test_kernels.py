from typing import Any

import pytest
import tensorflow as tf

from paring.graphs.kernels import GPU, XLA, has_kernel


def node(operator: str, **types: tf.DType) -> Any:
    made = tf.compat.v1.NodeDef(name="node", op=operator)
    for name, item in types.items():
        made.attr[name].type = item.as_datatype_enum
    return made


@pytest.mark.parametrize(
    ("operator", "types", "xla"),
    [
        ("MatMul", {"T": tf.float32}, True),
        ("MatMul", {"T": tf.int8}, False),
        ("AsString", {"T": tf.float32}, False),
        ("EagerPyFunc", {}, False),
        ("NoSuchOperator", {}, False),
    ],
)
def test_a_kernel_is_one_for_the_types_of_the_node(
    operator: str, types: dict[str, tf.DType], xla: bool
) -> None:
    assert has_kernel(node(operator, **types), XLA) == xla


def test_one_of_several_devices_is_enough() -> None:
    given = node("AsString", T=tf.float32)
    assert has_kernel(given, "CPU", GPU)
    assert not has_kernel(given, GPU)
