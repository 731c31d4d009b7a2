"""Limits on what is unpacked from zip archives."""

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path

_ALWAYS_UNPACKED_BYTES = 1 << 30
_MAX_RATIO = 200


def describe_excess(file: Path, members: Iterable[zipfile.ZipInfo], folder: Path) -> str | None:
    """Describe the size of members that would fill the disk, or that can't be as they state.

    Args:
        file: The archive.
        members: Those that are to be unpacked.
        folder: A folder on the disk that they go to.

    Returns:
        A description for errors; None where they may be unpacked.
    """
    size, packed = sum(member.file_size for member in members), file.stat().st_size
    # Deflate can make 1 byte of 1,032; members that share their bytes can make more.
    bomb = size > _ALWAYS_UNPACKED_BYTES and size > _MAX_RATIO * packed
    if bomb or size > shutil.disk_usage(folder).free:
        return f"{size:,} bytes of a file of {packed:,}"
    return None
