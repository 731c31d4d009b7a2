"""Plain paths: what is written appears whole or not at all."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from paring.errors import OutputError, ParameterError, StorageError
from paring.storage.stores import is_remote

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What file systems say that have no hard links."""


def local_path(uri: str) -> Path:
    """The path that a plain path or a file:// URI names.

    Raises:
        ParameterError: It is in a store, or on another machine.
    """
    if is_remote(uri):
        raise ParameterError(
            "only a path on this machine can be taken here",
            received=uri,
            remedy="bring it to this machine first, or use a volume that is mounted here",
        )
    if not uri.startswith("file://"):
        return Path(uri)
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost"):
        raise ParameterError(
            "a file:// URI can only name this machine",
            received=uri,
            remedy="write file:///FOLDER/FILE, or a plain path",
        )
    return Path(unquote(parts.path))


def files_on_disk(root: Path) -> list[tuple[str, int, float]]:
    """Path, size and time of each file at or below `root`, sorted by path.

    Raises:
        StorageError: A folder can't be read.
    """
    found = [str(root)] if root.is_file() else []
    for folder, _, names in os.walk(root, onerror=_unreadable):
        found += [os.path.join(folder, name) for name in names]  # noqa: PTH118 - many, and text
    told = []
    for file in sorted(found):
        # Another process may have removed or renamed it since.
        with suppress(FileNotFoundError):
            facts = os.stat(file)  # noqa: PTH116
            told.append((file, facts.st_size, facts.st_mtime))
    return told


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise StorageError(
            "this folder can't be read",
            received=f"{error.filename} ({error.strerror})",
            remedy="let this user read it",
        ) from error


def create_locally(path: Path, text: str) -> bool:
    """See `paring.storage.create`."""
    with written_beside(path) as staged:
        staged.write_text(text, encoding="utf-8")
        try:
            path.hardlink_to(staged)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                with path.open("x", encoding="utf-8") as stream:
                    stream.write(text)
            except FileExistsError:
                return False
    return True


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """A free name beside `target`; what is left under it in the end is removed."""
    staged = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield staged
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        if staged.is_dir():
            shutil.rmtree(staged, ignore_errors=True)
        elif staged.exists():
            staged.unlink()


def unwritable(path: Path, error: OSError) -> OutputError:
    """What the system said of a place, as an error that names it."""
    return OutputError(
        "this place can't be written",
        received=f"{path} ({error.strerror or error})",
        remedy="give a place that you may write to",
    )


def replace(staged: Path, target: Path) -> None:
    """Rename a file or folder onto its place, whatever is there."""
    if not target.is_dir():
        staged.replace(target)
        return
    old = target.with_name(f".{target.name}.old-{uuid.uuid4().hex}")
    target.rename(old)
    staged.rename(target)
    shutil.rmtree(old, ignore_errors=True)
