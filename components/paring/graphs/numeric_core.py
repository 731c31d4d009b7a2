"""A signature in parts: its text work, its dense numeric core, and what follows; and joined again.

The folder of the parts holds `preprocess/`, a SavedModel that takes what the source's signature
takes and gives what the core takes; `postprocess/`, where outputs of the source are computed from
the core's outputs by text work, such as the names of classes; and `interface.json`, the tensors
between them. Tables are stored inside of these, with their content, so that no files of
vocabularies lie beside.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from paring.artifacts import DEFAULT_SIGNATURE
from paring.errors import UnsupportedError, first_line
from paring.graphs.graph import load_function
from paring.graphs.graph_editing import GraphEditor, node_name
from paring.graphs.inlined_graph import (
    CONTROL_FLOW,
    all_nodes,
    import_nodes,
    inline_functions,
    traced_flat,
)
from paring.graphs.numeric_frontier import (
    Batch,
    Crossing,
    find_frontier,
)
from paring.graphs.parsed_features import ParsedFeature, parsed_features
from paring.graphs.trial_batches import (
    BatchKind,
    batch_kinds,
    longer_kinds,
    make_batch,
    varying_names,
)
from paring.models.arguments import (
    argument_specs,
    by_name,
    save_signatures,
    signature_specs,
)
from paring.models.library_types import GraphDef
from paring.models.numeric_parts import INTERFACE, POSTPROCESS, PREPROCESS, Interface, Tensor
from paring.models.part_calls import PartCalls, equal_outputs
from paring.models.saved_model import SavedModel

# Sizes that tell a tensor's rows from its other dimensions, and one to check the cut by.
_BATCHES = (3, 5)
_CHECKED_BATCH = 4
_WORDS = 100
_TABLES = ("HashTable", "HashTableV2", "MutableHashTable", "MutableHashTableV2")


@dataclass(frozen=True)
class _Table:
    """A copy of a lookup table, with what it holds."""

    table: Any
    keys: np.ndarray[Any, Any]


class SignatureParts:
    """A signature, cut in parts.

    Attributes:
        frontier: The tensors between the parts.
        features: Features of tf.Example that are parsed, by the input that holds them.
    """

    def __init__(self, model: SavedModel) -> None:
        """Cut the signature that a model was opened for.

        Args:
            model: A SavedModel that was checked when it was opened.

        Raises:
            ModelError: TensorFlow can't load it.
            UnsupportedError: It has no dense numeric core, or its parts don't answer as the
                whole does.
        """
        self._key = model.key
        self._method = model.meta_graph.signature_def[self._key].method_name
        self._function = load_function(model)
        self._specs = signature_specs(self._function)
        traced = traced_flat(self._function, self._specs)
        names = sorted(self._function.structured_outputs)
        outputs = [tensor.name for tensor in traced.outputs]
        self._graph_def = _plain_places(inline_functions(traced, outputs))
        self._inputs = {
            name: node_name(item.name)
            for name, item in zip(self._specs, traced.inputs, strict=False)
        }
        self._outputs = dict(zip(names, outputs, strict=True))
        # Captured constants are in the graph by now.
        nodes = {node.name for node in self._graph_def.node if node.op == "Placeholder"}
        handles = {id(variable.handle): variable for variable in traced.graph.variables}
        captures = {
            node_name(inner.name): outer
            for outer, inner in traced.graph.captures
            if node_name(inner.name) in nodes
        }
        self._variables = {
            name: handles[id(tensor)] for name, tensor in captures.items() if id(tensor) in handles
        }
        self._constants = {
            name: tensor for name, tensor in captures.items() if tensor.dtype != tf.resource
        }
        self._tables = self._copied_tables(
            {n: t for n, t in captures.items() if n not in self._variables | self._constants}
        )
        self.features = self._parsed_features()
        self._kind = self._working_kind()
        self.frontier = find_frontier(
            self._graph_def,
            self._inputs,
            self._outputs,
            variables=self._variables,
            shapes=self._shapes,
            batches=_BATCHES,
        )

    def write(self, parts: Path, core: Path, *, trusted: bool = False) -> Interface:
        """Write the parts, and check that together they answer as the whole.

        Args:
            parts: Gets `preprocess/`, `postprocess/` where there is one, and `interface.json`.
            core: Gets the core, a SavedModel with a signature of the source's name.
            trusted: Whether the text work may hold operators that touch anything else.

        Raises:
            UnsupportedError: They don't.
        """
        frontier = self.frontier
        given = [*frontier.core_inputs, *frontier.aside]
        self._save(
            parts / PREPROCESS,
            {
                name: Crossing(name, f"{self._inputs[name]}:0", spec.dtype, None)
                for name, spec in self._specs.items()
            },
            {item.name: item.tensor for item in given},
            specs=self._specs,
            asserted=True,
        )
        self._save(
            core,
            {item.name: item for item in frontier.core_inputs},
            {item.name: item.tensor for item in frontier.core_outputs},
            key=self._key,
        )
        if frontier.post_outputs:
            self._save(
                parts / POSTPROCESS,
                {item.name: item for item in frontier.post_inputs},
                {name: frontier.outputs[name] for name in frontier.post_outputs},
            )
        interface = self._interface()
        interface.write(parts / INTERFACE)
        self._check(PartCalls(parts, core, trusted=trusted))
        return interface

    def _interface(self) -> Interface:
        frontier = self.frontier
        known = {item.tensor: item.name for item in [*frontier.core_outputs, *frontier.aside]}
        return Interface(
            signature=self._key,
            method=self._method,
            inputs=tuple(_described(name, spec) for name, spec in self._specs.items()),
            core_inputs=tuple(_described(item.name, item.spec) for item in frontier.core_inputs),
            core_outputs=tuple(item.name for item in frontier.core_outputs),
            post_inputs=tuple(item.name for item in frontier.post_inputs),
            post_outputs=frontier.post_outputs,
            outputs={
                name: name if name in frontier.post_outputs else known[tensor]
                for name, tensor in frontier.outputs.items()
            },
            features={
                name: tuple(
                    Tensor(item.name, item.dtype, item.shape, item.required) for item in items
                )
                for name, items in self.features.items()
            },
        )

    def _copied_tables(self, captured: Mapping[str, Any]) -> dict[str, _Table]:
        """Return a copy of each table, by the node that stands for its handle."""
        types = _table_types(self._graph_def)
        tables: dict[str, _Table] = {}
        for name, handle in captured.items():
            if name not in types:
                raise UnsupportedError(
                    "this model reads what can't be stored in parts",
                    received=f"a resource that is neither a variable nor a table, {name}",
                    remedy="export a signature without it",
                )
            tables[name] = _copied_table(handle, *types[name])
        for node in self._graph_def.node:
            if node.op in _TABLES:
                kinds = (node.attr["key_dtype"].type, node.attr["value_dtype"].type)
                handle = tf.raw_ops.HashTableV2(
                    container=node.attr["container"].s,
                    shared_name=node.attr["shared_name"].s or node.name,
                    key_dtype=kinds[0],
                    value_dtype=kinds[1],
                )
                tables[node.name] = _copied_table(handle, *map(tf.as_dtype, kinds))
        return tables

    def _parsed_features(self) -> dict[str, Sequence[ParsedFeature]]:
        graph = tf.Graph()
        with graph.as_default():
            tf.graph_util.import_graph_def(self._graph_def, name="")
        inputs = {placeholder: name for name, placeholder in self._inputs.items()}
        result: dict[str, Sequence[ParsedFeature]] = {}
        for op in graph.get_operations():
            features = parsed_features(op)
            if features:
                source = op.inputs[0]
                while source.op.type in ("Identity", "Reshape", "Squeeze", "ExpandDims"):
                    source = source.op.inputs[0]
                if source.op.name in inputs:
                    name = inputs[source.op.name]
                    known = {item.name: item for item in result.get(name, ())}
                    known |= {item.name: item for item in features if item.name not in known}
                    result[name] = tuple(known.values())
        return result

    def _working_kind(self) -> BatchKind:
        """Return the first kind of made-up batches that the whole signature takes.

        What it takes at several lengths has another one in each batch.

        Raises:
            UnsupportedError: It takes none.
        """
        why = ""
        for kind in batch_kinds():
            error = self._refusal(kind)
            if error is None:
                return self._with_lengths(kind)
            why = why or first_line(error)
        raise UnsupportedError(
            "this model's numeric core can't be found, since it takes no made-up examples",
            received=why,
            remedy="export a signature that takes numbers",
        )

    def _with_lengths(self, kind: BatchKind) -> BatchKind:
        """Return the kind of batch with all lengths that the signature lets vary."""
        for names in varying_names(self._specs, self.features):
            for longer in longer_kinds(kind, names):
                if self._refusal(longer) is None:
                    kind = longer
                    break
        return kind

    def _refusal(self, kind: BatchKind) -> Exception | None:
        """Return why the signature does not take batches of this kind; None if it does."""
        call = by_name(self._function)
        try:
            for size in (*_BATCHES, _CHECKED_BATCH):
                call(self._tensors(self._batch(kind, size)))
        except (tf.errors.OpError, ValueError) as error:
            return error
        return None

    def _batch(self, kind: BatchKind, size: int) -> Batch:
        words = [
            key
            for table in self._tables.values()
            if table.keys.dtype == object
            for key in table.keys[:_WORDS]
        ]
        return make_batch(self._specs, self.features, kind=kind, words=words, size=size)

    def _tensors(self, batch: Batch) -> dict[str, Any]:
        return {name: tf.constant(item, self._specs[name].dtype) for name, item in batch.items()}

    def _shapes(self, tensors: Sequence[str]) -> list[dict[str, tuple[int, ...]]]:
        """Return the shape of each of the tensors in each batch."""

        def measure(*given: Any) -> list[Any]:
            nodes = dict(zip(self._inputs.values(), given, strict=True))
            passed = {name: tensor for name, tensor in nodes.items() if f"{name}:0" in tensors}
            names = [name for name in tensors if node_name(name) not in passed]
            part = _part(self._graph_def, {}, names, asserted=False)
            nodes |= self._captured({node.name for node in part.node})
            imported = import_nodes(_callable(part), nodes, names, name="measured")
            known = dict(zip(names, imported, strict=True))
            known |= {f"{name}:0": tensor for name, tensor in passed.items()}
            return [tf.shape(known[name], tf.int64) for name in tensors]

        function = tf.function(measure, autograph=False).get_concrete_function(
            *argument_specs(self._specs)
        )
        result = []
        for size in _BATCHES:
            batch = self._tensors(self._batch(self._kind, size))
            shapes = function(*(batch[name] for name in self._specs))
            result.append(
                {
                    name: tuple(map(int, shape.numpy()))
                    for name, shape in zip(tensors, shapes, strict=True)
                }
            )
        return result

    def _save(
        self,
        folder: Path,
        inputs: Mapping[str, Crossing],
        outputs: Mapping[str, str],
        *,
        key: str = DEFAULT_SIGNATURE,
        specs: Mapping[str, Any] | None = None,
        asserted: bool = False,
    ) -> None:
        """Write a part as a SavedModel with one signature.

        Args:
            folder: Gets the SavedModel.
            inputs: The tensors that it takes, by their names.
            outputs: The tensors that it gives, by their names.
            key: Name of the signature.
            specs: tf.TensorSpec of each input; by default that of the crossing.
            asserted: Whether assertions are kept.
        """
        specs = specs or {name: item.spec for name, item in inputs.items()}
        boundary = {item.tensor: f"paring_input_{i}" for i, item in enumerate(inputs.values())}
        ends = [boundary.get(tensor, tensor) for tensor in outputs.values()]
        part = _part(self._graph_def, boundary, ends, asserted=asserted)
        read = {node.name for node in part.node}
        module = tf.Module()
        module.weights = [item for name, item in self._variables.items() if name in read]
        module.tables = [item.table for name, item in self._tables.items() if name in read]

        def serve(*tensors: Any) -> dict[str, Any]:
            given = dict(zip(boundary.values(), tensors, strict=True))
            passed = {name: tf.identity(given[name]) for name in ends if name in given}
            captured = self._captured(read)
            names = [name for name in ends if name not in given]
            made = import_nodes(_callable(part), given | captured, names, name="part")
            known = passed | dict(zip(names, made, strict=True))
            results = {name: known[end] for name, end in zip(outputs, ends, strict=True)}
            for name, tensor in results.items():
                if name in self._function.structured_outputs:
                    tensor.set_shape(self._function.structured_outputs[name].shape)
            return results

        traced = tf.function(serve, autograph=False)
        concrete = traced.get_concrete_function(*argument_specs(specs))
        save_signatures(module, {key: concrete}, folder, {key: specs})

    def _captured(self, read: set[str]) -> dict[str, Any]:
        """Return what some nodes read besides inputs, in the function that is being traced."""
        graph = tf.compat.v1.get_default_graph()
        handles: dict[str, Any] = {}
        for name, variable in self._variables.items():
            if name in read:
                graph.watch_variable(variable)
                handles[name] = variable.handle
        handles |= {n: item.table.resource_handle for n, item in self._tables.items() if n in read}
        handles |= {name: item for name, item in self._constants.items() if name in read}
        return {name: graph.capture(tensor) for name, tensor in handles.items()}

    def _check(self, calls: PartCalls) -> None:
        """Compare the parts with the whole on made-up examples."""
        batch = self._tensors(self._batch(self._kind, _CHECKED_BATCH))
        whole = by_name(self._function)(batch)
        joined = calls.whole(batch)
        for name, tensor in whole.items():
            if not equal_outputs(tensor.numpy(), joined[name].numpy()):
                raise UnsupportedError(
                    f"output {name!r} of this model's parts is not that of the whole",
                    received=f"parts cut at {', '.join(c.name for c in self.frontier.core_inputs)}",
                    remedy="serve it as it is",
                )


def join_parts(parts: Path, core: Path, out: Path, *, trusted: bool = False) -> None:
    """Write a SavedModel with the source's signature whose core is another one.

    Args:
        parts: The text work; see the module.
        core: A SavedModel with the core's signature, such as an optimized one.
        out: Gets the SavedModel.
        trusted: Whether the text work may hold operators that touch anything else.

    Raises:
        ModelError: A part is broken.
    """
    calls = PartCalls(parts, core, trusted=trusted)
    specs = signature_specs(calls.functions[0])
    module = tf.Module()
    module.weights, module.tables = [], []
    for loaded, function in zip(calls.loaded, calls.functions, strict=True):
        _keep(module, loaded, function)

    def serve(*tensors: Any) -> dict[str, Any]:
        return calls.whole(dict(zip(specs, tensors, strict=True)))

    traced = tf.function(serve, autograph=False)
    concrete = traced.get_concrete_function(*argument_specs(specs))
    key = calls.interface.signature
    save_signatures(module, {key: concrete}, out, {key: specs})
    _set_method(out, calls.interface)


def _keep(module: Any, loaded: Any, function: Any) -> None:
    """Have the module hold what the signature's function of a loaded part reads."""
    module.weights = [*module.weights, *function.variables]
    tables = list(getattr(loaded, "tables", ()))
    module.tables = [*module.tables, *tables]
    known = {id(variable.handle) for variable in function.variables}
    known |= {id(table.resource_handle) for table in tables}
    if any(
        tensor.dtype == tf.resource and id(tensor) not in known
        for tensor in function.captured_inputs
    ):
        module.others = [*getattr(module, "others", ()), loaded]


