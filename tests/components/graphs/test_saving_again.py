"""SavedModels that are saved again compute the same, with variables that are only read."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from paring.graphs.saving_again import save_again
from paring.models.saved_model import SavedModel
from paring.models.state import WRITES, called_nodes


class Network(tf.Module):
    """Reads its weights in calls, a loop and a condition; counts, and looks a number up."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.reshape(tf.range(6.0), (2, 3)), name="kernel")
        self.bias = tf.Variable([1.0, 2.0, 3.0], name="bias")
        self.calls = tf.Variable(0.0, name="calls")
        keys = tf.constant([0, 1], tf.int64)
        pairs = tf.lookup.KeyValueTensorInitializer(keys, tf.constant([0.5, 0.25]))
        self.table = tf.lookup.StaticHashTable(pairs, 0.0)

    @tf.function
    def product(self, x: Any) -> Any:
        self.calls.assign_add(1.0)
        return x @ self.kernel

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, "x"),
            tf.TensorSpec([None], tf.int64, "kind"),
        ]
    )
    def serve(self, x: Any, kind: Any) -> dict[str, Any]:
        rows = tf.while_loop(
            lambda step, _: step < 3,
            lambda step, total: (step + 1, total + self.product(x) + self.bias),
            (0, tf.zeros([tf.shape(x)[0], 3])),
        )[1]
        shift = tf.cond(tf.reduce_sum(x) > 0, lambda: self.bias, lambda: -self.bias)
        return {"rows": rows + shift, "share": self.table.lookup(kind), "same": x}


def writes(node: Any) -> bool:
    return bool(node.op.startswith(WRITES))


def test_calls_loops_conditions_and_tables_stay(tmp_path: Path) -> None:
    module = Network()
    source, again = tmp_path / "source", tmp_path / "again"
    tf.saved_model.save(module, str(source), signatures={"serving_default": module.serve})
    # Of the kernel; a bias has one dimension.
    assert save_again(SavedModel(source), again) == 6
    assert SavedModel(again).signature() == SavedModel(source).signature()
    loaded = tf.saved_model.load(str(again))
    call = loaded.signatures["serving_default"]
    # Both were read, and the counter was written alone.
    assert {variable.name for variable in call.variables} >= {"kernel:0", "bias:0"}
    assert not list(filter(writes, called_nodes(SavedModel(again).meta_graph, "serving_default")))
    kernel, bias = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, 2, 3], np.float32)
    for x in (np.array([[1, 2]], np.float32), np.array([[-1, 0], [0, -3]], np.float32)):
        kind = np.arange(len(x))
        result = call(x=tf.constant(x), kind=tf.constant(kind))
        sign = 1 if x.sum() > 0 else -1
        np.testing.assert_allclose(result["rows"], 3 * (x @ kernel + bias) + sign * bias)
        np.testing.assert_array_equal(result["share"], [0.5, 0.25][: len(x)])
        np.testing.assert_array_equal(result["same"], x)


def test_a_model_without_variables_is_left_as_it_is(tmp_path: Path) -> None:
    module = tf.Module()
    module.serve = tf.function(
        lambda x: {"y": 2 * x}, input_signature=[tf.TensorSpec([None], tf.float32, "x")]
    )
    source = tmp_path / "source"
    tf.saved_model.save(module, str(source), signatures={"serving_default": module.serve})
    assert save_again(SavedModel(source), tmp_path / "again") == 0
    assert not (tmp_path / "again").exists()
