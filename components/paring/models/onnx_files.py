"""Check of an ONNX file before a library opens it.

Its weights can be in other files, whose names are in it, and its operators may be any that a
library has learned from elsewhere. So the file is read as a protocol buffer within limits
first: weights must lie in the model's own folder and be as large as their shapes say, and
operators must be ONNX's or ONNX Runtime's own, or functions that the file itself holds,
unless the user trusts the model.
"""

import math
import mmap
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from paring.artifacts import ONNXModel
from paring.errors import ModelError, UntrustedModelError
from paring.models.calls import callees_first
from paring.models.onnx_operators import OPERATORS
from paring.models.wire_format import Message, WireFormatError, WireReader, parse_schema

_NAME = "model.onnx"
_MAX_BYTES = 2 << 30
"""What protocol buffers hold at most."""
_MAX_RANK = 255
_MAX_TENSOR_BYTES = 1 << 62
_MAX_NODES = 5_000_000
_EXTERNAL = 1
_STRING = 8
_LISTED = 8
_BITS = {
    **{1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64},
    **{14: 64, 15: 128, 16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8},
    **{25: 2, 26: 2},
}
"""Bits of an element, by TensorProto.DataType."""
_STORED: dict[int, tuple[str, float]] = {
    **{1: ("float_data", 1), 7: ("int64_data", 1), 11: ("double_data", 1), 14: ("float_data", 2)},
    **{12: ("uint64_data", 1), 13: ("uint64_data", 1), 15: ("double_data", 2)},
    **{21: ("int32_data", 0.5), 22: ("int32_data", 0.5), 23: ("int32_data", 0.5)},
    **{25: ("int32_data", 0.25), 26: ("int32_data", 0.25), 8: ("string_data", 1)},
}
"""The field that holds elements one by one, and how many numbers each takes there."""

_SCHEMA = parse_schema("""
ModelProto: 7=graph:GraphProto 20=trainings:[TrainingInfoProto] 25=functions:[FunctionProto]
TrainingInfoProto: 1=initialization:GraphProto 2=algorithm:GraphProto
FunctionProto: 1=name:text 7=nodes:[NodeProto] 10=domain:text 11=attributes:[AttributeProto]
GraphProto: 1=nodes:[NodeProto] 5=initializers:[TensorProto] 15=sparse:[SparseTensorProto]
NodeProto: 4=kind:text 5=attributes:[AttributeProto] 7=domain:text
AttributeProto: 5=tensor:TensorProto 6=graph:GraphProto 10=tensors:[TensorProto]
  11=graphs:[GraphProto] 22=sparse:SparseTensorProto 23=sparses:[SparseTensorProto]
SparseTensorProto: 1=values:TensorProto 2=indices:TensorProto 3=dims:integers
TensorProto: 1=dims:integers 2=type:integer 4=float_data:count:4 5=int32_data:count:varint
  6=string_data:count:bytes 7=int64_data:count:varint 8=name:text 9=raw_data:bytes
  10=double_data:count:8 11=uint64_data:count:varint 13=external:[StringStringEntryProto]
  14=location:integer
StringStringEntryProto: 1=key:text 2=value:text
""")


def onnx_file(model: ONNXModel) -> Path:
    """Return the ONNX file: an artifact's, a bare one, or model.onnx in a folder.

    Raises:
        ModelError: There is none.
    """
    places = (model.path, model.file, model.path / _NAME)
    for place in places:
        if place.is_file():
            return place
    raise ModelError(
        f"{model.path} holds no ONNX model",
        remedy=f"give what export_onnx wrote, a .onnx file, or a folder with {_NAME}",
    )


