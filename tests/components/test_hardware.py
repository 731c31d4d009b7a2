"""The memory that is free, in a container and out of one."""

from pathlib import Path

import psutil
import pytest

from paring.hardware import free_memory_bytes


def _group(folder: Path, limit: str, used: int) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    return folder


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    assert free_memory_bytes(_group(tmp_path, "5000", 2000)) == 3000
    assert free_memory_bytes(_group(tmp_path, "5000", 6000)) == 0


@pytest.mark.parametrize("limit", ["max", str(1 << 60), None])
def test_elsewhere_the_machines_memory_counts(limit: str | None, tmp_path: Path) -> None:
    group = tmp_path if limit is None else _group(tmp_path, limit, 2000)
    assert 0 < free_memory_bytes(group) <= psutil.virtual_memory().total
