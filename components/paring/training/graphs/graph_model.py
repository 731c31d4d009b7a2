"""A SavedModel's signature as a function of its weights, and the way back into a SavedModel."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from paring.artifacts import DEFAULT_SIGNATURE
from paring.graphs.graph import load_function
from paring.graphs.graph_editing import is_first_output, node_name
from paring.graphs.inlined_graph import InlinedGraph, import_nodes, inlined_graph
from paring.models.arguments import argument_specs
from paring.models.library_types import MetaGraphDef
from paring.models.plain_paths import plain_path
from paring.models.saved_model import SavedModel
from paring.system.trees import copy_tree
from paring.training.graphs.batch_norm import Axes, batch_axes, with_batch_statistics
from paring.training.graphs.weights import (
    BatchNorm,
    GraphWeight,
    GraphWeights,
    constants_of,
    find_weights,
)

_KERAS_METADATA = "keras_metadata.pb"
# Of tf.train.Checkpoint: the entry that describes the objects, and a variable's attribute.
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VALUE = "VARIABLE_VALUE"
# Between an activation and the signature's output.
_PASSED = frozenset({"Identity"})


class GraphModel:
    """The inference graph of a SavedModel's signature with weights that can be replaced.

    Attributes:
        graph: The graph, with the functions that it calls inlined.
        weights: What can be trained in it.
        scores: For each output of a floating type its activation, softmax, sigmoid or linear,
            and the tensor that goes into it.
        batch_norms: The batch normalizations whose statistics can be those of a batch, with the
            axes that these are taken over.
    """

    def __init__(self, saved: SavedModel) -> None:
        """Load the signature of `saved`.

        Raises:
            ModelError: TensorFlow can't load it.
            UnsupportedError: It reads a lookup table, or variables that it also writes.
        """
        self._saved = saved
        # Functions hold their variables weakly.
        self._function = load_function(saved)
        self.graph: InlinedGraph = inlined_graph(self._function)
        self.weights: GraphWeights = find_weights(self.graph, saved.meta_graph.graph_def)
        self.scores: Mapping[str, tuple[str, str]] = {
            name: self._score(tensor)
            for name, tensor in self.graph.outputs.items()
            if self._function.structured_outputs[name].dtype.is_floating
        }

        self._training_graph = self.graph.graph_def
        self.batch_norms: Mapping[BatchNorm, Axes] = self._batch_axes()
        self._training_graph = with_batch_statistics(self.graph.graph_def, self.batch_norms)

    @classmethod
    def open(cls, folder: Path, key: str = DEFAULT_SIGNATURE) -> Self:
        """Load the signature `key` of a SavedModel that Paring has written."""
        return cls(SavedModel(folder, key))

    @property
    def trained(self) -> list[GraphWeight]:
        """All weights that can be trained: kernels first."""
        return [*self.weights.kernels, *self.weights.others]

    def call(
        self,
        inputs: Mapping[str, Any],
        values: Mapping[GraphWeight, Any],
        tensors: Sequence[str],
        *,
        training: bool = False,
    ) -> list[Any]:
        """Return tensors of the graph, computed within the tf.function that is being traced.

        Args:
            inputs: The signature's inputs, by name.
            values: Tensors in the place of weights; the others have their values in the
                SavedModel.
            tensors: Names of the graph's tensors, as `graph.outputs` and `scores` have them.
            training: Whether `batch_norms` take the statistics of the batch.
        """
        graph = tf.compat.v1.get_default_graph()
        for variable in self.graph.variables:
            graph.watch_variable(variable)
        given = {self.graph.inputs[name]: tensor for name, tensor in inputs.items()}
        given |= {name: graph.capture(item) for name, item in self.graph.captured.items()}
        given |= {node: value for weight, value in values.items() for node in weight.nodes}
        graph_def = self._training_graph if training else self.graph.graph_def
        return import_nodes(graph_def, given, list(tensors), name="graph")

    def moments(
        self, inputs: Mapping[str, Any], values: Mapping[GraphWeight, Any]
    ) -> list[tuple[Any, Any]]:
        """Return the mean, and the mean square, of what each of `batch_norms` normalizes.

        All of them take the statistics of the batch; see `call`.
        """
        tensors = [_tensor(item.x) for item in self.batch_norms]
        normalized = self.call(inputs, values, tensors, training=True)
        return [
            (tf.reduce_mean(tensor, axes), tf.reduce_mean(tf.square(tensor), axes))
            for tensor, axes in zip(normalized, self.batch_norms.values(), strict=True)
        ]

    def save(self, values: Mapping[GraphWeight, NDArray[np.float32]], folder: Path) -> None:
        """Write the SavedModel with other values of weights.

        All else stays as it is, to the byte: functions, names, tables and the other signatures,
        which read the same weights. Keras's metadata is left out, since the result has no Keras
        form.

        Args:
            values: By weight, in its shape.
            folder: Gets the SavedModel; must not exist.
        """
        from tensorflow.python.saved_model import fingerprinting_utils

        copy_tree(self._saved.folder, folder)
        (folder / _KERAS_METADATA).unlink(missing_ok=True)
        constants = {item: value for item, value in values.items() if item.variable is None}
        variables = {
            id(item.variable): value for item, value in values.items() if item not in constants
        }
        if variables:
            keys = self._checkpoint_keys()
            _write_variables(folder, {keys[item]: value for item, value in variables.items()})
        if constants:
            _write_constants(folder, constants)
        # It names the graph and the checkpoint by their content.
        fingerprinting_utils.write_fingerprint(str(plain_path(folder)))

    def _batch_axes(self) -> dict[BatchNorm, Axes]:
        sites = self.weights.batch_norms
        if not sites:
            return {}

        def normalized(*inputs: Any) -> list[Any]:
            given = dict(zip(self.graph.specs, inputs, strict=True))
            return self.call(given, {}, [_tensor(item.x) for item in sites])

        specs = argument_specs(self.graph.specs)
        traced = tf.function(normalized, autograph=False).get_concrete_function(*specs)
        return {
            item: batch_axes(item, tensor.shape.rank)
            for item, tensor in zip(sites, traced.outputs, strict=True)
            if tensor.shape.rank is not None and tensor.dtype == tf.float32
        }

    def _score(self, tensor: str) -> tuple[str, str]:
        """Return the activation that computes an output, and the tensor that goes into it."""
        nodes = {node.name: node for node in self.graph.graph_def.node}
        inside = tensor
        while is_first_output(inside) and nodes[node_name(inside)].op in _PASSED:
            inside = nodes[node_name(inside)].input[0]
        node = nodes[node_name(inside)]
        if node.op in ("Softmax", "Sigmoid"):
            return node.op.lower(), _tensor(node.input[0])
        return "linear", tensor

    def _checkpoint_keys(self) -> dict[int, str]:
        """Return the entry of each captured variable in the checkpoint, by the variable's id."""
        meta_graph = self._saved.meta_graph
        if not meta_graph.object_graph_def.nodes:
            # SavedModels of TensorFlow 1 name the entries for the variables.
            return {id(item): str(item.name).partition(":")[0] for item in self.graph.variables}
        numbers = _captured_objects(meta_graph, self._saved.key)
        entries = _entries(self._saved.folder, meta_graph)
        handles = {id(item.handle): item for item in self.graph.variables}
        return {
            id(handles[id(captured)]): entries[number]
            for captured, number in zip(self._function.captured_inputs, numbers, strict=True)
            if id(captured) in handles
        }


