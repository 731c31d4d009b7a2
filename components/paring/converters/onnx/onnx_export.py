"""Conversion of SavedModels to ONNX, by tf2onnx."""

import gc
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from paring.converters.onnx.ordered_sets import ordered_sets
from paring.errors import ModelError, UnsupportedError, first_line
from paring.graphs.freezing import inlining_compiled_functions
from paring.models.arguments import signature_arguments
from paring.models.library_types import GraphDef
from paring.models.quiet import quiet_tensorflow, silent_stderr
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature, TensorSpec, loading_saved_model
from paring.system.memory import frequent_collection, release_memory

BATCH = "batch"
"""The name of the dimension that varies with the batch."""

# Protocol buffers, and so an ONNX file without others beside it, can't be larger.
_LARGEST_BYTES = (1 << 31) - 1
# Copies of a smaller graph may wait for Python's own collections. A requested one takes 40 ms,
# and they were three quarters of the export of a few layers.
_SMALL_BYTES = 4 << 20
_LISTED = 5


def to_onnx(saved: SavedModel, opset: int) -> onnx.ModelProto:
    """Return the ONNX graph of a SavedModel, in float32.

    That is what it computes in where the SavedModel does so in half precision. Inputs and
    outputs keep the signature's names, dtypes and shapes, but for outputs in bfloat16, which
    become float32; a batch that varies is called `batch`.

    Args:
        saved: The SavedModel.
        opset: The version of ONNX's operators.

    Raises:
        ModelError: TensorFlow can't load the SavedModel.
        UnsupportedError: It has operators that ONNX lacks, which are named, or it is
            larger than 2 GiB.
    """
    quiet_tensorflow()
    signature = saved.signature()
    shared = signature.inputs.keys() & signature.outputs.keys()
    if shared:
        raise UnsupportedError(
            "an input and an output have one name, which ONNX does not allow",
            received=", ".join(sorted(shared)),
            remedy="export the model with another name for the output",
        )
    with _quiet_tf2onnx(), ordered_sets(), frequent_collection():
        with loading_saved_model(saved.folder) as plain:
            frozen = _freeze(plain, saved.key)
        if frozen.graph_def.ByteSize() > _LARGEST_BYTES:
            raise UnsupportedError(
                "the model is larger than one ONNX file may be",
                received=f"{frozen.graph_def.ByteSize()} bytes",
                remedy="make it smaller first: prune_channels or distil it",
            )
        try:
            model = _convert(frozen, opset)
        except Exception as error:
            # tf2onnx has no classes of errors of its own.
            raise UnsupportedError(
                "this model can't be exported to ONNX",
                received=first_line(error),
                remedy="use another runtime for this model",
            ) from error
    _check_operators(model)
    _name_batch(model, signature)
    sort_nodes(model.graph)
    _Names(model.graph).rename(model.graph)
    release_memory()
    check(model)
    return model


@dataclass
class _Frozen:
    """A graph without variables, and the names of its inputs and outputs.

    Attributes:
        graph_def: TensorFlow's GraphDef.
        inputs, outputs: Names of tensors in it.
        renamed: The signature's names of these, by theirs.
    """

    graph_def: GraphDef
    inputs: list[str]
    outputs: list[str]
    renamed: dict[str, str]


def _freeze(folder: Path, key: str) -> _Frozen:
    """Freeze the SavedModel's signature `key`: its variables become constants."""
    from tf2onnx import tf_loader

    optimize = tf_loader.tf_optimize
    # It would be called while the loaded model and three graphs of it are in memory.
    tf_loader.tf_optimize = lambda inputs, outputs, graph_def: graph_def
    try:
        with inlining_compiled_functions():
            graph_def, inputs, outputs, function, _, renamed = tf_loader.from_saved_model(
                str(folder),
                None,
                None,
                "serve",
                [key],
                return_concrete_func=True,
                return_tensors_to_rename=True,
            )
    finally:
        tf_loader.tf_optimize = optimize
    # tf2onnx takes the names of placeholders, which are in lower case and without much else.
    arguments = signature_arguments(function)
    named = sorted(arguments, key=lambda name: arguments[name])
    renamed |= dict(zip(list(renamed)[: len(named)], named, strict=True))
    frozen = _Frozen(graph_def, inputs, outputs, renamed)
    del function, graph_def
    _widen(frozen)
    _optimize(frozen)
    return frozen


def _widen(frozen: _Frozen) -> None:
    """Have the graph compute in float32 what it computes in half precision."""
    from paring.graphs.full_precision import half_precision, to_full_precision

    if not half_precision(frozen.graph_def):
        return
    frozen.graph_def, outputs = to_full_precision(
        frozen.graph_def, [name.partition(":")[0] for name in frozen.inputs], frozen.outputs
    )
    for before, after in zip(frozen.outputs, outputs, strict=True):
        frozen.renamed[after] = frozen.renamed.pop(before)
    frozen.outputs = outputs


