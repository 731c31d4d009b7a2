from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from paring.audit import Subject
from paring.audit.signatures import fixed_shapes, retraced_functions
from paring.graphs.graph import frozen_graph, load_function
from paring.models.signature import read_meta_graph, read_signature

SUBJECT_OF = Callable[..., Subject]
X = tf.TensorSpec((None, 4), tf.float32, name="x")


class Scaled(tf.Module):
    @tf.function
    def scale(self, x: Any, factor: Any, flag: bool = False) -> dict[str, Any]:
        return {"y": -x if flag else factor * x}


def saved(module: Scaled, folder: Path) -> Subject:
    serve = tf.function(lambda x: {"y": module.scale(x, tf.constant(2.0))["y"]}, [X])
    tf.saved_model.save(module, str(folder), signatures=serve)
    signature = read_signature(folder)
    graph = frozen_graph(load_function(folder), signature)
    return Subject(read_meta_graph(folder), signature, graph)


def test_a_graph_for_each_python_number_is_found(tmp_path: Path) -> None:
    module = Scaled()
    for number in range(3):
        module.scale(tf.zeros((1, 4)), number)
    found = retraced_functions(saved(module, tmp_path / "model"))
    assert [one.place for one in found] == ["scale"]
    assert "3 graphs of one function, one for each Python number" in found[0].cost
    assert "tf.constant" in found[0].fix


def test_a_graph_for_each_shape_is_found(tmp_path: Path) -> None:
    module = Scaled()
    for size in (1, 2):
        module.scale(tf.zeros((size, 4)), tf.constant(2.0))
    found = retraced_functions(saved(module, tmp_path / "model"))
    assert len(found) == 1
    assert "one for each shape" in found[0].cost
    assert "tf.TensorSpec" in found[0].fix


def test_a_graph_for_training_and_one_for_inference_is_none(tmp_path: Path) -> None:
    module = Scaled()
    for flag in (True, False):
        module.scale.get_concrete_function(X, tf.TensorSpec(()), flag)
    assert retraced_functions(saved(module, tmp_path / "model")) == []


def test_an_input_of_a_fixed_batch_is_found(subject_of: SUBJECT_OF) -> None:
    spec = tf.TensorSpec((8, None), tf.float32, name="x")
    found = fixed_shapes(subject_of(lambda x: {"y": -x}, spec))
    assert [one.place for one in found] == ["input x [8x?]"]
    assert "batches of 8 alone" in found[0].cost


def test_an_input_of_any_batch_is_none(subject_of: SUBJECT_OF) -> None:
    assert fixed_shapes(subject_of(lambda x: {"y": -x}, X)) == []
