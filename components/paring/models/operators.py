"""Check of a SavedModel's operators before TensorFlow loads or runs it.

TensorFlow runs whatever operators a graph holds, and some of them read and write files,
start processes or open connections. So everything that loading the model or calling its
signatures reaches must be on the list `paring.models.allowed.OPERATORS`, unless the user
trusts the model.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from paring.errors import ModelError, UntrustedModelError, first_line
from paring.models.allowed import OPERATORS
from paring.models.function_library import FunctionLibrary, concrete_functions
from paring.models.signature import read_meta_graph

_RESTORING = frozenset({"Restore", "RestoreSlice", "RestoreV2"})
_SAVING = _RESTORING | {
    *("MergeV2Checkpoints", "Save", "SaveSlices", "SaveV2"),
    *("ShardedFilename", "ShardedFilespec"),
}
# Each reads the file that one of its inputs names.
_FILE_READERS = {
    "InitializeTableFromTextFile": 1,
    "InitializeTableFromTextFileV2": 1,
    "InitializeTRTResource": 1,
}
# Each makes an engine of TensorRT's of bytes in the graph or in an asset: an engine is code.
_ENGINES = frozenset({"InitializeTRTResource", "TRTEngineOp"})
_ENGINE_NOTE = ", which loads an engine of TensorRT's"
_STREAMS = frozenset({b"stderr", b"stdout", b"log(info)", b"log(warning)", b"log(error)"})
_VARIABLE_USERS = frozenset({"AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp"})
_RESOURCE_FUNCTIONS = frozenset({"_create_resource", "_destroy_resource", "_initialize"})
# Only a call of `adapt` runs it, which neither Keras' loader nor Paring makes.
_ADAPTING = "_adapt_function"
_INITIALIZERS = ("saved_model_main_op", "legacy_init_op", "table_initializer")
_ASSETS = "assets"


def refuse_operators(
    folder: Path, *, all_functions: bool = False, engine_trusted: bool = False
) -> None:
    """Raise if loading the SavedModel or calling its signatures may touch anything else.

    Args:
        folder: The folder of the SavedModel.
        all_functions: Look at the functions that no signature reaches too, as for Keras,
            whose layers call them; but for those of `adapt`, which are not called.
        engine_trusted: Whether TensorRT's engines may be in it.

    Raises:
        ModelError: It can't be read.
        UntrustedModelError: It reaches operators that are not on the list, files outside of
            its folder `assets`, or engines.
    """
    status = (folder / "saved_model.pb").stat() if (folder / "saved_model.pb").is_file() else None
    stamp = (status.st_mtime_ns, status.st_size, status.st_ino) if status else ()
    found = [
        one
        for one in _findings_of(folder, all_functions, stamp)
        if not (engine_trusted and one.endswith(_ENGINE_NOTE))
    ]
    if found:
        raise UntrustedModelError(
            f"{folder} holds operators that may touch files, processes or the network, or that"
            " are not known to be harmless",
            received=", ".join(found[:8]),
            remedy="give --trust-model if you know where the model comes from, or export it"
            " without them",
        )


@lru_cache(maxsize=32)
def _findings_of(folder: Path, all_functions: bool, stamp: tuple[int, ...]) -> tuple[str, ...]:
    """Return the findings of a SavedModel, which a step needs several times.

    `stamp` changes with the file.
    """
    meta_graph = read_meta_graph(folder)
    try:
        return tuple(sorted(set(_Reached(meta_graph).findings(all_functions))))
    except (LookupError, TypeError, ValueError) as error:
        # Nodes without the inputs that their operators take.
        raise ModelError(
            f"{folder / 'saved_model.pb'} holds a graph that is broken",
            received=first_line(error),
            remedy="export or copy the model again",
        ) from error


class _Reached:
    """The nodes and functions of a MetaGraph that something starts from."""

    def __init__(self, meta_graph: Any) -> None:
        self._meta = meta_graph
        graph = meta_graph.graph_def
        self._nodes = {node.name: node for node in graph.node}
        self._library = FunctionLibrary(graph)
        self._functions = self._library.functions
        self._assets = {
            one.tensor_info.name.partition(":")[0]: one.filename
            for one in meta_graph.asset_file_def
        }
        self._asset_arguments: set[tuple[str, int]] = set()
        if _FILE_READERS.keys() & self._kinds():
            self._find_asset_arguments()

    def _kinds(self) -> set[str]:
        kinds = {node.op for node in self._nodes.values()}
        return kinds.union(*({n.op for n in one.node_def} for one in self._functions.values()))

    def findings(self, all_functions: bool) -> Iterator[str]:
        """Yield the operators that are reached and on no list."""
        objects = list(self._meta.object_graph_def.nodes)
        saver = self._meta.saver_def
        saving = self._starts([saver.save_tensor_name])
        restoring = self._starts([saver.restore_op_name])
        yield from self._walk(saving, set(), _SAVING)
        yield from self._walk(restoring, set(), _RESTORING)
        nodes, functions = self._roots(objects)
        if all_functions:
            adapting, attached = self._attached_functions(objects)
            aside = self._reached_functions(saving | restoring, adapting)
            # What a layer holds by another name too, or calls, is no such function alone.
            used = self._reached_functions(nodes, functions | attached)
            functions |= self._functions.keys() - (aside - used)
        yield from self._walk(nodes, functions, frozenset())

    def _roots(self, objects: list[Any]) -> tuple[set[str], set[str]]:
        """Return the nodes and functions that loading the model, or a signature, runs."""
        tensors: list[str] = []
        for signature in self._meta.signature_def.values():
            for info in (*signature.inputs.values(), *signature.outputs.values()):
                tensors += _tensor_names(info)
        for key in _INITIALIZERS:
            if key in self._meta.collection_def:
                collection = self._meta.collection_def[key]
                tensors += [*collection.node_list.value]
                tensors += [one.decode(errors="replace") for one in collection.bytes_list.value]
        functions: set[str] = set()
        for one in objects:
            for child in one.children:
                if child.local_name in _RESOURCE_FUNCTIONS:
                    functions |= self._named_functions(objects, child.node_id)
            # They hand tensors to the saver, which has the file; loading calls them.
            for pair in one.saveable_objects.values():
                functions |= self._named_functions(objects, pair.save_function)
                functions |= self._named_functions(objects, pair.restore_function)
        return self._starts(tensors), functions

    def _attached_functions(self, objects: list[Any]) -> tuple[set[str], set[str]]:
        """Return the functions of `adapt`, and those that objects hold by other names."""
        adapting, attached = set[str](), set[str]()
        for one in objects:
            for child in one.children:
                is_trace = one.WhichOneof("kind") == "function" and child.local_name[:6] == "trace_"
                if not is_trace:
                    chosen = adapting if child.local_name == _ADAPTING else attached
                    chosen |= self._named_functions(objects, child.node_id)
        return adapting, attached

    def _starts(self, tensors: Iterable[str]) -> set[str]:
        names = {one.partition(":")[0].removeprefix("^") for one in tensors}
        return names & self._nodes.keys()

    def _named_functions(self, objects: list[Any], number: object) -> set[str]:
        """Return the concrete functions behind an object of the object graph."""
        if not isinstance(number, int) or not 0 <= number < len(objects):
            return set()
        return concrete_functions(objects[number])

    def _reached_functions(self, nodes: set[str], functions: set[str]) -> set[str]:
        called = {name for node in self._upstream(nodes) for name in self._library.called(node)}
        return self._library.reached(functions | called)

    def _walk(self, nodes: set[str], functions: set[str], more: frozenset[str]) -> Iterator[str]:
        for node in self._upstream(nodes):
            yield from self._judged(node, more, None)
        for name in self._reached_functions(nodes, functions):
            function = self._functions.get(name)
            if function is not None:
                for node in function.node_def:
                    yield from self._judged(node, more, function)

    def _upstream(self, nodes: set[str]) -> Iterator[Any]:
        seen = set(nodes)
        pending = deque(nodes)
        while pending:
            node = self._nodes[pending.popleft()]
            yield node
            for name in self._starts(node.input) - seen:
                seen.add(name)
                pending.append(name)

    def _judged(self, node: Any, more: frozenset[str], function: Any) -> Iterator[str]:
        if node.op in _ENGINES:
            yield f"{node.op} ({node.name}){_ENGINE_NOTE}"
        if node.op in _FILE_READERS:
            inputs = _data_inputs(node)
            place = _FILE_READERS[node.op]
            if len(inputs) <= place or not self._names_asset(inputs[place], function):
                yield f"{node.op} of a file outside of {_ASSETS}/ ({node.name})"
        elif node.op == "PrintV2":
            if node.attr["output_stream"].s not in _STREAMS | {b""}:
                yield f"PrintV2 into {node.attr['output_stream'].s.decode(errors='replace')}"
        elif node.op not in (OPERATORS | _ENGINES | more) and node.op not in self._functions:
            yield f"{node.op} ({node.name})"

    def _names_asset(self, tensor: str, function: Any) -> bool:
        """Return whether a tensor is the path of an asset, which TensorFlow sets on loading."""
        name = tensor.partition(":")[0]
        nodes = self._nodes if function is None else _nodes_of(function)
        for _ in range(len(nodes)):
            node = nodes.get(name)
            if node is None or node.op not in ("Identity", "Snapshot") or not node.input:
                break
            name = node.input[0].partition(":")[0]
        if function is None:
            return _is_inside(self._assets.get(name, "")) or self._is_asset_variable(
                nodes.get(name)
            )
        arguments = [one.name for one in function.signature.input_arg]
        if name not in arguments:
            return False
        return (function.signature.name, arguments.index(name)) in self._asset_arguments

    def _is_asset_variable(self, node: Any) -> bool:
        """Return whether a node reads a variable that is only ever set to an asset's path.

        TensorFlow writes an initializer's call so, for loaders of TensorFlow 1.
        """
        if node is None or node.op != "ReadVariableOp":
            return False
        handle = self._nodes.get(node.input[0].partition(":")[0])
        if handle is None or handle.op != "VarHandleOp":
            return False
        bodies = (self._nodes.values(), *(one.node_def for one in self._functions.values()))
        same = [
            one
            for body in bodies
            for one in body
            if one.op == "VarHandleOp" and one.attr["shared_name"].s == handle.attr["shared_name"].s
        ]
        users = [
            one
            for one in self._nodes.values()
            if handle.name in {name.partition(":")[0] for name in _data_inputs(one)}
        ]
        assigned = [one.input[1].partition(":")[0] for one in users if one.op == "AssignVariableOp"]
        return (
            len(same) == 1
            and bool(assigned)
            and all(_is_inside(self._assets.get(one, "")) for one in assigned)
            and {one.op for one in users} <= _VARIABLE_USERS
        )

    def _find_asset_arguments(self) -> None:
        """Fill `_asset_arguments`.

        Whoever calls the function must hand an asset on: the object graph, which binds it to
        the initializer of a table, nodes of the graph, and other functions.
        """
        calls: dict[tuple[str, int], list[tuple[str, Any]]] = {}
        bound: set[tuple[str, int]] = set()
        open_to_callers: set[tuple[str, int]] = set()
        for name, concrete in self._meta.object_graph_def.concrete_functions.items():
            function = self._functions.get(name)
            if function is None:
                continue
            count = len(function.signature.input_arg)
            first = count - len(concrete.bound_inputs)
            for place in range(count):
                is_asset = place >= first and self._is_asset_object(
                    concrete.bound_inputs[place - first]
                )
                (bound if is_asset else open_to_callers).add((name, place))
        for caller in (None, *self._functions.values()):
            for node in self._nodes.values() if caller is None else caller.node_def:
                for name in self._library.called(node):
                    for place, tensor in enumerate(_data_inputs(node)):
                        calls.setdefault((name, place), []).append((tensor, caller))
        self._asset_arguments = (bound | calls.keys()) - open_to_callers
        while True:
            wrong = {
                one
                for one in self._asset_arguments
                if not all(self._names_asset(*call) for call in calls.get(one, ()))
            }
            if not wrong:
                return
            self._asset_arguments -= wrong

    def _is_asset_object(self, number: int) -> bool:
        objects = self._meta.object_graph_def.nodes
        if not 0 <= number < len(objects) or objects[number].WhichOneof("kind") != "asset":
            return False
        place = objects[number].asset.asset_file_def_index
        files = self._meta.asset_file_def
        return 0 <= place < len(files) and _is_inside(files[place].filename)


def _nodes_of(function: Any) -> dict[str, Any]:
    return {node.name: node for node in function.node_def}


def _data_inputs(node: Any) -> list[str]:
    return [one for one in node.input if not one.startswith("^")]


def _is_inside(filename: str) -> bool:
    """Return whether an asset of this name is in the folder `assets`."""
    return bool(filename) and "/" not in filename and filename not in (".", "..")


def _tensor_names(info: Any) -> Iterator[str]:
    kind = info.WhichOneof("encoding")
    if kind == "coo_sparse":
        yield info.coo_sparse.values_tensor_name
        yield info.coo_sparse.indices_tensor_name
        yield info.coo_sparse.dense_shape_tensor_name
    elif kind == "composite_tensor":
        for component in info.composite_tensor.components:
            yield from _tensor_names(component)
    else:
        yield info.name
