"""Signatures of a SavedModel that compute the same, and those that another form has lost.

Keras writes one function under two names, `serve` and `serving_default`, and so do many who call
`tf.saved_model.save`. TensorFlow wraps the function once for each name, so that the graph has to
tell that they are one.
"""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paring.artifacts import Servable
from paring.models.library_types import MetaGraphDef, NodeDef
from paring.models.saved_model import SavedModel

_log = logging.getLogger(__name__)

# Differ between two wrappers of one function.
_IRRELEVANT = frozenset({"_output_shapes", "_user_specified_name", "_class", "config_proto"})


def same_signatures(model: SavedModel) -> tuple[str, ...]:
    """Return the names of the signatures that compute the same as the model's own; that first.

    They have the same inputs and outputs, by the same operators of the same variables. Of two
    that compute the same otherwise, as with a copy of the variables, this is not found.

    Raises:
        ModelError: The SavedModel can't be read, or has no such signature.
    """
    own = model.signature()
    alike = [key for key in model.keys if key != model.key and model.signature(key) == own]
    if not alike:
        return (model.key,)
    meta_graph = model.meta_graph
    walk = _Digests(meta_graph)
    mine = walk.signature(model.key)
    return (model.key, *(key for key in alike if mine and walk.signature(key) == mine))


def dropped_signatures(model: SavedModel, kept: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the names of a SavedModel's signatures that a form with one of them does not have.

    Those that compute the same as the model's own are not among them.

    Args:
        model: The SavedModel.
        kept: Others that the form has.
    """
    there = {*same_signatures(model), *kept}
    return tuple(key for key in model.keys if key not in there)


def note_dropped(source: SavedModel, output: Servable, kept: Iterable[str] = ()) -> None:
    """Add a source's signatures that another form lacks to its facts, with a warning.

    Args:
        source: The SavedModel.
        output: What was made of it.
        kept: See `dropped_signatures`.
    """
    names = dropped_signatures(source, kept)
    if names:
        _log.warning(
            "the signature %s is kept, and not %s of %s",
            source.key,
            ", ".join(names),
            source.folder,
        )
        output.drop_signatures(names)


def keep_methods(source: SavedModel, folder: Path) -> None:
    """Give signatures the methods that TensorFlow Serving calls those of the source by.

    `tf.saved_model.save` makes all of them those of Predict. Classify and Regress, which
    Estimators export, answer only where the signature says so. Values for inputs that a caller
    leaves out are kept too.

    Args:
        source: The SavedModel that the other one was made of.
        folder: A SavedModel, with signatures of the same names.
    """
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow.python.saved_model import fingerprinting_utils

    before = source.meta_graph.signature_def
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    changed = False
    for graph in saved.meta_graphs:
        for key, definition in graph.signature_def.items():
            if key not in before:
                continue
            if definition.method_name != before[key].method_name:
                definition.method_name, changed = before[key].method_name, True
            for name, value in before[key].defaults.items():
                if name in definition.inputs and name not in definition.defaults:
                    definition.defaults[name].CopyFrom(value)
                    changed = True
    if changed:
        file.write_bytes(saved.SerializeToString(deterministic=True))
        fingerprinting_utils.write_fingerprint(str(folder))


class _Digests:
    """Digests of what a graph computes, without the names of its nodes and functions."""

    def __init__(self, meta_graph: MetaGraphDef) -> None:
        self._signatures = meta_graph.signature_def
        self._nodes = {node.name: node for node in meta_graph.graph_def.node}
        self._library = {
            item.signature.name: item for item in meta_graph.graph_def.library.function
        }
        self._functions: dict[str, bytes | None] = {}

    def signature(self, key: str) -> bytes | None:
        """Return a digest of a signature; None where its graph has cycles."""
        definition = self._signatures[key]
        given = {item.name.split(":")[0]: name for name, item in definition.inputs.items()}
        outputs = sorted((name, item.name) for name, item in definition.outputs.items())
        known = {node: name.encode() for node, name in given.items()}
        digests = self._tensors(self._nodes, known, [tensor for _, tensor in outputs])
        if digests is None:
            return None
        return _digest(*(name.encode() for name, _ in outputs), *digests)

    def _function(self, name: str) -> bytes | None:
        if name not in self._functions:
            # Of one that calls itself, which TensorFlow does not load.
            self._functions[name] = None
            function = self._library[name]
            nodes = {node.name: node for node in function.node_def}
            arguments = function.signature.input_arg
            known = {item.name: str(index).encode() for index, item in enumerate(arguments)}
            results = [function.ret[item.name] for item in function.signature.output_arg]
            controls = [f"^{item}" for item in function.control_ret.values()]
            digests = self._tensors(nodes, known, [*results, *sorted(controls)])
            self._functions[name] = None if digests is None else _digest(*digests)
        return self._functions[name]

    def _tensors(
        self, nodes: Mapping[str, Any], known: Mapping[str, bytes], tensors: Sequence[str]
    ) -> list[bytes] | None:
        """Return the digests of tensors; None where there is a cycle, or a node is missing.

        Args:
            nodes: The nodes by name.
            known: Digests of nodes that are given: inputs, and arguments.
            tensors: Names as in the inputs of nodes.
        """
        digests = dict(known)
        entered = set[str]()
        waiting = [_node(tensor) for tensor in tensors]
        while waiting:
            name = waiting[-1]
            if name in digests:
                waiting.pop()
                continue
            if name not in nodes:
                return None
            needed = [_node(item) for item in nodes[name].input]
            missing = [item for item in needed if item not in digests]
            if missing and name in entered:
                return None
            if missing:
                entered.add(name)
                waiting += missing
                continue
            made = self._node(nodes[name], digests)
            if made is None:
                return None
            digests[name] = made
            waiting.pop()
        return [_tensor(item, digests) for item in tensors]

    def _node(self, node: NodeDef, digests: Mapping[str, bytes]) -> bytes | None:
        parts = [node.op.encode(), node.device.encode()]
        if node.op in ("Placeholder", "VarHandleOp", "VariableV2", "Variable"):
            # What is fed or stored besides, which only its name tells.
            parts.append(node.name.encode())
        if node.op in self._library:
            called = self._function(node.op)
            if called is None:
                return None
            parts[0] = called
        for name, value in sorted(node.attr.items()):
            if name in _IRRELEVANT:
                continue
            copy = type(value)()
            copy.CopyFrom(value)
            for function in (copy.func, *copy.list.func) if _calls(value) else ():
                if function.name in self._library:
                    called = self._function(function.name)
                    if called is None:
                        return None
                    function.name = called.hex()
            parts += [name.encode(), copy.SerializeToString(deterministic=True)]
        data = [_tensor(item, digests) for item in node.input if not item.startswith("^")]
        controls = sorted(_tensor(item, digests) for item in node.input if item.startswith("^"))
        return _digest(*parts, *data, b"^", *controls)


def _calls(value: Any) -> bool:
    kind = value.WhichOneof("value")
    return kind == "func" or (kind == "list" and bool(value.list.func))


def _node(tensor: str) -> str:
    return tensor.lstrip("^").split(":")[0]


def _tensor(tensor: str, digests: Mapping[str, bytes]) -> bytes:
    """Return the digest of an output of a node: "node", "node:1" or "node:output:1"."""
    output = tensor.partition(":")[2]
    return _digest(digests[_node(tensor)], (output or "0").encode())


def _digest(*parts: bytes) -> bytes:
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.digest()
