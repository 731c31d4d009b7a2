"""SavedModels as ONNX graphs: what tf2onnx makes of them, in less memory than it takes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.helpers.saved_models import save_signature

from paring.artifacts import DEFAULT_SIGNATURE
from paring.converters.onnx.onnx_export import sort_nodes, to_onnx
from paring.converters.onnx.ordered_sets import ordered_sets
from paring.models.saved_model import SavedModel

_OPSET = 18

_MEASURE = """
import sys
from pathlib import Path
from paring.models.quiet import quiet_tensorflow
quiet_tensorflow()
import tf2onnx
from paring.artifacts import DEFAULT_SIGNATURE
from paring.converters.onnx.onnx_export import to_onnx
from paring.models.saved_model import SavedModel


def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))

before = peak()
to_onnx(SavedModel(Path(sys.argv[1])), 18)
print(peak() - before)
"""


def _in_one_call(folder: Path) -> onnx.ModelProto:
    """Convert the SavedModel by tf2onnx's own function."""
    import tf2onnx

    graph, inputs, outputs, renamed = tf2onnx.tf_loader.from_saved_model(
        str(folder), None, None, "serve", [DEFAULT_SIGNATURE], return_tensors_to_rename=True
    )
    made = tf2onnx.convert.from_graph_def(
        graph,
        name="model",
        input_names=inputs,
        output_names=outputs,
        opset=_OPSET,
        tensors_to_rename=renamed,
    )
    model: onnx.ModelProto = made[0]
    sort_nodes(model.graph)
    return model


def _content(model: onnx.ModelProto) -> list[tuple[Any, ...]]:
    """Each node with its attributes and its constants; without names, which are numbered."""
    constants = {
        item.name: onnx.numpy_helper.to_array(item).tobytes() for item in model.graph.initializer
    }
    return [
        (
            node.op_type,
            sorted(item.SerializeToString() for item in node.attribute),
            [constants.get(name) for name in node.input],
        )
        for node in model.graph.node
    ]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small MobileNetV2."""
    import tf_keras

    folder = tmp_path_factory.mktemp("network") / "model"
    tf_keras.utils.set_random_seed(0)
    made = tf_keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, classes=10)
    save_signature(made, folder)
    return folder


@pytest.mark.parametrize("model", ["digits_model", "network"])
@pytest.mark.filterwarnings("ignore")
def test_the_graph_is_the_one_that_tf2onnx_makes_in_one_call(
    model: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(model)
    made = to_onnx(SavedModel(folder), _OPSET)
    with ordered_sets():
        expected = _in_one_call(folder)
    assert _content(made) == _content(expected)
    assert made.opset_import == expected.opset_import
    assert made.ir_version == expected.ir_version


@pytest.mark.slow
def test_copies_of_the_weights_are_freed_on_the_way(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    shape = (2048, 2048)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    module.weights = [tf.Variable(values), tf.Variable(values + 1)]

    @tf.function(input_signature=[tf.TensorSpec([None, shape[0]], tf.float32, "rows")])
    def serve(rows: tf.Tensor) -> dict[str, tf.Tensor]:
        for weight in module.weights:
            rows = tf.nn.relu(tf.matmul(rows, weight))
        return {"made": rows}

    tf.saved_model.save(module, str(tmp_path / "model"), signatures={DEFAULT_SIGNATURE: serve})
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path / "model")],
        stdout=subprocess.PIPE,
        check=True,
    )
    # One copy for each of tf2onnx's optimizers was about 50 times the weights; 17 to 21 times are
    # left, by how the allocator gives memory back.
    assert int(done.stdout) < 28 * 2 * values.nbytes
