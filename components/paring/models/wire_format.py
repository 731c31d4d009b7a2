"""A reader of protocol buffers with limits, which copies no content.

It decodes the fields that a schema names and steps over all others. A schema is text: one
message a line, `NAME: NUMBER=field:kind ...`. Kinds are `integer`, `text`, `bytes`,
`integers`, the name of a message, or a message in brackets where it is repeated. Of repeated
numbers whose values nobody needs there is the count alone: `count:4` and `count:8` for those
of so many bytes, `count:varint`, and `count:bytes`.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_MAX_DEPTH = 100
_MAX_FIELDS = 5_000_000
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_VARINT_BYTES = 10
_MORE = 0x80
_LOW = 0x7F

Message = Mapping[str, Any]
"""A decoded message: the fields that are there, by name.

Integers are signed ones of 64 bits, text is `str`, bytes are `Span`s, repeated fields lists.
"""

Schema = Mapping[str, Mapping[int, tuple[str, str]]]


class WireFormatError(ValueError):
    """Content that is no protocol buffer, or is larger than the limits."""


@dataclass(frozen=True)
class Span:
    """A part of the content.

    Attributes:
        start, size: Its first byte, and how many there are.
    """

    start: int
    size: int


def parse_schema(text: str) -> Schema:
    """Return the schema that a text describes; see the module's text."""
    schema: dict[str, Mapping[int, tuple[str, str]]] = {}
    for line in text.strip().replace("\n ", " ").splitlines():
        name, _, rest = line.partition(":")
        fields = {}
        for part in rest.split():
            number, _, field = part.partition("=")
            label, _, kind = field.partition(":")
            fields[int(number)] = (label, kind)
        schema[name] = fields
    return schema


class WireReader:
    """Decodes messages in memory, or in a file that is mapped into memory.

    Args:
        content: The bytes.
        schema: The messages.
    """

    def __init__(self, content: Any, schema: Schema) -> None:
        self._content = content
        self._schema = schema
        self._fields = 0

    def read(self, name: str) -> Message:
        """Decode the whole content as a message.

        Raises:
            WireFormatError: It is none, or a limit is exceeded.
        """
        return self._message(Span(0, len(self._content)), name, 0)

    def _varint(self, place: int, end: int) -> tuple[int, int]:
        if place < end and self._content[place] < _MORE:
            return self._content[place], place + 1
        value = 0
        for index in range(_VARINT_BYTES):
            if place + index >= end:
                raise WireFormatError(f"a number at byte {place} is cut off")
            byte = self._content[place + index]
            value |= (byte & _LOW) << (7 * index)
            if byte < _MORE:
                return value & ((1 << 64) - 1), place + index + 1
        raise WireFormatError(f"a number at byte {place} is longer than {_VARINT_BYTES} bytes")

    def _message(self, span: Span, name: str, depth: int) -> Message:
        if depth > _MAX_DEPTH:
            raise WireFormatError(f"messages are nested more than {_MAX_DEPTH} deep")
        fields = self._schema[name]
        made: dict[str, Any] = {}
        place, end = span.start, span.start + span.size
        while place < end:
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise WireFormatError(f"it has more than {_MAX_FIELDS:,} fields")
            tag, place = self._varint(place, end)
            value, place = self._value(tag & 7, place, end)
            number = tag >> 3
            if not number:
                raise WireFormatError(f"a field before byte {place} has the number 0")
            if number in fields:
                self._add(made, *fields[number], value, tag & 7, depth)
        return made

    def _value(self, wire: int, place: int, end: int) -> tuple[Any, int]:
        """Return an integer or a span, and the place behind it."""
        if wire == _VARINT:
            return self._varint(place, end)
        size = {_EIGHT: 8, _FOUR: 4}.get(wire)
        if wire == _BYTES:
            size, place = self._varint(place, end)
        if size is None:
            raise WireFormatError(f"a field before byte {place} is of the unknown kind {wire}")
        if place + size > end:
            raise WireFormatError(f"{size} bytes at byte {place} are cut off")
        return Span(place, size), place + size

    def _add(
        self, made: dict[str, Any], field: str, kind: str, value: Any, wire: int, depth: int
    ) -> None:
        if kind.startswith("count:"):
            made[field] = made.get(field, 0) + self._count(value, kind[6:], wire, field)
        elif kind == "integers":
            made.setdefault(field, []).extend(self._integers(value))
        elif kind == "integer":
            if not isinstance(value, int):
                raise WireFormatError(f"{field} is no integer")
            made[field] = _signed(value)
        elif wire != _BYTES:
            raise WireFormatError(f"{field} is a number")
        elif kind == "bytes":
            made[field] = value
        elif kind == "text":
            made[field] = self._text(value)
        elif kind.startswith("["):
            made.setdefault(field, []).append(self._message(value, kind[1:-1], depth + 1))
        elif field in made:
            # Parsers would join the two, so that neither is what is checked.
            raise WireFormatError(f"{field} is there twice")
        else:
            made[field] = self._message(value, kind, depth + 1)

    def _text(self, span: Span) -> str:
        content = bytes(self._content[span.start : span.start + span.size])
        return content.decode(errors="replace")

    def _integers(self, value: Any) -> list[int]:
        if isinstance(value, int):
            return [_signed(value)]
        result = []
        place, end = value.start, value.start + value.size
        while place < end:
            self._fields += 1
            if self._fields > _MAX_FIELDS:
                raise WireFormatError(f"it has more than {_MAX_FIELDS:,} fields")
            number, place = self._varint(place, end)
            result.append(_signed(number))
        return result

    def _count(self, value: Any, kind: str, wire: int, field: str) -> int:
        if kind == "bytes":
            if wire != _BYTES:
                raise WireFormatError(f"{field} is a number")
            return 1
        if wire != _BYTES:
            if wire != {"varint": _VARINT, "4": _FOUR, "8": _EIGHT}[kind]:
                raise WireFormatError(f"{field} holds numbers of another size")
            return 1
        if kind != "varint":
            if value.size % int(kind):
                raise WireFormatError(f"{field} holds {value.size} bytes of {kind} a number")
            return int(value.size // int(kind))
        if not value.size:
            return 0
        content = np.frombuffer(self._content, np.uint8, value.size, value.start)
        if content[-1] >= _MORE:
            raise WireFormatError(f"{field} is cut off")
        return int(np.count_nonzero(content < _MORE))


def _signed(value: int) -> int:
    number: int = struct.unpack("<q", struct.pack("<Q", value))[0]
    return number
