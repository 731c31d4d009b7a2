"""Check of OpenVINO's files before OpenVINO opens them.

`model.xml` names layers, and where in `model.bin` their constants lie. The XML is read within
limits and without document types, so that it has no entities; constants must lie in the file
and be as large as their shapes say, layers must not feed themselves, and each must be of an
operation set of OpenVINO's own, unless the user trusts the model.
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from xml.parsers import expat

from paring.errors import ModelError, UntrustedModelError
from paring.models.calls import callees_first

_OPSETS = frozenset(f"opset{number}" for number in range(1, 18))
_MAX_BYTES = 256 << 20
_MAX_DEPTH = 256
_MAX_ELEMENTS = 10_000_000
_MAX_RANK = 255
_MAX_CONSTANT_BYTES = 1 << 62
_LISTED = 8
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
_BITS = {
    **{"f64": 64, "f32": 32, "f16": 16, "bf16": 16, "boolean": 8, "nf4": 4, "f4e2m1": 4},
    **{"i64": 64, "i32": 32, "i16": 16, "i8": 8, "i4": 4, "f8e4m3": 8, "f8e5m2": 8, "f8e8m0": 8},
    **{"u64": 64, "u32": 32, "u16": 16, "u8": 8, "u6": 6, "u4": 4, "u3": 3, "u2": 2, "u1": 1},
}
"""Bits of an element, by the type's name; texts have none."""


def check_openvino(file: Path, *, trusted: bool = False) -> None:
    """Raise if OpenVINO must not open the files.

    Args:
        file: The `.xml` file; the `.bin` file is beside it, unless there are no constants.
        trusted: Whether layers of extensions are let through.

    Raises:
        ModelError: They are broken, or constants are not in the `.bin` file.
        UntrustedModelError: There are layers of extensions, and it is not trusted.
    """
    weights = file.with_suffix(".bin")
    try:
        status = file.stat()
        held = weights.stat().st_size if weights.exists() else 0
    except OSError as error:
        raise _broken(file, error.strerror) from error
    if not weights.resolve().is_relative_to(file.parent.resolve()):
        raise ModelError(
            f"{weights} is a link that leads out of its folder",
            received=weights.resolve(),
            remedy="put the file itself there",
        )
    result, end = _inspect(file, (status.st_mtime_ns, status.st_size, status.st_ino))
    if held < end:
        raise _broken(weights, f"{held} bytes, of which {file.name} uses {end}")
    if result and not trusted:
        raise UntrustedModelError(
            f"{file} holds layers that are not of OpenVINO's own operation sets",
            received=", ".join(result[:_LISTED]),
            remedy="give --trust-model if you know where the model comes from, or convert it"
            " without them",
        )


@lru_cache(maxsize=32)
def _inspect(file: Path, stamp: tuple[int, ...]) -> tuple[list[str], int]:
    """Check the `.xml` file once for as long as `stamp` is the same.

    Returns:
        What has to be trusted, and where in the `.bin` file the last constant ends.
    """
    if stamp[1] > _MAX_BYTES:
        raise _broken(file, f"{stamp[1]} bytes, of which at most {_MAX_BYTES} are read")
    check = _Check()
    try:
        check.read(file.read_bytes())
    except (OSError, ValueError, expat.ExpatError) as error:
        raise _broken(file, str(error)) from error
    return sorted(check.foreign), check.end


def _broken(file: Path, received: object) -> ModelError:
    return ModelError(
        f"{file} can't be read as a file of OpenVINO: it is broken, or was cut off",
        received=received,
        remedy="convert or copy the model again, model.xml with its model.bin",
    )


class _Net:
    """The layers of a network, or of the body of a loop or branch.

    Attributes:
        layers: Their numbers, as they are written.
        edges: For each layer that is fed, the layers that feed it.
    """

    def __init__(self) -> None:
        self.layers: set[str] = set()
        self.edges: dict[str, set[str]] = {}

    def check(self) -> None:
        """Raise ValueError if an edge leads nowhere, or layers feed themselves."""
        named = {*self.edges, *(item for fed in self.edges.values() for item in fed)}
        if not named <= self.layers:
            lost = sorted(named - self.layers)[0]
            raise ValueError(f"an edge leads to layer {lost[:40]!r}, which is not there")
        callees_first({layer: self.edges.get(layer, set()) for layer in self.layers})


