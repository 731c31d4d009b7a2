"""Atomic writes to plain paths."""

import ctypes
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from paring.errors import OutputError, ParameterError, StorageError, UnsupportedError
from paring.storage.stores import is_remote

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
"""What file systems say that have no hard links."""

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1


def local_path(uri: str) -> Path:
    """Return the path that a plain path or a file:// URI names.

    Raises:
        ParameterError: It is in a store, or on another machine.
    """
    if is_remote(uri):
        raise ParameterError(
            "only a path on this machine can be taken here",
            received=uri,
            remedy="download it to this machine first, or use a volume that is mounted here",
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
    """Return the path, size and time of each file at or below `root`, sorted by path.

    Raises:
        StorageError: A folder can't be read.
    """
    result = [str(root)] if root.is_file() else []
    for folder, _, names in os.walk(root, onerror=_unreadable):
        result += [os.path.join(folder, name) for name in names]  # noqa: PTH118 - many, and text
    answer = []
    for file in sorted(result):
        # Another process may have removed or renamed it since.
        with suppress(FileNotFoundError):
            facts = os.stat(file)  # noqa: PTH116
            answer.append((file, facts.st_size, facts.st_mtime))
    return answer


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
        with staged.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            # A machine that fails must not leave a name without its content.
            os.fsync(stream.fileno())
        try:
            path.hardlink_to(staged)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _rename_to_free_name(staged, path)
    return True


def _rename_to_free_name(source: Path, target: Path) -> bool:
    """Rename a file unless there is one at `target`, where there are no hard links.

    Returns:
        Whether it was renamed.

    Raises:
        UnsupportedError: The file system has no such rename either. To create the file
            and to write it then is no way: a reader in between sees no content, and one
            who writes may be killed in between.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS
    if renameat2 is not None:
        names = os.fsencode(source), os.fsencode(target)
        if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) == 0:
            return True
        code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code in (errno.EINVAL, *_NO_LINKS):
        raise UnsupportedError(
            "this file system has no way to create a file for one of several writers alone",
            received=f"{target} (neither hard links nor renames that replace nothing)",
            remedy="use a store with conditional writes, or a volume with hard links",
        )
    raise OSError(code, os.strerror(code), str(target))


@contextmanager
def written_beside(target: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a free name beside `target`, to be renamed onto it.

    What is left under the name in the end is removed.

    Args:
        target: The file or folder to write.
        suffix: The end of the name, for libraries that choose a format by it.

    Raises:
        OutputError: A device, a pipe or a socket would be replaced, or the place can't be
            written.
    """
    _check_replaceable(target)
    staged = target.with_name(f".{target.name}.partial-{uuid.uuid4().hex}{suffix}")
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


def _check_replaceable(target: Path) -> None:
    """Refuse a target that a file can't be renamed onto without damage.

    Raises:
        OutputError: It is the working folder or the root, or neither a file nor a folder.
    """
    if target.name in ("", ".."):
        raise OutputError(
            "this place can't be replaced", received=target, remedy="give a path with a name"
        )
    try:
        mode = target.stat().st_mode
    except OSError:
        return
    # /dev/stdout is a link to what the process has open, be it a file.
    is_open_file = target.is_symlink() and str(target.readlink()).startswith("/proc/")
    if is_open_file or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OutputError(
            "this is a device, a pipe or a socket, which a file would replace",
            received=target,
            remedy="give the path of a file, and copy it from there",
        )


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the system's error on writing a path, as an error that names the path."""
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
