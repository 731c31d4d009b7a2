"""Check of a SavedModel's operators before TensorFlow loads or runs it.

TensorFlow runs whatever operators a graph holds, and some of them read and write files,
start processes or open connections. So everything that loading the model or calling its
signatures reaches must be on the list `paring.models.allowed.OPERATORS`, unless the user
trusts the model.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from paring.models.allowed import OPERATORS
from paring.models.function_library import FunctionLibrary, concrete_functions
from paring.models.library_types import MetaGraphDef, NodeDef

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
ENGINE_NOTE = ", which loads an engine of TensorRT's"
"""The end of the descriptions of engines."""

_STREAMS = frozenset({b"stderr", b"stdout", b"log(info)", b"log(warning)", b"log(error)"})
_VARIABLE_USERS = frozenset({"AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp"})
# Only a call of `adapt` runs it, which neither Keras' loader nor Paring makes.
_ADAPTING = "_adapt_function"
_INITIALIZERS = ("saved_model_main_op", "legacy_init_op", "table_initializer")
# VariableDefs, whose initializers loading runs where a graph names no operator of its own for that.
_LOCAL_VARIABLES = "local_variables"
_ASSETS = "assets"
# AssetFileDefs of models of TensorFlow 1, such as those of estimators.
_ASSET_COLLECTION = "saved_model_assets"


def unlisted_operators(meta_graph: MetaGraphDef, *, all_functions: bool) -> tuple[str, ...]:
    """Return descriptions of the operators that are reached and on no list.

    Args:
        meta_graph: A MetaGraphDef.
        all_functions: See `paring.models.saved_model.SavedModel.refuse_operators`.

    Raises:
        LookupError, TypeError, ValueError: The graph is broken.
    """
    return tuple(sorted(set(_Reached(meta_graph).findings(all_functions))))


class _Reached:
    """The nodes and functions of a MetaGraph that something starts from."""

    def __init__(self, meta_graph: MetaGraphDef) -> None:
        self._meta = meta_graph
        graph = meta_graph.graph_def
        self._nodes = {node.name: node for node in graph.node}
        self._library = FunctionLibrary(graph)
        self._functions = self._library.functions
        if self._library.is_recursive():
            raise ValueError("a function that calls itself")
        self._asset_files = _asset_files(meta_graph)
        self._assets = {
            item.tensor_info.name.partition(":")[0]: item.filename for item in self._asset_files
        }
        self._asset_arguments: set[tuple[str, int]] = set()
        if _FILE_READERS.keys() & self._kinds():
            self._find_asset_arguments()

    def _kinds(self) -> set[str]:
        kinds = {node.op for node in self._nodes.values()}
        return kinds.union(
            *({n.op for n in function.node_def} for function in self._functions.values())
        )

    def findings(self, all_functions: bool) -> Iterator[str]:
        """Yield the operators that are reached and on no list."""
        objects = list(self._meta.object_graph_def.nodes)
        saver = self._meta.saver_def
        for asset in self._asset_files:
            # Whoever saves the model again copies it into the new one.
            if not _is_inside(asset.filename):
                yield f"an asset outside of {_ASSETS}/ ({asset.filename})"
        saving = self._starts([saver.save_tensor_name])
        restoring = self._starts([saver.restore_op_name])
        yield from self._walk(saving, set(), _SAVING)
        yield from self._walk(restoring, set(), _RESTORING)
        yield from self._foreign_checkpoints(restoring)
        nodes, functions = self._roots(objects)
        if all_functions:
            adapting, attached = self._attached_functions(objects)
            aside = self._reached_functions(saving | restoring, adapting)
            # What a layer holds by another name too, or calls, is no such function alone.
            used = self._reached_functions(nodes, functions | attached)
            functions |= self._functions.keys() - (aside - used)
        yield from self._walk(nodes, functions, frozenset())

    def _foreign_checkpoints(self, restoring: set[str]) -> Iterator[str]:
        """Yield what restores from another file than the saver's, which its caller names.

        Loaders of objects don't use the saver of the graph, whose functions are so many more.
        """
        if self._meta.HasField("object_graph_def"):
            return
        filename = self._meta.saver_def.filename_tensor_name.partition(":")[0]
        functions = self._reached_functions(restoring, set()) & self._functions.keys()
        called = (node for name in functions for node in self._functions[name].node_def)
        for node in (*self._upstream(restoring), *called):
            if node.op in _RESTORING and (
                self._nodes.get(node.name) is not node
                or _data_inputs(node)[0].partition(":")[0] != filename
            ):
                yield f"{node.op} of a file that is not the model's own ({node.name})"

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
                tensors += [item.decode(errors="replace") for item in collection.bytes_list.value]
        tensors += self._local_initializers()
        functions = self._signature_functions(objects)
        for item in objects:
            for child in item.children:
                # TensorFlow sets it as the object's attribute, and calls it as the method of that
                # name: what fills a table, or restores the checkpoint.
                if child.local_name.startswith("_") and child.local_name != _ADAPTING:
                    functions |= self._named_functions(objects, child.node_id)
            # They hand tensors to the saver, which has the file; loading calls them.
            for pair in item.saveable_objects.values():
                functions |= self._named_functions(objects, pair.save_function)
                functions |= self._named_functions(objects, pair.restore_function)
        return self._starts(tensors), functions

    def _signature_functions(self, objects: list[Any]) -> set[str]:
        """Return the functions that are called as signatures, whatever their definitions name."""
        result: set[str] = set()
        for child in objects[0].children if objects else ():
            if child.local_name == "signatures" and 0 <= child.node_id < len(objects):
                for item in objects[child.node_id].children:
                    result |= self._named_functions(objects, item.node_id)
        return result

    def _local_initializers(self) -> Iterator[str]:
        from google.protobuf.message import DecodeError
        from tensorflow.core.framework import variable_pb2

        if _LOCAL_VARIABLES not in self._meta.collection_def:
            return
        for content in self._meta.collection_def[_LOCAL_VARIABLES].bytes_list.value:
            try:
                yield variable_pb2.VariableDef.FromString(content).initializer_name
            except DecodeError as error:
                raise ValueError(f"a variable in {_LOCAL_VARIABLES} is broken") from error

    def _attached_functions(self, objects: list[Any]) -> tuple[set[str], set[str]]:
        """Return the functions of `adapt`, and those that objects hold by other names."""
        adapting, attached = set[str](), set[str]()
        for item in objects:
            for child in item.children:
                is_trace = (
                    item.WhichOneof("kind") == "function" and child.local_name[:6] == "trace_"
                )
                if not is_trace:
                    chosen = adapting if child.local_name == _ADAPTING else attached
                    chosen |= self._named_functions(objects, child.node_id)
        return adapting, attached

    def _starts(self, tensors: Iterable[str]) -> set[str]:
        names = {tensor.partition(":")[0].removeprefix("^") for tensor in tensors}
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

    def _judged(self, node: NodeDef, more: frozenset[str], function: Any) -> Iterator[str]:
        if node.op in _ENGINES:
            yield f"{node.op} ({node.name}){ENGINE_NOTE}"
        if node.op in _FILE_READERS:
            inputs = _data_inputs(node)
            place = _FILE_READERS[node.op]
            if len(inputs) <= place or not self._names_asset(inputs[place], function):
                yield f"{node.op} of a file outside of {_ASSETS}/ ({node.name})"
        elif node.op == "PrintV2":
            if _text(node, "output_stream") not in _STREAMS | {b""}:
                yield f"PrintV2 into {_text(node, 'output_stream').decode(errors='replace')}"
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
        arguments = [item.name for item in function.signature.input_arg]
        if name not in arguments:
            return False
        return (function.signature.name, arguments.index(name)) in self._asset_arguments

    def _is_asset_variable(self, node: NodeDef) -> bool:
        """Return whether a node reads a variable that is only ever set to an asset's path.

        TensorFlow writes an initializer's call so, for loaders of TensorFlow 1.
        """
        if node is None or node.op != "ReadVariableOp":
            return False
        handle = self._nodes.get(node.input[0].partition(":")[0])
        if handle is None or handle.op != "VarHandleOp":
            return False
        bodies = (
            self._nodes.values(),
            *(function.node_def for function in self._functions.values()),
        )
        same = [
            item
            for body in bodies
            for item in body
            if item.op == "VarHandleOp"
            and _text(item, "shared_name") == _text(handle, "shared_name")
        ]
        users = [
            item
            for item in self._nodes.values()
            if handle.name in {name.partition(":")[0] for name in _data_inputs(item)}
        ]
        assigned = [
            user.input[1].partition(":")[0] for user in users if user.op == "AssignVariableOp"
        ]
        return (
            len(same) == 1
            and bool(assigned)
            and all(_is_inside(self._assets.get(item, "")) for item in assigned)
            and {user.op for user in users} <= _VARIABLE_USERS
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
                argument
                for argument in self._asset_arguments
                if not all(self._names_asset(*call) for call in calls.get(argument, ()))
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


def _asset_files(meta_graph: MetaGraphDef) -> list[Any]:
    """Return the AssetFileDefs that TensorFlow's loader reads.

    Raises:
        ValueError: One is broken.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import meta_graph_pb2

    files = list(meta_graph.asset_file_def)
    if files or _ASSET_COLLECTION not in meta_graph.collection_def:
        return files
    for item in meta_graph.collection_def[_ASSET_COLLECTION].any_list.value:
        file = meta_graph_pb2.AssetFileDef()
        try:
            unpacked = item.Unpack(file)
        except DecodeError as error:
            raise ValueError(f"an asset in {_ASSET_COLLECTION} is broken") from error
        if not unpacked:
            raise ValueError(f"{_ASSET_COLLECTION} holds what is no asset")
        files.append(file)
    return files


def _text(node: NodeDef, name: str) -> bytes:
    """Return an attribute's text, b"" where the node leaves it out.

    Reading it by its name would add it to the node, which others read too.
    """
    attribute = node.attr.get(name)
    return attribute.s if attribute is not None else b""


def _nodes_of(function: Any) -> dict[str, Any]:
    return {node.name: node for node in function.node_def}


def _data_inputs(node: NodeDef) -> list[str]:
    return [item for item in node.input if not item.startswith("^")]


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