class _Loop:
    """Bodies of a layer that is a loop or a branch, and the layers in them that it names.

    Attributes:
        layers: Numbers of the layers in the bodies.
        named: Those to which it maps its own inputs and outputs, and by which it goes on.
    """

    def __init__(self) -> None:
        self.layers: set[str] = set()
        self.named: set[str] = set()

    def check(self) -> None:
        """Raise ValueError if a layer is named that no body has."""
        if lost := sorted(self.named - self.layers):
            raise ValueError(f"a loop names layer {lost[0][:40]!r}, which its body lacks")


class _Check:
    """Follows the elements of the `.xml` file.

    Attributes:
        foreign: The layers of extensions.
        end: Where the last constant ends.
    """

    def __init__(self) -> None:
        self.foreign: set[str] = set()
        self.end = 0
        self._path: list[str] = []
        self._nets: list[_Net] = []
        self._loops: list[_Loop] = []
        self._elements = 0
        # Notes may hold elements of any name.
        self._in_notes = 0

    def read(self, content: bytes) -> None:
        """Follow all elements.

        Raises:
            ValueError: Something leads out of the files, or a limit is exceeded.
            expat.ExpatError: It is no XML.
        """
        # OpenVINO's parser guesses encodings; in UTF-8 there is nothing to guess.
        if b"\0" in content[:4] or content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError("it is not in UTF-8")
        parser = expat.ParserCreate("utf-8")
        parser.StartDoctypeDeclHandler = self._refuse_document_type
        parser.XmlDeclHandler = self._check_encoding
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._stop
        parser.Parse(content, True)

    def _refuse_document_type(self, *_: object) -> None:
        raise ValueError("it has a document type, which may define entities")

    def _check_encoding(self, _: str, encoding: str | None, __: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii"):
            raise ValueError(f"it is in {encoding}, not in UTF-8")

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        self._elements += 1
        if self._elements > _MAX_ELEMENTS or len(self._path) >= _MAX_DEPTH:
            raise ValueError(
                f"it has more than {_MAX_ELEMENTS:,} elements, or more than {_MAX_DEPTH} in another"
            )
        if not self._path and name != "net":
            raise ValueError(f"it is a {name[:40]}, not a net")
        self._path.append(name)
        self._in_notes += name == "rt_info"
        if self._in_notes:
            return
        if name == "net" or name.endswith("body"):
            self._nets.append(_Net())
        elif name == "layer":
            self._add_layer(attributes)
            self._loops.append(_Loop())
        elif self._loops and "internal_layer_id" in attributes:
            self._loops[-1].named.add(attributes["internal_layer_id"])
        elif name == "edge" and self._path[-2:-1] == ["back_edges"] and self._loops:
            # Those by which a loop goes on, between layers of its body.
            self._loops[-1].named |= {attributes.get(end, "") for end in ("from-layer", "to-layer")}
        elif name == "edge":
            fed = attributes.get("to-layer", "")
            self._nets[-1].edges.setdefault(fed, set()).add(attributes.get("from-layer", ""))
        elif name == "data" and "offset" in attributes:
            self._add_constant(attributes)

    def _stop(self, name: str) -> None:
        self._path.pop()
        if name == "rt_info":
            self._in_notes -= 1
        elif self._in_notes:
            return
        elif name == "net" or name.endswith("body"):
            net = self._nets.pop()
            net.check()
            if self._loops:
                self._loops[-1].layers |= net.layers
        elif name == "layer":
            self._loops.pop().check()

    def _add_layer(self, attributes: Mapping[str, str]) -> None:
        number = attributes.get("id", "")
        if number in self._nets[-1].layers:
            raise ValueError(f"there are two layers {number[:40]!r}")
        self._nets[-1].layers.add(number)
        opset = attributes.get("version", "")
        if opset not in _OPSETS:
            kind = attributes.get("type", "")
            self.foreign.add(f"{kind[:60]} of {opset[:40] or 'no operation set'}")

    def _add_constant(self, attributes: Mapping[str, str]) -> None:
        offset, size = (_number(attributes.get(name, ""), name) for name in ("offset", "size"))
        self.end = max(self.end, offset + size)
        shape = attributes.get("shape", "").replace(" ", "")
        sizes = [_number(part, "shape") for part in shape.split(",")] if shape else []
        if len(sizes) > _MAX_RANK:
            raise ValueError(f"a constant has {len(sizes)} dimensions")
        bits = _BITS.get(attributes.get("element_type", ""), 0)
        needed = -(-math.prod(sizes) * bits // 8)
        if needed > min(size, _MAX_CONSTANT_BYTES):
            raise ValueError(f"a constant of shape [{shape[:60]}] needs {needed}, and has {size}")


def _number(text: str, name: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{name} is {text[:40]!r}, no number of bytes or elements")
    return int(text)
