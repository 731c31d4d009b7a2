"""Paths without characters that TensorFlow interprets.

TensorFlow reads the path of a checkpoint as a pattern, so that a SavedModel in `model [1]`
or `50*` can't be loaded, and one in `m?` may be another. It gets a link with a plain name.
"""

import functools
import tempfile
from pathlib import Path

_PATTERN = frozenset("*?[]\\")


def plain_path(folder: Path) -> Path:
    """Return `folder`, or a link to it where its path would be read as a pattern.

    The link is one for the whole process, and goes with it.
    """
    absolute = folder.absolute()
    if _PATTERN.isdisjoint(str(absolute)):
        return folder
    return _link(absolute)


@functools.cache
def _link(absolute: Path) -> Path:
    link = Path(_links().name) / str(_count())
    link.symlink_to(absolute, target_is_directory=True)
    return link


@functools.cache
def _links() -> "tempfile.TemporaryDirectory[str]":
    # Removed when the interpreter ends.
    return tempfile.TemporaryDirectory(prefix="paring-links-")


def _count() -> int:
    return len(list(Path(_links().name).iterdir()))
