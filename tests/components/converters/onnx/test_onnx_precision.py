"""ONNX graphs in float16."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from paring.converters.onnx.onnx_precision import to_half


def test_weights_that_float16_holds_are_kept_and_two_masks_stay_finite() -> None:
    weights = np.array([0.5, -20000, -1e9], np.float32)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made = to_half(model)
    onnx.checker.check_model(made)
    (stored,) = (numpy_helper.to_array(item) for item in made.graph.initializer)
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored[:2], weights[:2])
    assert stored[2] < -20000
    assert np.isfinite(stored[2] + stored[2])