def check_onnx(file: Path, *, trusted: bool = False) -> list[Path]:
    """Raise if a library must not open the file.

    Args:
        file: The ONNX file.
        trusted: Whether operators of other libraries are let through.

    Returns:
        The file, and the files in its folder that hold its weights, if any do.

    Raises:
        ModelError: It is broken, or weights are not in its folder or of another size.
        UntrustedModelError: It has operators of other libraries, and is not trusted.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise _broken(file, error.strerror) from error
    stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
    result, parts = _inspect(file, stamp)
    if result and not trusted:
        raise UntrustedModelError(
            f"{file} holds operators that are neither ONNX's nor ONNX Runtime's own",
            received=", ".join(result[:_LISTED]),
            remedy="give --trust-model if you know where the model comes from, or export it"
            " without them",
        )
    for name, size in parts:
        _check_part(file, name, size)
    return [file, *(file.parent / name for name in sorted({name for name, _ in parts}))]


@lru_cache(maxsize=32)
def _inspect(file: Path, stamp: tuple[int, ...]) -> tuple[list[str], list[tuple[str, int]]]:
    """Check the file once for as long as `stamp` is the same.

    Returns:
        What has to be trusted, and how many bytes of which other files are weights.
    """
    if stamp[1] > _MAX_BYTES:
        raise _broken(file, f"{stamp[1]} bytes, of which a protocol buffer holds {_MAX_BYTES}")
    try:
        with file.open("rb") as stream:
            # Weights stay on the disk: nothing looks at the pages that hold them.
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        check = _Check(WireReader(content, _SCHEMA).read("ModelProto"))
        return check.run(), check.parts
    except (OSError, ValueError) as error:
        # Mapping an empty file is a ValueError, and so is a WireFormatError.
        raise _broken(file, str(error)) from error


def _broken(file: Path, received: object) -> ModelError:
    return ModelError(
        f"{file} can't be read as an ONNX model: it is broken, or was cut off",
        received=received,
        remedy="export or copy the model again",
    )


def _check_part(file: Path, name: str, size: int) -> None:
    """Refuse a file of weights that is not in the model's folder, or too short."""
    part = file.parent / name
    try:
        inside = part.resolve().is_relative_to(file.parent.resolve()) and part.is_file()
        result = part.stat().st_size if inside else 0
    except (OSError, ValueError):
        # Names may be too long, or hold NUL.
        inside, result = False, 0
    # ONNX Runtime takes names with a `*` for addresses in its memory.
    if not inside or Path(name).is_absolute() or ".." in Path(name).parts or "*" in name:
        raise ModelError(
            f"{file}: weights that it refers to are not beside it",
            received=name[:200],
            remedy="keep the .onnx file and its data files in one folder, and no links in it",
        )
    if result < size:
        raise ModelError(
            f"{part} is shorter than the weights of {file.name} that are in it",
            received=f"{result} bytes, of which {size} are used",
            remedy="export or copy the model again",
        )


