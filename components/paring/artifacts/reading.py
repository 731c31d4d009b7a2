"""Reading of the JSON files that steps write into their artifacts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paring.errors import ArtifactTypeError
from paring.system.documents import read_json

_REMEDY = "re-run the step that produced this artifact"


@contextmanager
def content_of(file: Path) -> Iterator[Any]:
    """Yield the JSON value in an artifact's file, and name the file in errors about the value.

    Raises:
        ArtifactTypeError: The file can't be read, or what the block expects is not in it.
    """
    try:
        yield read_json(file)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ArtifactTypeError(
            f"{file} can't be read", received=f"{type(error).__name__}: {error}", remedy=_REMEDY
        ) from error


def read_object(file: Path, *keys: str) -> dict[str, Any]:
    """Return the JSON object in an artifact's file.

    Raises:
        ArtifactTypeError: The file can't be read, or holds no object with all of `keys`.
    """
    with content_of(file) as content:
        for key in keys:
            content[key]
        return dict(content)
