"""Check of a TFLite file before an interpreter opens it.

LiteRT follows the offsets in a file without looking at them, and its kernels trust that
constants are as large as their tensors' shapes. So all of the file's structure is read
within bounds first. Custom operators are code that the interpreter's host brings, whose
options nothing checks; they are refused unless the user trusts the model.
"""

import math
import mmap
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from paring.errors import ModelError, UntrustedModelError
from paring.models.calls import callees_first
from paring.models.flatbuffer import FlatBuffer, FlatBufferError, Record
from paring.models.tflite_schema import SCHEMA

_IDENTIFIER = b"TFL3"
_CUSTOM = 32
_OPTIONAL = -1
_STRING = 5
_BITS = {
    **{0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128, 12: 64},
    **{15: 32, 16: 16, 17: 4, 18: 16, 19: 2, 20: 4, 21: 8, 22: 8},
}
"""Bits of an element, by the tensor's type; the others are text, handles and variants."""
_LIMITS = {3: (0, 255), 7: (-(1 << 15), (1 << 15) - 1), 9: (-128, 127)}
"""Smallest and largest value of the types that are rounded to with a zero point."""
# The smallest float32 with all of its digits; kernels divide by it.
_MIN_SCALE = 2.0**-126
_MAX_RANK = 255
_MAX_BYTES = 1 << 62
_MAX_PARTS = 1_000_000
_SPARSE = 1
# Offsets of 0 and 1 stand for none.
_FIRST_OFFSET = 2
_WORD_BYTES = 4
_LISTED = 8

_SUBGRAPH_FIELDS: Mapping[str, tuple[str, ...]] = {
    "CallOnceOptions": ("init_subgraph_index",),
    "CallOptions": ("subgraph",),
    "IfOptions": ("then_subgraph_index", "else_subgraph_index"),
    "StableHLOCompositeOptions": ("decomposition_subgraph_index",),
    "StablehloReduceOptions": ("body_subgraph_index",),
    "StablehloReduceWindowOptions": ("body_subgraph_index",),
    "StablehloScatterOptions": ("update_computation_subgraph_index",),
    "StablehloSortOptions": ("comparator_subgraph_index",),
    "StablehloWhileOptions": ("cond_subgraph_index", "body_subgraph_index"),
    "WhileOptions": ("cond_subgraph_index", "body_subgraph_index"),
}
_SUBGRAPH_LISTS: Mapping[str, str] = {
    "StablehloCaseOptions": "branch_subgraph_indices",
    "StablehloCustomCallOptions": "called_computations",
}


def check_tflite(file: Path, *, trusted: bool = False) -> None:
    """Raise if an interpreter must not open the file.

    Args:
        file: The TFLite file.
        trusted: Whether custom operators are let through.

    Raises:
        ModelError: An offset, index or size in it is wrong.
        UntrustedModelError: It has custom operators, or weights in other files, and is not
            trusted.
    """
    result, _ = _inspect(file, _stamp(file))
    if result and not trusted:
        raise UntrustedModelError(
            f"{file} holds what TFLite's own kernels don't run",
            received=", ".join(result[:_LISTED]),
            remedy="give --trust-model if you know where the model comes from, or convert it"
            " without them",
        )


def holds_state(file: Path) -> bool:
    """Return whether a TFLite file has tensors that keep their values from call to call.

    Whoever serves it resets them before each sequence, with `reset_all_variables()` of
    LiteRT's interpreter; `paring.runtimes.tflite.TFLiteRuntime` does so.

    Args:
        file: The TFLite file.

    Raises:
        ModelError: It can't be read.
    """
    return _inspect(file, _stamp(file))[1]


def has_variable_tensors(content: bytes) -> bool:
    """See `holds_state`, of the bytes of a file that was converted here."""
    return _has_variables(FlatBuffer(content, SCHEMA).read("Model", _IDENTIFIER))


