"""ONNX graphs in int8 leave a table's columns in float until they are alike."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from paring.converters.onnx.input_scales import nodes_in_float
from paring.converters.onnx.onnx_precision import quantize

RANDOM = np.random.default_rng(0)
UNIT = RANDOM.normal(size=(300, 3)).astype(np.float32)
SCALES = np.array([1e-3, 1, 1e4], np.float32)
FIRST, LAST = (RANDOM.normal(size=size).astype(np.float32) for size in ((3, 16), (16, 1)))


def graph(*, normalized: bool = True, named: bool = True) -> onnx.ModelProto:
    """A small network, of a table whose columns are divided by their scales first."""
    constants = {"scales": SCALES, "first": FIRST, "last": LAST}
    divided = [helper.make_node("Div", ["table", "scales"], ["even"], "div" if named else "")]
    nodes = [
        *(divided if normalized else []),
        helper.make_node("MatMul", ["even" if normalized else "table", "first"], ["a"], "one"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("MatMul", ["b", "last"], ["price"], "two"),
    ]
    made = helper.make_graph(
        nodes,
        "regressor",
        [helper.make_tensor_value_info("table", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("price", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9)


def calls(table: Any) -> Any:
    def each() -> Iterator[dict[str, Any]]:
        for row in range(0, len(table), 3):
            yield {"table": table[row : row + 3]}

    return each


def test_only_what_unlike_columns_pass_stays_in_float(tmp_path: Path) -> None:
    table = UNIT * SCALES
    assert nodes_in_float(graph(), calls(table)(), tmp_path) == ["div"]
    assert nodes_in_float(graph(named=False), calls(table)(), tmp_path) == ["node_0"]
    assert nodes_in_float(graph(normalized=False), calls(table)(), tmp_path) == ["one"]
    assert nodes_in_float(graph(normalized=False), calls(UNIT)(), tmp_path) == []


@pytest.mark.parametrize("int8_runtime", ["onnxruntime", "tensorrt"])
def test_int8_keeps_what_the_columns_say(int8_runtime: Any) -> None:
    table = UNIT * SCALES
    made = quantize(graph(), calls(table), int8_runtime)
    kinds = [node.op_type for node in made.graph.node]
    assert "QuantizeLinear" in kinds
    session = InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    result = session.run(None, {"table": table})[0]
    wanted = np.maximum(UNIT @ FIRST, 0) @ LAST
    assert np.sqrt(np.mean(np.square(result - wanted))) < 0.05 * wanted.std()
