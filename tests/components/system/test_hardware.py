"""The memory that is free, in a container and out of one."""

import subprocess
import sys
from pathlib import Path

import psutil
from tests.helpers.control_group import memory_group, start_in

from paring.system.hardware import free_memory_bytes

_LIMIT = 256 << 20
_LOOK = "from paring.system.hardware import *; print(free_memory_bytes())"


def test_a_containers_limit_counts() -> None:
    with memory_group("free", _LIMIT) as group:
        child = start_in(group, [sys.executable, "-c", _LOOK], stdout=subprocess.PIPE)
        shown, _ = child.communicate(timeout=60)
    # What the child itself takes is not free.
    assert _LIMIT // 2 < int(shown) < _LIMIT - (5 << 20)


def test_elsewhere_the_machines_memory_counts(tmp_path: Path) -> None:
    assert 0 < free_memory_bytes(tmp_path) <= psutil.virtual_memory().total
