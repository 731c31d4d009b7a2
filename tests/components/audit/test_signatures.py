from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from paring.audit import Subject, audit
from paring.audit.signatures import fixed_shapes, retraced_functions
from paring.graphs.graph import frozen_graph, load_function
from paring.models.saved_model import SavedModel

SUBJECT_OF = Callable[..., Subject]
X = tf.TensorSpec((None, 4), tf.float32, name="x")


class Scaled(tf.Module):
    @tf.function
    def scale(self, x: Any, factor: Any, flag: bool = False) -> dict[str, Any]:
        return {"y": -x if flag else factor * x}


def saved(module: Scaled, folder: Path) -> Subject:
    serve = tf.function(lambda x: {"y": module.scale(x, tf.constant(2.0))["y"]}, [X])
    tf.saved_model.save(module, str(folder), signatures=serve)
    signature = SavedModel(folder).signature()
    graph = frozen_graph(load_function(SavedModel(folder)), signature)
    return Subject(SavedModel(folder).meta_graph, signature, graph)


def test_a_graph_for_each_python_number_is_found(tmp_path: Path) -> None:
    module = Scaled()
    for number in range(3):
        module.scale(tf.zeros((1, 4)), number)
    result = retraced_functions(saved(module, tmp_path / "model"))
    assert [item.place for item in result] == ["scale"]
    assert "3 graphs of one function, one for each Python number" in result[0].cost
    assert "tf.constant" in result[0].fix


def test_a_graph_for_each_shape_is_found(tmp_path: Path) -> None:
    module = Scaled()
    for size in (1, 2):
        module.scale(tf.zeros((size, 4)), tf.constant(2.0))
    result = retraced_functions(saved(module, tmp_path / "model"))
    assert len(result) == 1
    assert "one for each shape" in result[0].cost
    assert "tf.TensorSpec" in result[0].fix


def test_a_graph_for_training_and_one_for_inference_is_none(tmp_path: Path) -> None:
    module = Scaled()
    for flag in (True, False):
        module.scale.get_concrete_function(X, tf.TensorSpec(()), flag)
    assert retraced_functions(saved(module, tmp_path / "model")) == []


def test_a_model_of_tensorflow_1_has_no_functions(tmp_path: Path) -> None:
    v1, folder = tf.compat.v1, tmp_path / "model"
    with v1.Session(graph=tf.Graph()) as session:
        x = v1.placeholder(tf.float32, [None, 4])
        factor = v1.get_variable("factor", initializer=2.0)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder), {"x": x}, {"y": factor * x})
    model = SavedModel(folder)
    graph = frozen_graph(load_function(model), model.signature())
    assert audit(Subject(model.meta_graph, model.signature(), graph)) == []


def test_an_input_of_a_fixed_batch_is_found(subject_of: SUBJECT_OF) -> None:
    spec = tf.TensorSpec((8, None), tf.float32, name="x")
    result = fixed_shapes(subject_of(lambda x: {"y": -x}, spec))
    assert [item.place for item in result] == ["input x [8x?]"]
    assert "batches of 8 alone" in result[0].cost


def test_an_input_of_any_batch_is_none(subject_of: SUBJECT_OF) -> None:
    assert fixed_shapes(subject_of(lambda x: {"y": -x}, X)) == []