def _tensor(name: str) -> str:
    """Return a tensor's whole name, with the number of its node's output."""
    return name if ":" in name else f"{name}:0"


def _captured_objects(meta_graph: MetaGraphDef, key: str) -> list[int]:
    """Return the numbers of the saved objects that the function of signature `key` captures."""
    objects = meta_graph.object_graph_def
    node = objects.nodes[0]
    for name in ("signatures", key):
        number = next(item.node_id for item in node.children if item.local_name == name)
        node = objects.nodes[number]
    function = node.bare_concrete_function.concrete_function_name
    return list(objects.concrete_functions[function].bound_inputs)


def _entries(folder: Path, meta_graph: MetaGraphDef) -> dict[int, str]:
    """Return the checkpoint's entry of each saved object that is a variable, by its number."""
    from tensorflow.core.protobuf import trackable_object_graph_pb2

    reader = tf.train.load_checkpoint(str(_checkpoint(folder)))
    stored = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        reader.get_tensor(_OBJECT_GRAPH)
    )
    objects = meta_graph.object_graph_def
    # Both describe the same objects, under the same names, in orders of their own.
    pairs = {0: 0}
    waiting = [0]
    while waiting:
        number = waiting.pop()
        children = {item.local_name: item.node_id for item in stored.nodes[pairs[number]].children}
        for child in objects.nodes[number].children:
            if child.local_name in children and child.node_id not in pairs:
                pairs[child.node_id] = children[child.local_name]
                waiting.append(child.node_id)
    return {
        number: item.checkpoint_key
        for number, entry in pairs.items()
        for item in stored.nodes[entry].attributes
        if item.name == _VALUE
    }


def _write_variables(folder: Path, values: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the checkpoint again, with other values of some of its entries."""
    prefix = _checkpoint(folder)
    reader = tf.train.load_checkpoint(str(prefix))
    names = sorted(reader.get_variable_to_shape_map())
    tensors = [
        tf.constant(values[name] if name in values else reader.get_tensor(name)) for name in names
    ]
    # Read before anything is written: the copy is the source of all entries.
    for file in folder.glob("variables/variables.*"):
        file.unlink()
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors
    )


def _write_constants(folder: Path, values: Mapping[GraphWeight, NDArray[np.float32]]) -> None:
    """Write other values of constants into saved_model.pb."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    by_place = {place: value for weight, value in values.items() for place in weight.sources}
    # The one that `SavedModel` reads.
    serving = [item for item in saved.meta_graphs if "serve" in item.meta_info_def.tags]
    serving.sort(key=lambda item: len(item.meta_info_def.tags) > 1)
    for place, node in enumerate(constants_of(serving[0].graph_def)):
        if place in by_place:
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(by_place[place]))
    file.write_bytes(saved.SerializeToString(deterministic=True))


def _checkpoint(folder: Path) -> Path:
    return plain_path(folder / "variables") / "variables"
