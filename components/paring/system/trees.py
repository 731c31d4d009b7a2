"""Listing, description and copying of users' folders, with links kept inside of them."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from paring.errors import ModelError, ParingError

_MAX_ENTRIES = 1_000_000
"""Links to folders can make a small folder endless without a circle."""


def tree_files(root: Path, error: type[ParingError] = ModelError) -> list[tuple[str, Path]]:
    """List the files below `root` with their names, relative to it with slashes, sorted.

    A link to a file or folder below `root` counts as what it leads to.

    Args:
        root: The folder; it may be a link itself.
        error: What to raise.

    Raises:
        ParingError: A link leads out of the folder, nowhere or in a circle, or something is
            neither a file nor a folder.
    """
    result = [(name, path) for name, path in _walk(root, error) if not path.is_dir()]
    return sorted(result, key=lambda item: item[0].split("/"))


def copy_tree(source: Path, target: Path, error: type[ParingError] = ModelError) -> None:
    """Copy a folder with its empty folders; links become the files that they lead to.

    Args:
        source: The folder.
        target: The copy, which must not exist.
        error: What to raise.

    Raises:
        ParingError: As `tree_files`; nothing has been copied then.
    """
    entries = list(_walk(source, error))
    target.mkdir(parents=True)
    for name, path in entries:
        place = target / name
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)


def describe_path(path: Path) -> str:
    """Return a short description of a file, or of a folder's first entries, for errors."""
    if not path.exists():
        return "nothing at this path"
    if path.is_file():
        return f"a file of {path.stat().st_size} bytes"
    names = sorted(item.name for item in path.iterdir())
    return f"a folder with {', '.join(names[:6]) or 'nothing in it'}"


def _walk(root: Path, error: type[ParingError]) -> Iterator[tuple[str, Path]]:
    """Yield the folders and files below `root`, by relative name."""
    if not root.is_dir():
        # A pipe or a device, which may never end.
        raise error(
            f"{root} is neither a file nor a folder",
            remedy="give a file or a folder of files",
        )
    base = root.resolve()
    pending = [("", root)]
    count = 0
    while pending:
        prefix, folder = pending.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                count += 1
                path = Path(entry.path)
                if count > _MAX_ENTRIES:
                    raise error(
                        f"{root} holds more than {_MAX_ENTRIES:,} files and folders",
                        received="links to folders count as what they lead to",
                        remedy="give a folder that holds the model or the examples alone",
                    )
                if entry.is_symlink():
                    _check_link(path, folder, base, error)
                name = f"{prefix}{entry.name}"
                if entry.is_dir():
                    pending.append((f"{name}/", path))
                elif not entry.is_file():
                    raise error(
                        f"{path} is neither a file nor a folder",
                        remedy="remove it, or give another folder",
                    )
                yield name, path


def _check_link(path: Path, folder: Path, base: Path, error: type[ParingError]) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as wrong:
        raise error(
            f"{path} is a link that leads nowhere",
            received=os.readlink(path),  # noqa: PTH115 - as it is written there
            remedy="remove it, or put the file itself there",
        ) from wrong
    if not target.is_relative_to(base):
        raise error(
            f"{path} is a link that leads out of its folder",
            received=str(target),
            remedy="put the file itself there, for example by cp -rL, if it belongs there",
        )
    if target.is_dir() and folder.resolve().is_relative_to(target):
        raise error(
            f"{path} is a link to a folder that it lies in",
            received=str(target),
            remedy="remove it",
        )