def _optimize(frozen: _Frozen) -> None:
    """Fold constants in the graph by TensorFlow, as tf2onnx does."""
    import tensorflow as tf
    from tf2onnx import tf_loader

    release_memory()
    with tf.device("/cpu:0"), tf.Graph().as_default():
        frozen.graph_def = tf_loader.tf_optimize(frozen.inputs, frozen.outputs, frozen.graph_def)
    release_memory()


def _convert(frozen: _Frozen, opset: int) -> onnx.ModelProto:
    """Convert the frozen graph to ONNX, as `tf2onnx.convert.from_graph_def` does.

    That function holds the weights in ten places at once. Its optimizers copy the whole
    graph each, and a copy refers to itself, so that it stays until cycles are collected.
    """
    import tensorflow as tf
    from tf2onnx import optimizer, tfonnx

    # Once more, since it finds more to fold behind what it has folded.
    _optimize(frozen)
    small = frozen.graph_def.ByteSize() < _SMALL_BYTES

    def collecting(factory: Callable[[], Any]) -> Callable[[], Any]:
        def make() -> Any:
            gc.collect()
            return factory()

        return factory if small else make

    with tf.device("/cpu:0"), tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen.graph_def, name="")
        frozen.graph_def = None
        converted = tfonnx.process_tf_graph(
            graph,
            continue_on_error=True,
            opset=opset,
            custom_op_handlers={op: (convert, []) for op, convert in OWN_OPERATORS.items()},
            input_names=frozen.inputs,
            output_names=frozen.outputs,
            tensors_to_rename=frozen.renamed,
        )
    del graph
    release_memory()
    known = optimizer._get_optimizers()
    optimizers = {name: collecting(factory) for name, factory in known.items()}
    model: onnx.ModelProto = optimizer.optimize_graph(converted, optimizers=optimizers).make_model(
        "converted from model"
    )
    return model


def _make_one(graph: Any, node: Any, name: str) -> str:
    """Add a constant 1 of the dtype of the node's output, and return its tensor's name."""
    import numpy as np

    item = np.array(1, onnx.helper.tensor_dtype_to_np_dtype(node.output_dtypes[0]))
    tensor: str = graph.make_const(f"{name}/one", item).output[0]
    return tensor


def _convert_erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Convert erfc, which Keras's exact GELU has and tf2onnx lacks, to 1 - erf(x)."""
    shapes, dtypes = node.output_shapes, node.output_dtypes
    unit = _make_one(graph, node, name)
    graph.remove_node(name)
    erf = graph.make_node("Erf", node.input, shapes=shapes, dtypes=dtypes)
    inputs = [unit, erf.output[0]]
    graph.make_node("Sub", inputs, name=name, outputs=node.output, shapes=shapes, dtypes=dtypes)


def _convert_log1p(graph: Any, node: Any, name: str, _: Any) -> None:
    """Convert log1p, by which features of counts and prices are scaled, to log(1 + x)."""
    shapes, dtypes = node.output_shapes, node.output_dtypes
    unit = _make_one(graph, node, name)
    graph.remove_node(name)
    total = graph.make_node("Add", [unit, *node.input], shapes=shapes, dtypes=dtypes)
    graph.make_node(
        "Log", total.output, name=name, outputs=node.output, shapes=shapes, dtypes=dtypes
    )


OWN_OPERATORS = {"Erfc": _convert_erfc, "Log1p": _convert_log1p}
"""TensorFlow's operators that tf2onnx lacks and that are converted here."""


def check(model: onnx.ModelProto) -> None:
    """Have ONNX check the graph, the types and shapes of its tensors too.

    Raises:
        UnsupportedError: It is no valid ONNX.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise UnsupportedError(
            "the exported graph is no valid ONNX",
            received=first_line(error),
            remedy="use another opset or precision, or another runtime for this model",
        ) from error


def read_onnx_signature(file: Path) -> Signature:
    """Return the signature of an ONNX file.

    Args:
        file: One that `paring.models.onnx_files.check_onnx` has let through.

    Raises:
        ModelError: The file can't be read.
    """
    try:
        graph = onnx.load(file, load_external_data=False).graph
    except (OSError, DecodeError) as error:
        raise ModelError(
            f"{file} can't be read as an ONNX file",
            received=first_line(error),
            remedy="export the model again; the file is missing, incomplete or damaged",
        ) from error
    return Signature(_specs(graph.input), _specs(graph.output))


def _specs(tensors: Any) -> dict[str, TensorSpec]:
    specs = {}
    for item in sorted(tensors, key=lambda tensor: tensor.name):
        tensor = item.type.tensor_type
        shape = tuple(size.dim_value or None for size in tensor.shape.dim)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        specs[item.name] = TensorSpec(item.name, shape, dtype.name)
    return specs


def _check_operators(model: onnx.ModelProto) -> None:
    """Refuse what tf2onnx has left as TensorFlow's own operators."""
    foreign = Counter(
        node.op_type for node in model.graph.node if not onnx.defs.has(node.op_type, node.domain)
    )
    if foreign:
        named = ", ".join(f"{name} ({count})" for name, count in foreign.most_common(_LISTED))
        raise UnsupportedError(
            "this model has operators that ONNX lacks",
            received=named,
            remedy="replace them, or use another runtime for this model",
        )