def _set_method(folder: Path, interface: Interface) -> None:
    """Give a signature the method by which servers know classification and regression."""
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow.python.saved_model import fingerprinting_utils

    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for graph in saved.meta_graphs:
        definition = graph.signature_def[interface.signature]
        if definition.method_name == interface.method:
            return
        definition.method_name = interface.method
    file.write_bytes(saved.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(folder))


def _described(name: str, spec: Any) -> Tensor:
    dtype = "object" if spec.dtype == tf.string else spec.dtype.name
    return Tensor(name, dtype, None if spec.shape.rank is None else tuple(spec.shape.as_list()))


def _plain_places(graph_def: GraphDef) -> GraphDef:
    """Return a copy without places, and without what binds nodes to those of other parts.

    Handles of variables are read directly: behind an Identity, as inlining leaves them, TFLite's
    converter does not make constants of the variables.
    """
    plain = type(graph_def)()
    plain.CopyFrom(graph_def)
    for node in all_nodes(plain):
        node.device = ""
        for name in ("_class", "_output_shapes"):
            node.attr.pop(name, None)
    editor = GraphEditor(plain)
    for node in editor.nodes.values():
        node.input[:] = [_behind_handles(editor, tensor) for tensor in node.input]
    made = type(plain)(versions=plain.versions, library=plain.library)
    made.node.extend(editor.nodes.values())
    return made


