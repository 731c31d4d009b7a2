"""Tracing of a model's channels through its graph of layers."""

from typing import Any

import tensorflow as tf
import tf_keras

from paring.models.library_types import KerasModel
from paring.training.channels.channel_graph import ChannelGraph, Channels
from paring.training.channels.rules import Call, NotFollowedError, describe, follow


def trace(model: KerasModel) -> ChannelGraph:
    """Return the channels of `model`, a sequential or functional tf_keras model.

    Models inside it are followed as if their layers stood in it. What goes into the
    model and what it gives is kept whole.
    """
    graph = ChannelGraph()
    tracer = _Tracer(graph)
    inputs = [graph.new(_width(tensor)) for tensor in model.inputs]
    for name, channels in zip(model.input_names, inputs, strict=True):
        graph.keep_whole(channels, f"added to {name}, the model's input")
    outputs = tracer.walk(model, inputs)
    for tensor, channels in zip(model.outputs, outputs, strict=True):
        by = describe(tensor._keras_history.layer)
        graph.keep_whole(channels, f"{by} gives the model's output")
    return graph


def is_graph(layer: Any) -> bool:
    """Return whether `layer` is a sequential or functional model, with traceable layers."""
    return isinstance(layer, tf_keras.Model) and bool(getattr(layer, "_is_graph_network", False))


class _Tracer:
    def __init__(self, graph: ChannelGraph) -> None:
        self._coupling = graph
        # What went in and came out at the first call of each layer with weights or
        # numbers of channels in its config: all its calls share them.
        self._first: dict[int, tuple[list[Channels], Channels]] = {}

    def walk(self, model: KerasModel, inputs: list[Channels]) -> list[Channels]:
        """Return the channels of the model's outputs, from those of its inputs."""
        known = {id(t): item for t, item in zip(model.inputs, inputs, strict=True)}
        for depth in sorted(model._nodes_by_depth, reverse=True):
            for node in model._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                given = [known[id(tensor)] for tensor in node.keras_inputs]
                results = tf.nest.flatten(node.outputs)
                for tensor, made in zip(results, self._call(node, given, results), strict=True):
                    known[id(tensor)] = made
        return [known[id(tensor)] for tensor in model.outputs]

    def _call(self, node: Any, given: list[Channels], results: list[Any]) -> list[Channels]:
        layer = node.layer
        try:
            if is_graph(layer):
                return self._inner(node, given)
            if len(results) != 1:
                raise NotFollowedError("gives several tensors")
            return [self._layer(node, given, results[0])]
        except NotFollowedError as error:
            # With a kernel it makes channels, which are to be named too.
            maker = layer if any(weight.shape.rank > 1 for weight in layer.weights) else None
            made = [self._coupling.new(_width(tensor), maker) for tensor in results]
            for channels in [*given, *made]:
                self._coupling.keep_whole(channels, f"{describe(layer)} {error}")
            return made

    def _inner(self, node: Any, given: list[Channels]) -> list[Channels]:
        model = node.layer
        if any(isinstance(arg, dict) for arg in node.call_args) or len(given) != len(model.inputs):
            raise NotFollowedError("takes its inputs by name")
        for tensor, channels in zip(model.inputs, given, strict=True):
            layer = tensor._keras_history.layer
            if self._again(layer, [channels]) is None:
                self._coupling.add_count(layer, "batch_input_shape", channels)
                self._first[id(layer)] = [channels], channels
        return self.walk(model, given)

    def _layer(self, node: Any, given: list[Channels], result: Any) -> Channels:
        layer = node.layer
        made = self._again(layer, given)
        if made is None:
            noted = len(self._coupling.parts), len(self._coupling.widths)
            shapes = [tuple(tensor.shape) for tensor in node.keras_inputs]
            call = Call(layer, given, shapes, tuple(result.shape), _constants(node))
            made = follow(self._coupling, call)
            if noted != (len(self._coupling.parts), len(self._coupling.widths)):
                self._first[id(layer)] = given, made
        return made

    def _again(self, layer: Any, given: list[Channels]) -> Channels | None:
        """Return the output channels of a layer called before, and tie its inputs."""
        if id(layer) not in self._first:
            return None
        before, made = self._first[id(layer)]
        for item, other in zip(before, given, strict=True):
            self._coupling.tie(item, other)
        return made


def _constants(node: Any) -> dict[str, Any]:
    """Return the arguments of a call that are no tensors of the model, by name.

    Raises:
        NotFollowedError: One argument holds tensors of the model and others.
    """
    names = node.layer._call_spec.arg_names
    given = {**dict(zip(names, node.call_args, strict=False)), **node.call_kwargs}
    constants: dict[str, Any] = {}
    for name, value in given.items():
        own = [hasattr(item, "_keras_history") for item in tf.nest.flatten(value)]
        if any(own) and not all(own):
            raise NotFollowedError("takes numbers beside tensors of the model")
        if value is not None and not any(own):
            constants[name] = value
    return constants


def _width(tensor: Any) -> int:
    """Return the size of the last axis; 1 where it is not fixed, for it is not followed."""
    shape = tensor.shape
    return int(shape[-1] or 1) if shape.rank else 1
