"""The functions that a function of a SavedModel may call."""

from pathlib import Path
from typing import Any

import tf_keras as keras
from tensorflow.core.framework.graph_pb2 import GraphDef

from paring.models.function_library import FunctionLibrary
from paring.models.saved_model import SavedModel


def calling(graph_def: Any, name: str, **functions: str) -> None:
    """Add a function with one node that refers to others by attributes."""
    function = graph_def.library.function.add()
    function.signature.name = name
    node = function.node_def.add(name="node", op="PartitionedCall")
    for attribute, called in functions.items():
        node.attr[attribute].func.name = called


def test_functions_are_reached_through_attributes_of_functions_and_gradients() -> None:
    graph_def = GraphDef()
    calling(graph_def, "first", f="second")
    calling(graph_def, "second")
    calling(graph_def, "gradient", f="first", g="elsewhere")
    calling(graph_def, "unused")
    nested = graph_def.library.function[0].node_def[0].attr["f"].func.attr["inner"].func
    nested.name = "third"
    calling(graph_def, "third")
    graph_def.library.gradient.add(function_name="third", gradient_func="gradient")
    library = FunctionLibrary(graph_def)
    assert library.reached(["second"]) == {"second"}
    assert library.reached(["first"]) == {"first", "second", "third", "gradient", "elsewhere"}


def test_functions_that_call_themselves_are_found() -> None:
    graph_def = GraphDef()
    calling(graph_def, "first", f="second", g="third")
    calling(graph_def, "second", f="third", g="elsewhere")
    calling(graph_def, "third")
    assert not FunctionLibrary(graph_def).is_recursive()
    graph_def.library.function[2].node_def[0].attr["f"].list.func.add(name="first")
    assert FunctionLibrary(graph_def).is_recursive()


def test_other_implementations_of_a_recurrent_layer_are_reached(tmp_path: Path) -> None:
    """TensorFlow takes the one for the device when it runs the signature."""
    model = keras.Sequential([keras.Input((6, 4)), keras.layers.LSTM(5)])
    model.save(tmp_path, save_format="tf")
    graph_def = SavedModel(tmp_path).meta_graph.graph_def
    library = FunctionLibrary(graph_def)
    reached = library.reached(name for node in graph_def.node for name in library.called(node))
    implemented = {
        name: function.attr["api_implements"].s
        for name, function in library.functions.items()
        if "api_implements" in function.attr
    }
    taken = {implemented[name] for name in reached & implemented.keys()}
    same = {name for name, interface in implemented.items() if interface in taken}
    assert len(same) > len(taken) > 0
    assert same <= reached
