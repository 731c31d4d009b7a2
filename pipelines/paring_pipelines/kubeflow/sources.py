"""Digest of a source's content, computed before any step reads it."""

import hashlib
from collections.abc import Iterable

from paring.artifacts import content_digest
from paring.errors import ExamplesError, ModelError
from paring.storage import Entry, is_remote, list_below, local_path


def source_digest(model: str, examples: str) -> str:
    """Compute one digest of both sources: of their locations and contents.

    On this machine's disk, or on a volume mounted here, the files are read. In a store
    it is taken from what the store lists: each object's name, size and time of writing.
    So an object that is written again, even with the same bytes, is another source, and
    a model of gigabytes costs one listing. What it can't see is an object that is
    replaced by one of the same size within the same second, which is as fine as S3
    tells the time.

    Args:
        model: A path, or a URI such as s3://BUCKET/KEY.
        examples: The same.

    Returns:
        "sha256:" and 64 hexadecimal digits.

    Raises:
        ModelError, ExamplesError: There is nothing.
        ParingError: The store can't be read.
    """
    total = hashlib.sha256()
    for option, uri, error in (
        ("--model", model, ModelError),
        ("--examples", examples, ExamplesError),
    ):
        digest = _digest(uri)
        if not digest:
            raise error(
                f"{option}: there is nothing at this place",
                received=uri,
                remedy="give a path, or a URI that these credentials may list",
            )
        total.update(f"{option}\0{uri.rstrip('/')}\0{digest}\n".encode())
    return f"sha256:{total.hexdigest()}"


def listing_digest(uri: str, entries: Iterable[Entry]) -> str:
    """Return SHA-256 over `uri` and what a store lists below it."""
    total = hashlib.sha256(f"{uri}\n".encode())
    for entry in sorted(entries, key=lambda item: item.uri):
        name = entry.uri.removeprefix(uri)
        total.update(f"{name}\0{entry.size}\0{entry.modified}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _digest(uri: str) -> str:
    if not is_remote(uri):
        path = local_path(uri)
        return content_digest(path) if path.exists() else ""
    entries = list(list_below(uri))
    return listing_digest(uri, entries) if entries else ""