def _stamp(file: Path) -> tuple[int, ...]:
    try:
        status = file.stat()
    except OSError as error:
        raise _broken(file, error.strerror) from error
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=32)
def _inspect(file: Path, stamp: tuple[int, ...]) -> tuple[tuple[str, ...], bool]:
    """Check the file once for as long as `stamp` is the same.

    Returns:
        What has to be trusted, and whether the file holds state.
    """
    try:
        with file.open("rb") as stream:
            # Weights stay on the disk: nothing looks at the pages that hold them.
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        model = FlatBuffer(content, SCHEMA).read("Model", _IDENTIFIER)
        return tuple(sorted(set(_Check(model, content).findings()))), _has_variables(model)
    except (OSError, ValueError) as error:
        # Mapping an empty file is a ValueError, and so is a FlatBufferError.
        raise _broken(file, str(error)) from error


def _broken(file: Path, received: object) -> ModelError:
    return ModelError(
        f"{file} can't be read as a TFLite file: it is broken, or was cut off",
        received=received,
        remedy="convert or copy the model again",
    )


def _has_variables(model: Record) -> bool:
    return any(
        tensor.get("is_variable", False)
        for graph in model.get("subgraphs", ())
        for tensor in graph.get("tensors", ())
    )


class _Check:
    """Looks at what the offsets lead to: indices, shapes and sizes."""

    def __init__(self, model: Record, content: Any) -> None:
        self._model = model
        self._content = content
        self._graphs: Sequence[Record] = model.get("subgraphs", ())
        self._codes: Sequence[Record] = model.get("operator_codes", ())
        self._parts = 0
        self._buffers = [self._buffer(item) for item in model.get("buffers", ())]
        self._texts: dict[int, int] = {}

    def findings(self) -> Iterator[str]:
        """Yield what has to be trusted.

        Raises:
            ValueError: An index, shape or size is wrong, or a graph calls itself.
        """
        if not self._graphs:
            raise FlatBufferError("it has no graph")
        calls: dict[str, set[str]] = {}
        for number, graph in enumerate(self._graphs):
            tensors = graph.get("tensors", ())
            operators = graph.get("operators", ())
            self._parts += len(tensors) + len(operators)
            if self._parts > _MAX_PARTS:
                raise FlatBufferError(f"it has more than {_MAX_PARTS:,} tensors and operators")
            constants = {index for index, item in enumerate(tensors) if self._tensor(index, item)}
            for role in ("inputs", "outputs"):
                _check_indices(graph.get(role, ()), len(tensors), f"graph {number}: {role}")
            if not constants.isdisjoint(map(int, graph.get("inputs", ()))):
                raise FlatBufferError(f"an input of graph {number} is a constant")
            called = calls.setdefault(f"graph {number}", set())
            for index, item in enumerate(operators):
                place = f"graph {number}, operator {index}"
                self._operator(place, item, len(tensors), constants)
                called |= {f"graph {callee}" for callee in self._called(place, item)}
                yield from self._foreign(item)
        callees_first(calls)
        self._check_signatures()
        for item in self._model.get("metadata", ()):
            self._index(item.get("buffer", 0), len(self._buffers), "metadata: buffer")
        if self._model.get("external_buffers") or self._model.get("external_buffer_groups"):
            yield "weights in other files"

    def _buffer(self, buffer: Record) -> Any:
        """Return the bytes of a constant, in the flatbuffer or behind it."""
        offset, size = buffer.get("offset", 0), buffer.get("size", 0)
        if offset < _FIRST_OFFSET:
            return buffer.get("data", ())
        if offset + size > len(self._content):
            raise FlatBufferError(f"a buffer of {size} bytes at byte {offset} is not in the file")
        return memoryview(self._content)[offset : offset + size]

    def _index(self, index: int, count: int, what: str) -> int:
        if not 0 <= index < count:
            raise FlatBufferError(f"{what} {index} of {count}")
        return index

    def _tensor(self, index: int, tensor: Record) -> bool:
        """Check a tensor; returns whether it is constant."""
        name = tensor.get("name", b"").decode(errors="replace")[:60]
        what = f"tensor {index} ({name})"
        shape = _plain(tensor.get("shape", ()), what)
        count = math.prod(shape)
        kind = tensor.get("type", 0)
        if any(size < 0 for size in shape) or count * _BITS.get(kind, 8) > _MAX_BYTES:
            raise FlatBufferError(f"{what} has the shape {shape}")
        _plain(tensor.get("shape_signature", ()), what)
        buffer = self._index(tensor.get("buffer", 0), len(self._buffers), f"{what}: buffer")
        content = self._buffers[buffer]
        constant = len(content) > 0
        _check_quantization(tensor.get("quantization", {}), kind, shape, what, constant=constant)
        if not constant:
            return False
        if "sparsity" in tensor:
            count = _stored_values(tensor["sparsity"], shape, what)
        if kind == _STRING:
            if buffer not in self._texts:
                self._texts[buffer] = _count_texts(content, what)
            result, wanted = self._texts[buffer], count
        elif kind in _BITS:
            result, wanted = len(content), -(-count * _BITS[kind] // 8)
        else:
            return True
        if result != wanted:
            raise FlatBufferError(f"{what} of shape {shape} needs {wanted}, and has {result}")
        return True

    def _operator(self, place: str, operator: Record, tensors: int, constants: set[int]) -> None:
        self._index(operator.get("opcode_index", 0), len(self._codes), f"{place}: code")
        for role in ("inputs", "outputs", "intermediates"):
            numbers = operator.get(role, ())
            optional = role != "outputs"
            _check_indices(numbers, tensors, f"{place}: {role}", optional=optional)
            if role == "outputs" and not constants.isdisjoint(map(int, numbers)):
                raise FlatBufferError(f"{place} writes to a constant")
        start = operator.get("large_custom_options_offset", 0)
        size = operator.get("large_custom_options_size", 0)
        if start >= _FIRST_OFFSET and start + size > len(self._content):
            raise FlatBufferError(f"{place} has options at byte {start}, which is not in the file")

    def _foreign(self, operator: Record) -> Iterator[str]:
        code = self._codes[operator.get("opcode_index", 0)]
        # Files from before there were more than 127 operators have it in the older field.
        number = max(code.get("builtin_code", 0), code.get("deprecated_builtin_code", 0))
        custom = code.get("custom_code", b"").decode(errors="replace")[:60]
        if number == _CUSTOM:
            yield f"custom operator {custom or 'without a name'}"
        for field in ("builtin_options", "builtin_options2"):
            if f"{field}_kind" in operator and field not in operator:
                yield f"options of an unknown {operator[f'{field}_kind']}"

    def _called(self, place: str, operator: Record) -> Iterator[int]:
        """Yield the graphs that an operator calls."""
        for field in ("builtin_options", "builtin_options2"):
            kind, options = operator.get(f"{field}_kind", ""), operator.get(field, {})
            numbers = [options.get(name, 0) for name in _SUBGRAPH_FIELDS.get(kind, ())]
            numbers += map(int, options.get(_SUBGRAPH_LISTS.get(kind, ""), ()))
            for number in numbers:
                # A composite without a decomposition has a graph of its runtime's.
                if kind == "StableHLOCompositeOptions" and number == _OPTIONAL:
                    continue
                yield self._index(number, len(self._graphs), f"{place}: graph")

    def _check_signatures(self) -> None:
        for signature in self._model.get("signature_defs", ()):
            name = signature.get("signature_key")
            if name is None:
                raise FlatBufferError("a signature has no name")
            what = f"signature {name.decode(errors='replace')[:60]}"
            graph = self._index(
                signature.get("subgraph_index", 0), len(self._graphs), f"{what}: graph"
            )
            tensors = len(self._graphs[graph].get("tensors", ()))
            for item in (*signature.get("inputs", ()), *signature.get("outputs", ())):
                if "name" not in item:
                    raise FlatBufferError(f"{what} has a tensor without a name")
                self._index(item.get("tensor_index", 0), tensors, f"{what}: tensor")


def _check_indices(numbers: Any, count: int, what: str, *, optional: bool = False) -> None:
    lowest = _OPTIONAL if optional else 0
    if len(numbers) and not (lowest <= int(numbers.min()) and int(numbers.max()) < count):
        raise FlatBufferError(f"{what} {numbers[:_LISTED].tolist()} of {count} tensors")


def _plain(numbers: Any, what: str) -> list[int]:
    if len(numbers) > _MAX_RANK:
        raise FlatBufferError(f"{what} has {len(numbers)} dimensions")
    return [int(number) for number in numbers]


def _check_quantization(
    quantization: Record, kind: int, shape: Sequence[int], what: str, *, constant: bool
) -> None:
    values = quantization.get("scale", ())
    scales = len(values)
    zeros = quantization.get("zero_point", ())
    axis = quantization.get("quantized_dimension", 0)
    if len(zeros) > 1 and len(zeros) != scales:
        raise FlatBufferError(f"{what} has {scales} scales and {len(zeros)} zero points")
    # Kernels take them for indices of their tables.
    low, high = _LIMITS.get(kind, (0, 0))
    if scales and not all(map(math.isfinite, (values.min(), values.max()))):
        raise FlatBufferError(f"{what} has a scale that is no number")
    if high and not constant and scales == 1 and float(values[0]) < _MIN_SCALE:
        raise FlatBufferError(f"{what} has the scale {float(values[0]):g}")
    if high and len(zeros) and not low <= int(zeros.min()) <= int(zeros.max()) <= high:
        raise FlatBufferError(f"{what} has zero points beyond {low} and {high}")
    if scales > 1 and not (0 <= axis < len(shape) and shape[axis] == scales):
        raise FlatBufferError(f"{what} of shape {list(shape)} has {scales} scales for axis {axis}")


def _count_texts(content: Any, what: str) -> int:
    """Return the number of texts in a constant, whose layout is LiteRT's."""
    import numpy as np

    words = np.frombuffer(content, "<i4", len(content) // _WORD_BYTES)
    count = int(words[0]) if len(words) else -1
    if not 0 <= count <= len(words) - 2:
        raise FlatBufferError(f"{what} has {count} texts in {len(content)} bytes")
    ends = words[1 : count + 2].astype(np.int64)
    if ends[0] < (count + 2) * _WORD_BYTES or ends[-1] > len(content) or (np.diff(ends) < 0).any():
        raise FlatBufferError(f"{what} has texts that are not in the file")
    return count


def _stored_values(sparsity: Record, shape: Sequence[int], what: str) -> int:
    """Return how many values a sparse constant stores, by its indices."""
    order = _plain(sparsity.get("traversal_order", ()), what)
    blocked = _plain(sparsity.get("block_map", ()), what)
    levels = sparsity.get("dim_metadata", ())
    rank = len(shape)
    fits = sorted(order) == list(range(rank + len(blocked))) and len(levels) == len(order)
    if not fits or len(set(blocked)) != len(blocked) or any(not 0 <= b < rank for b in blocked):
        raise FlatBufferError(f"{what}: its sparse dimensions do not fit the shape")
    sizes = list(shape)
    for place, dimension in enumerate(order):
        if dimension >= rank:
            size = levels[place].get("dense_size", 0)
            owner = blocked[dimension - rank]
            if size < 1 or sizes[owner] % size:
                raise FlatBufferError(f"{what}: blocks of {size} do not fit {sizes[owner]}")
            sizes[owner] //= size
    count = 1
    for dimension, level in zip(order, levels, strict=True):
        size = sizes[dimension] if dimension < rank else level.get("dense_size", 0)
        if level.get("format", 0) != _SPARSE:
            if level.get("dense_size", 0) != size:
                raise FlatBufferError(f"{what}: a dense dimension is not of size {size}")
            count *= size
            continue
        ends = level.get("array_segments", {}).get("values", ())
        indices = level.get("array_indices", {}).get("values", ())
        whole = len(ends) == count + 1 and int(ends[0]) == 0 and int(ends[-1]) == len(indices)
        rises = whole and bool((ends[1:] >= ends[:-1]).all())
        if not rises or (len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < size):
            raise FlatBufferError(f"{what}: its sparse indices do not fit the shape")
        count = len(indices)
    return count
