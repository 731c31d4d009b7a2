"""A reader of flatbuffers that stays within the file.

Libraries that read flatbuffers follow the offsets in the file without looking at them, so
that a wild one ends in a crash. This reader decodes all that a schema describes, checks each
offset, length and alignment before it follows it, and has limits of depth and count.

A schema is text: one table a line, `NAME: field:kind field:kind ...`, in the order of the
fields' slots, with `_` for a slot that is no longer used. Kinds are scalars (`i32`), `string`,
a table's or a union's name, or any of them but unions in brackets, for a vector. A union's
line lists its members, in the order of the values of the field in front of it.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_SCALARS = {
    **{"bool": "?", "i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I"},
    **{"i64": "q", "u64": "Q", "f32": "f", "f64": "d"},
}
_SIZES = {kind: struct.calcsize(code) for kind, code in _SCALARS.items()}
_MAX_DEPTH = 64
_MAX_ITEMS = 2_000_000
_IDENTIFIER = slice(4, 8)
_OFFSET_BYTES = 4

Record = Mapping[str, Any]
"""A decoded table: the fields that are there, by name.

Numbers are Python's; text is bytes; vectors of numbers are arrays that share the file's
memory, other vectors are lists. Of a union there is the table under the union field's name,
and under `NAME_kind` the name of the table.
"""


class FlatBufferError(ValueError):
    """A flatbuffer that leads out of its file, or is larger than the limits."""


@dataclass(frozen=True)
class Schema:
    """The tables and unions of a format.

    Attributes:
        tables: For each table, the name and the kind of each slot; None where it is unused.
        unions: For each union, the names of its tables by the value of its type; the first
            stands for none.
    """

    tables: Mapping[str, tuple[tuple[str, str] | None, ...]]
    unions: Mapping[str, tuple[str, ...]]


def parse_schema(tables: str, unions: str) -> Schema:
    """Return the schema that two texts describe; see the module's text.

    Members of unions that have no line of their own are tables without fields.
    """
    members = {name: tuple(rest.split()) for name, rest in _entries(unions)}
    fields: dict[str, tuple[tuple[str, str] | None, ...]] = {
        item: () for _, *names in members.values() for item in names
    }
    for name, rest in _entries(tables):
        slots = [slot.partition(":")[::2] for slot in rest.split()]
        fields[name] = tuple((field, kind) if kind else None for field, kind in slots)
    return Schema(fields, members)


def _entries(text: str) -> list[tuple[str, str]]:
    # A line that begins with spaces goes on with the one before.
    joined = text.strip().replace("\n ", " ").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(":") for line in joined)]


class FlatBuffer:
    """A flatbuffer in memory, or in a file that is mapped into memory.

    Args:
        content: The bytes.
        schema: The format.
    """

    def __init__(self, content: Any, schema: Schema) -> None:
        self._content = content
        self._size = len(content)
        self._schema = schema
        self._seen: dict[tuple[int, str], Any] = {}
        self._items = 0

    def read(self, table: str, identifier: bytes) -> Record:
        """Decode all that the root table reaches.

        Args:
            table: The name of the root table.
            identifier: The four bytes that name the format.

        Raises:
            FlatBufferError: An offset or a length leads out of the file, or a limit is
                exceeded.
        """
        if self._size < _IDENTIFIER.stop or self._content[_IDENTIFIER] != identifier:
            raise FlatBufferError(f"it does not begin as a file of {identifier.decode()} does")
        return self._table(self._follow(0), table, 0)

    def _unpack(self, place: int, kind: str) -> Any:
        size = _SIZES[kind]
        if place < 0 or place + size > self._size:
            raise FlatBufferError(f"byte {place} is read, and the file has {self._size}")
        if place % size:
            raise FlatBufferError(f"a number of {size} bytes lies at byte {place}")
        return struct.unpack_from(f"<{_SCALARS[kind]}", self._content, place)[0]

    def _follow(self, place: int) -> int:
        offset: int = self._unpack(place, "u32")
        if not offset:
            raise FlatBufferError(f"the offset at byte {place} is 0")
        return place + offset

    def _count(self, number: int) -> None:
        self._items += number
        if self._items > _MAX_ITEMS:
            raise FlatBufferError(f"it holds more than {_MAX_ITEMS:,} tables and fields")

    def _table(self, place: int, name: str, depth: int) -> Record:
        """Decode a table, once, however often it is referred to."""
        known = self._seen.get((place, name))
        if known is not None:
            record: Record = known
            return record
        if depth > _MAX_DEPTH:
            raise FlatBufferError(f"tables are nested more than {_MAX_DEPTH} deep")
        slots = self._schema.tables[name]
        vtable = place - self._unpack(place, "i32")
        size = self._unpack(vtable, "u16")
        if size < _OFFSET_BYTES or size % 2 or vtable + size > self._size:
            raise FlatBufferError(f"the fields of the table at byte {place} are not in the file")
        made: dict[str, Any] = {}
        self._count(1 + len(slots))
        for index, slot in enumerate(slots[: (size - _OFFSET_BYTES) // 2]):
            offset = self._unpack(vtable + _OFFSET_BYTES + 2 * index, "u16")
            if offset and slot is not None:
                self._field(made, place + offset, *slot, depth)
        self._seen[place, name] = made
        return made

    def _field(self, made: dict[str, Any], place: int, field: str, kind: str, depth: int) -> None:
        members = self._schema.unions.get(kind)
        if members is None:
            made[field] = self._value(place, kind, depth)
            return
        number = made.get(f"{field}_type", 0)
        if not number:
            return
        if number >= len(members):
            # A member that this schema does not know: whoever reads it decides.
            made[f"{field}_kind"] = f"type {number}"
            return
        made[f"{field}_kind"] = members[number]
        made[field] = self._table(self._follow(place), members[number], depth + 1)

    def _value(self, place: int, kind: str, depth: int) -> Any:
        if kind in _SCALARS:
            return self._unpack(place, kind)
        target = self._follow(place)
        if kind == "string":
            return self._string(target)
        if kind.startswith("["):
            return self._vector(target, kind[1:-1], depth + 1)
        return self._table(target, kind, depth + 1)

    def _string(self, place: int) -> bytes:
        start, size = self._extent(place, 1)
        if start + size >= self._size or self._content[start + size]:
            raise FlatBufferError(f"the text at byte {place} has no end")
        return bytes(self._content[start : start + size])

    def _vector(self, place: int, kind: str, depth: int) -> Any:
        known = self._seen.get((place, f"[{kind}]"))
        if known is not None:
            return known
        start, count = self._extent(place, _SIZES.get(kind, _OFFSET_BYTES))
        made: Any
        if kind in _SCALARS:
            if start % _SIZES[kind] and count:
                raise FlatBufferError(f"numbers of {_SIZES[kind]} bytes lie at byte {start}")
            dtype = np.dtype(f"<{_SCALARS[kind]}" if kind != "bool" else "?")
            made = (
                np.frombuffer(self._content, dtype, count, start) if count else np.empty(0, dtype)
            )
        else:
            self._count(count)
            places = range(start, start + _OFFSET_BYTES * count, _OFFSET_BYTES)
            made = [self._value(item, kind, depth) for item in places]
        self._seen[place, f"[{kind}]"] = made
        return made

    def _extent(self, place: int, item_bytes: int) -> tuple[int, int]:
        """Return where the items of a vector begin, and their number."""
        count = self._unpack(place, "u32")
        start = place + _OFFSET_BYTES
        if start + count * item_bytes > self._size:
            raise FlatBufferError(
                f"{count} items of {item_bytes} bytes at byte {start} do not fit into the file"
            )
        return start, count