class _Check:
    """Looks at all graphs of a model.

    Attributes:
        parts: For each tensor in another file, that file's name and where the tensor ends.
    """

    def __init__(self, model: Message) -> None:
        self._model = model
        self.parts: list[tuple[str, int]] = []
        self._functions = {
            (_domain(item), item.get("name", "")): item for item in model.get("functions", ())
        }

    def run(self) -> list[str]:
        """Return what has to be trusted.

        Raises:
            ValueError: A tensor is of another size than its shape says, or functions call
                themselves.
        """
        graph = self._model.get("graph", {})
        if not graph.get("nodes"):
            raise WireFormatError("its graph has no nodes")
        roots = [graph]
        for training in self._model.get("trainings", ()):
            roots += [
                training[name] for name in ("initialization", "algorithm") if name in training
            ]
        nodes = [node for root in roots for node in self._nodes(root)]
        calls: dict[tuple[str, str], set[tuple[str, str]]] = {}
        sizes: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for key, function in self._functions.items():
            inner = list(self._nodes(function))
            sizes[key] = [_key(node) for node in inner]
            calls[key] = {size for size in sizes[key] if size in self._functions}
            nodes += inner
        # With its calls written out, a small file can be larger than any memory.
        total: dict[tuple[str, str], int] = {}
        for key in callees_first(calls):
            total[key] = sum(total.get(size, 1) for size in sizes[key])
        if sum(total.get(_key(node), 1) for node in nodes) > _MAX_NODES:
            raise WireFormatError(f"its functions result in more than {_MAX_NODES:,} nodes")
        result = {key for key in map(_key, nodes) if key not in self._functions}
        return sorted(
            f"{domain or 'ai.onnx'}.{kind}"[:100]
            for domain, kind in result
            if kind not in OPERATORS.get(domain, ())
        )

    def _nodes(self, graph: Message) -> Iterator[Message]:
        """Yield all nodes, those of inner graphs too; checks the tensors on the way."""
        for tensor in graph.get("initializers", ()):
            self._check_tensor(tensor)
        for tensor in graph.get("sparse", ()):
            self._check_sparse(tensor)
        for attribute in graph.get("attributes", ()):
            yield from self._inner(attribute)
        for node in graph.get("nodes", ()):
            yield node
            for attribute in node.get("attributes", ()):
                yield from self._inner(attribute)

    def _inner(self, attribute: Message) -> Iterator[Message]:
        for tensor in (attribute.get("tensor"), *attribute.get("tensors", ())):
            if tensor is not None:
                self._check_tensor(tensor)
        for tensor in (attribute.get("sparse"), *attribute.get("sparses", ())):
            if tensor is not None:
                self._check_sparse(tensor)
        for graph in (attribute.get("graph"), *attribute.get("graphs", ())):
            if graph is not None:
                yield from self._nodes(graph)

    def _check_sparse(self, tensor: Message) -> None:
        values, indices = tensor.get("values", {}), tensor.get("indices", {})
        self._check_tensor(values)
        self._check_tensor(indices)
        _element_count(tensor.get("dims", ()), 8, "a sparse tensor")
        if values.get("dims", [0])[:1] != indices.get("dims", [0])[:1]:
            raise WireFormatError("a sparse tensor has another number of indices than of values")

    def _check_tensor(self, tensor: Message) -> None:
        what = f"tensor {tensor.get('name', '')[:60]}"
        kind = tensor.get("type", 0)
        count = _element_count(tensor.get("dims", ()), _BITS.get(kind, 8), what)
        if kind not in _BITS and kind != _STRING:
            raise WireFormatError(f"{what} is of the unknown type {kind}")
        wanted = -(-count * _BITS.get(kind, 0) // 8)
        if tensor.get("location", 0) == _EXTERNAL:
            self.parts.append(_external_end(tensor.get("external", ()), wanted, what))
            return
        if "external" in tensor:
            raise WireFormatError(f"{what} names another file, and is not stored in one")
        if "raw_data" in tensor and kind != _STRING:
            result = tensor["raw_data"].size
        else:
            field, numbers = _STORED.get(kind, ("int32_data", 1))
            result, wanted = tensor.get(field, 0), math.ceil(count * numbers)
        if result != wanted:
            raise WireFormatError(
                f"{what} of shape {list(tensor.get('dims', ()))} needs {wanted}, and has {result}"
            )


def _domain(message: Message) -> str:
    domain: str = message.get("domain", "")
    return "" if domain == "ai.onnx" else domain


def _key(node: Message) -> tuple[str, str]:
    return _domain(node), node.get("kind", "")


def _element_count(dims: Sequence[int], bits: int, what: str) -> int:
    if len(dims) > _MAX_RANK:
        raise WireFormatError(f"{what} has {len(dims)} dimensions")
    count = math.prod(dims)
    if any(size < 0 for size in dims) or count * bits > _MAX_TENSOR_BYTES:
        raise WireFormatError(f"{what} has the shape {list(dims)[:_LISTED]}")
    return count


def _external_end(entries: Sequence[Message], wanted: int, what: str) -> tuple[str, int]:
    """Return the name of the file that holds a tensor, and where in it the tensor ends."""
    values: dict[Any, str] = {entry.get("key"): entry.get("value", "") for entry in entries}
    if len(values) != len(entries):
        raise WireFormatError(f"{what} names its file twice")
    offset, length = values.get("offset", "0"), values.get("length", str(wanted))
    for text in (offset, length):
        # int() takes digits of other scripts and underscores, as the libraries do not.
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise WireFormatError(f"{what} lies at byte {text[:30]!r} of its file")
    if int(length) != wanted:
        raise WireFormatError(f"{what} needs {wanted} bytes, and has {length}")
    return values.get("location", ""), int(offset) + wanted