def _name_batch(model: onnx.ModelProto, signature: Signature) -> None:
    """Give the first dimension that varies one name, in inputs and outputs alike.

    tf2onnx numbers every dimension that varies by itself, so that nothing says that
    the outputs' batch is the inputs'.
    """
    specs = signature.inputs | signature.outputs
    batched = {name for name, spec in specs.items() if spec.shape and spec.shape[0] is None}
    for tensor in (*model.graph.input, *model.graph.output):
        sizes = tensor.type.tensor_type.shape.dim
        if tensor.name in batched and sizes and not sizes[0].dim_value:
            sizes[0].dim_param = BATCH


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Put each node behind those that it reads, which ONNX requires.

    The order is that of the outputs and of what each node reads, and so the same for any
    order that the nodes had. A node that no output needs is left out.
    """
    makers = {name: node for node in graph.node for name in node.output if name}
    ordered: dict[str, onnx.NodeProto] = {}
    # Each node is met twice: before and after what it reads.
    waiting = [(makers[item.name], False) for item in reversed(graph.output) if item.name in makers]
    while waiting:
        node, is_after = waiting.pop()
        key = node.output[0]
        if is_after:
            ordered[key] = node
        elif key not in ordered:
            waiting.append((node, True))
            waiting += [(makers[name], False) for name in reversed(_reads(node)) if name in makers]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered.values()]
    del graph.node[:]
    graph.node.extend(nodes)


def _reads(node: onnx.NodeProto) -> list[str]:
    """Return the names of all tensors that a node and its inner graphs read."""
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    reads = [name for graph in inner for item in graph.node for name in _reads(item)]
    return [*node.input, *reads, *(item.name for graph in inner for item in graph.output)]


class _Names:
    """Names for constants and for what tf2onnx has added, by their place in the graph.

    tf2onnx numbers throughout a process and in the order of sets, and calls equal
    constants by any of their names; so the same model would give other bytes each time.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._new: dict[str, str] = {item.name: item.name for item in (*graph.input, *graph.output)}
        self._numbers: Counter[str] = Counter()

    def rename(self, graph: onnx.GraphProto) -> None:
        """Rename all that `graph`, and what it loops over, gives and reads."""
        constants = {item.name for item in graph.initializer}
        for item in graph.input:
            item.name = self._given(item.name)
        for node in graph.node:
            node.output[:] = [self._given(name) for name in node.output]
            node.name = node.output[0].removesuffix(":0")
            for index, name in enumerate(node.input):
                if name in constants and name not in self._new:
                    self._new[name] = f"{node.name}/{index}"
                node.input[index] = self._new.get(name, name)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    self.rename(attribute.g)
        for tensor in (*graph.output, *graph.initializer):
            tensor.name = self._new.get(tensor.name, tensor.name)
        ordered = sorted(graph.initializer, key=lambda item: item.name)
        del graph.initializer[:]
        graph.initializer.extend(ordered)
        # It has the old names, and none of the batch.
        del graph.value_info[:]

    def _given(self, name: str) -> str:
        if name not in self._new:
            base, numbered, _ = name.partition("__")
            self._numbers[base] += bool(numbered)
            self._new[name] = f"{base}__{self._numbers[base]}" if numbered else name
        return self._new[name]


@contextmanager
def _quiet_tf2onnx() -> Iterator[None]:
    """Silence the logging of tf2onnx, which raises its errors as well."""
    names = [name for name in logging.root.manager.loggerDict if re.match(r"tf2onnx(\.|$)", name)]
    loggers = [logging.getLogger(name) for name in {"tf2onnx", *names}]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), silent_stderr():
            warnings.simplefilter("ignore")
            yield
    finally:
        for item, level in zip(loggers, levels, strict=True):
            item.setLevel(level)


def weight_arrays(model: onnx.ModelProto) -> dict[str, Any]:
    """Return the graph's constants, as arrays by name."""
    return {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