def _behind_handles(editor: GraphEditor, tensor: str) -> str:
    """Return the handle that identities hand on; the tensor itself where it is none."""
    while not tensor.startswith("^"):
        node = editor.nodes[node_name(tensor)]
        if node.op != "Identity" or node.attr["T"].type != tf.resource.as_datatype_enum:
            break
        tensor = node.input[0]
    return tensor


def _callable(graph_def: GraphDef) -> GraphDef:
    """Return a copy whose loops and conditions run as TensorFlow runs them by default."""
    copy = type(graph_def)()
    copy.CopyFrom(graph_def)
    for node in all_nodes(copy):
        if node.op in CONTROL_FLOW:
            node.attr["_lower_using_switch_merge"].b = True
    return copy


def _full(tensor: str) -> str:
    return tensor if ":" in tensor else f"{tensor}:0"


def _part(
    graph_def: GraphDef, boundary: Mapping[str, str], ends: Iterable[str], *, asserted: bool
) -> GraphDef:
    """Return the nodes that some tensors are computed from, down to those of the boundary.

    Args:
        graph_def: The whole graph.
        boundary: The placeholder that stands for each tensor that is given.
        ends: The tensors.
        asserted: Whether nodes that must run before others, as assertions, are kept where they
            need nothing but what these nodes need.
    """
    editor = GraphEditor(graph_def)
    given = {node_name(tensor) for tensor in boundary}
    given |= {node.name for node in graph_def.node if node.op == "Placeholder"}
    for node in editor.nodes.values():
        kept = []
        for tensor in node.input:
            if tensor.startswith("^"):
                if asserted and node_name(tensor) not in given:
                    kept.append(tensor)
            else:
                kept.append(boundary.get(_full(tensor), tensor))
        node.input[:] = kept
    ends = list(ends)
    if asserted:
        _drop_foreign_controls(editor, ends)
    for placeholder in boundary.values():
        editor.add("Placeholder", placeholder, [], dtype=tf.float32)
    return editor.finish(ends)


