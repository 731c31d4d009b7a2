"""Remove from installed packages what no step reads: headers, tests and symbol tables.

    python3 slim-libraries.py FOLDER

FOLDER holds the packages, such as /opt/paring/lib. The Dockerfile runs this in the layer that
installs them, with Python alone, since the base has no `strip`. docs/images.md says what each part
weighs. It prints how many bytes each kind took.
"""

import os
import shutil
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

FOLDERS = {"include": "headers", "tests": "tests"}
"""Folders at or below a package that are removed, with what is in them."""

TEST_DATA = ("onnx/backend/test/data",)
"""Folders of tests that are named otherwise, below site-packages."""

SUFFIXES = {".a": "static libraries"}

_MAGIC = b"\x7fELF\x02\x01"
"""Beginning of a file in ELF with 64 bits, little-endian."""

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NO_BITS = 8
"""Type of a section that takes no room in the file."""

_LEAST_GAIN = 64 << 10


class _Header(NamedTuple):
    """Header of a file in ELF, field by field."""

    ident: bytes
    type: int
    machine: int
    version: int
    entry: int
    segments_at: int
    sections_at: int
    flags: int
    header_size: int
    segment_size: int
    segments: int
    section_size: int
    sections: int
    section_names: int


def removable(packages: Path) -> Iterator[tuple[Path, str]]:
    """Yield each folder and file below site-packages that no step reads, with its kind."""
    for name in TEST_DATA:
        yield packages / name, "tests"
    for folder, names, files in os.walk(packages):
        for name in [name for name in names if name in FOLDERS]:
            names.remove(name)
            yield Path(folder, name), FOLDERS[name]
        for name in files:
            if Path(name).suffix in SUFFIXES:
                yield Path(folder, name), SUFFIXES[Path(name).suffix]


def loaded_size(file: Path) -> int | None:
    """Return how many bytes of a shared library or program the loader reads; None for all of it.

    The rest, at its end, is symbol tables, debug symbols and the table of sections, which linkers
    and debuggers read. A file with more behind that table, as an archive, is left whole.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(_HEADER.size)
        if len(start) < _HEADER.size or not start.startswith(_MAGIC):
            return None
        header = _Header(*_HEADER.unpack(start))
        segments = _rows(stream, _SEGMENT, header.segments_at, header.segments)
        sections = _rows(stream, _SECTION, header.sections_at, header.sections)
    if not segments or not sections:
        return None
    loaded = [header.segments_at + header.segments * _SEGMENT.size]
    loaded += [offset + length for _, _, offset, _, _, length, *_ in segments]
    described = [header.sections_at + header.sections * _SECTION.size]
    described += [row[4] + row[5] for row in sections if row[1] != _NO_BITS]
    return max(loaded) if max(*loaded, *described) == size > max(loaded) else None


def _rows(stream: BinaryIO, row: struct.Struct, offset: int, count: int) -> list[tuple[Any, ...]]:
    """Return the rows of a table in a file; none where it is cut off."""
    stream.seek(offset)
    content = stream.read(count * row.size)
    return list(row.iter_unpack(content)) if len(content) == count * row.size else []


def strip(file: Path, size: int) -> None:
    """Cut a library or program to its first `size` bytes, and its table of sections from it."""
    with file.open("r+b") as stream:
        header = _Header(*_HEADER.unpack(stream.read(_HEADER.size)))
        stream.seek(0)
        stream.write(_HEADER.pack(*header._replace(sections_at=0, sections=0, section_names=0)))
        stream.truncate(size)


def slim(packages: Path) -> Counter[str]:
    """Remove what no step reads from the packages, and return the bytes of each kind."""
    gained: Counter[str] = Counter()
    for path, kind in list(removable(packages)):
        if path.is_dir():
            gained[kind] += sum(f.lstat().st_size for f in path.rglob("*") if not f.is_dir())
            shutil.rmtree(path)
        elif path.exists():
            gained[kind] += path.stat().st_size
            path.unlink()
    for file in packages.rglob("*"):
        if file.is_symlink() or not file.is_file():
            continue
        size = loaded_size(file)
        if size is not None and (gain := file.stat().st_size - size) >= _LEAST_GAIN:
            strip(file, size)
            gained["symbol tables"] += gain
    return gained


def main() -> None:
    """Slim all packages below the folder that the command line names."""
    for packages in sorted(Path(sys.argv[1]).glob("python3*/site-packages")):
        for kind, size in sorted(slim(packages).items()):
            sys.stdout.write(f"slim-libraries: {size / 1e6:.1f} MB of {kind}\n")


if __name__ == "__main__":
    main()
