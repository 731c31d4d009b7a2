"""Limits on what is unpacked from zip archives."""

import shutil
import zipfile
from pathlib import Path

import pytest

from paring.system.archives import describe_excess


@pytest.mark.parametrize(
    ("sizes", "refused"),
    [([1 << 30], False), ([(1 << 30) + 1], True), ([1 << 29] * 3, True), ([], False)],
)
def test_what_is_far_larger_than_its_archive_is_refused(
    tmp_path: Path, sizes: list[int], refused: bool
) -> None:
    file = tmp_path / "packed.zip"
    file.write_bytes(bytes(1 << 20))
    members = [zipfile.ZipInfo(str(number)) for number in range(len(sizes))]
    for member, size in zip(members, sizes, strict=True):
        member.file_size = size
    excess = describe_excess(file, members, tmp_path)
    assert excess == (f"{sum(sizes):,} bytes of a file of 1,048,576" if refused else None)


def test_more_than_the_disk_has_room_for_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "packed.zip"
    size = 2 * shutil.disk_usage(tmp_path).free
    with file.open("wb") as sparse:
        sparse.truncate(size)
    member = zipfile.ZipInfo("large")
    member.file_size = size
    assert describe_excess(file, [member], tmp_path) == f"{size:,} bytes of a file of {size:,}"
