"""Thresholds of two-class outputs, from the graph and from the train split."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Servable
from paring.data.examples import Split
from paring.evaluation.thresholds import find_thresholds
from paring.models.saved_model import SavedModel


def _save(serve: Callable[[Any], Any], folder: Path) -> Path:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(
        lambda x: {"y": serve(x), "wide": tf.nn.softmax(tf.concat([x, -x], 1))},
        input_signature=[tf.TensorSpec([None, 1], tf.float32, "x")],
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def _find(folder: Path, values: list[float]) -> tuple[Any, int]:
    opened: list[Split] = []

    def train() -> Split:
        x = np.array(values, np.float32)[:, np.newaxis]
        opened.append(Split({"x": x}, None, len(x)))
        return opened[-1]

    result = find_thresholds(Servable(folder), SavedModel(folder), {}, train)
    return result["y"], len(opened)


def test_the_graph_decides_where_it_shows_the_activation(tmp_path: Path) -> None:
    import tensorflow as tf

    # All values lie in 0 to 1, though they are logits.
    logits = _save(lambda x: tf.matmul(x, [[0.2]]), tmp_path / "logits")
    threshold, opened = _find(logits, [1.0, 2.0])
    assert (threshold.value, threshold.origin, opened) == (0.0, "the output's layer", 0)
    probabilities = _save(lambda x: tf.sigmoid(x), tmp_path / "probabilities")
    threshold, opened = _find(probabilities, [1.0])
    assert (threshold.value, threshold.origin, opened) == (0.5, "the output's sigmoid", 0)


@pytest.mark.parametrize(("values", "wanted"), [([0.1, 0.9], 0.5), ([0.1, -0.1, 0.9], 0.0)])
def test_the_train_split_decides_where_the_graph_does_not(
    values: list[float], wanted: float, tmp_path: Path
) -> None:
    threshold, opened = _find(_save(lambda x: x * 1.0, tmp_path / "model"), values)
    assert (threshold.value, opened) == (wanted, 1)
    assert threshold.origin == f"its values for {len(values)} examples of the train split"


def test_outputs_of_classes_have_no_threshold_though_labels_have_their_shape(
    tmp_path: Path,
) -> None:
    import tensorflow as tf

    def serve(x: Any) -> dict[str, Any]:
        scores = tf.concat([x, -x], 1)
        return {
            "softmax": tf.nn.softmax(scores),
            # The graph shows no softmax in it, its values do.
            "scaled": tf.nn.softmax(scores) * 1.0,
            "flags": tf.sigmoid(scores),
            "scaled_flags": tf.sigmoid(tf.concat([x, 2 * x], 1)) * 1.0,
            "logits": tf.matmul(x, [[1.0, -2.0]]),
        }

    module = tf.Module()
    spec = tf.TensorSpec([None, 1], tf.float32, "x")
    module.serve = tf.function(serve, input_signature=[spec])
    folder = tmp_path / "model"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    x = np.array([[0.1], [2.0], [-1.0]], np.float32)
    rows = np.eye(2, dtype=np.float32)[[0, 0, 1]]
    signature = SavedModel(folder).signature()
    result = find_thresholds(
        Servable(folder),
        SavedModel(folder),
        dict.fromkeys(signature.outputs, rows),
        lambda: Split({"x": x}, None, len(x)),
    )
    values = {name: item.value for name, item in result.items()}
    assert values == {"flags": 0.5, "scaled_flags": 0.5, "logits": 0.0}