def _drop_foreign_controls(editor: GraphEditor, ends: Sequence[str]) -> None:
    """Drop control edges from nodes that need more than the tensors do by their data."""
    own: set[str] = set()
    pending = [node_name(tensor) for tensor in ends]
    while pending:
        name = pending.pop()
        if name in own or name not in editor.nodes:
            continue
        own.add(name)
        pending += [node_name(i) for i in editor.nodes[name].input if not i.startswith("^")]
    for name in own:
        node = editor.nodes[name]
        kept = [
            tensor
            for tensor in node.input
            if not tensor.startswith("^") or _needs_only(editor, node_name(tensor), own)
        ]
        node.input[:] = kept


def _needs_only(editor: GraphEditor, name: str, own: set[str]) -> bool:
    """Return whether a node is computed from some nodes, constants and light work on these."""
    pending, seen = [name], set[str]()
    while pending:
        item = pending.pop()
        if item in seen or item in own or item not in editor.nodes:
            continue
        seen.add(item)
        node = editor.nodes[item]
        if node.op == "Placeholder" or node.op.endswith("VariableOp") or node.op in CONTROL_FLOW:
            return False
        pending += [node_name(tensor) for tensor in node.input]
    return True


def _table_types(graph_def: GraphDef) -> dict[str, tuple[Any, Any]]:
    """Return the types of keys and values of each table, by the placeholder of its handle."""
    types: dict[str, tuple[Any, Any]] = {}
    nodes = {node.name: node for node in graph_def.node}
    kinds = {
        (node.attr["Tin"].type, node.attr["Tout"].type)
        for node in all_nodes(graph_def)
        if node.op.startswith("LookupTableFind")
    }
    readers = [node for node in graph_def.node if node.op.startswith("LookupTable")]
    for node in readers:
        if node.op.startswith("LookupTableFind"):
            source = nodes[node_name(node.input[0])]
            while source.op == "Identity":
                source = nodes[node_name(source.input[0])]
            types[source.name] = (
                tf.as_dtype(node.attr["Tin"].type),
                tf.as_dtype(node.attr["Tout"].type),
            )
    if len(kinds) == 1:
        # Of tables that are read inside of loops alone.
        (only,) = kinds
        pair = (tf.as_dtype(only[0]), tf.as_dtype(only[1]))
        for node in graph_def.node:
            if node.op == "Placeholder" and node.attr["dtype"].type == tf.resource.as_datatype_enum:
                types.setdefault(node.name, pair)
    return types


def _copied_table(handle: Any, key_dtype: Any, value_dtype: Any) -> _Table:
    try:
        keys, values = tf.raw_ops.LookupTableExportV2(
            table_handle=handle, Tkeys=key_dtype, Tvalues=value_dtype
        )
        default = "" if value_dtype == tf.string else value_dtype.as_numpy_dtype(0)
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, values), default
        )
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise UnsupportedError(
            "a lookup table of this model can't be copied",
            received=first_line(error),
            remedy="export a signature without it",
        ) from error
    return _Table(table, keys.numpy())
