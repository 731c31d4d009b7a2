"""The memory of processes, as the kernel tells it."""

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from paring.system.process_memory import descendants, used_bytes

_MIB = 1 << 20


@contextmanager
def _forked(work: Callable[[], object]) -> Iterator[int]:
    """A child that does `work` and waits."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        held = work()
        os.write(writing, b"." if held is not None else b"-")
        time.sleep(60)
        os._exit(0)
    try:
        os.read(reading, 1)
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def test_descendants_are_found_at_any_depth() -> None:
    nested = "import subprocess; subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", nested], start_new_session=True) as child:
        try:
            deadline = time.monotonic() + 60
            while len(result := descendants(child.pid)) < 1:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert child.pid in descendants(os.getpid())
            assert result[0] in descendants(os.getpid())
        finally:
            for pid in (*descendants(child.pid), child.pid):
                os.kill(pid, signal.SIGKILL)
    assert descendants(child.pid) == []


def test_memory_of_its_own_counts() -> None:
    with _forked(lambda: b"x" * (200 * _MIB)) as child:
        assert used_bytes([child], limit_bytes=10**12) > 200 * _MIB
        assert used_bytes([child], limit_bytes=_MIB) > 200 * _MIB


def test_above_the_limit_pages_that_processes_share_count_once() -> None:
    shared = mmap.mmap(-1, 200 * _MIB)
    shared.write(b"x" * (200 * _MIB))

    def touch() -> int:
        return sum(shared[i] for i in range(0, len(shared), 4096))

    def measure(work: Callable[[], object]) -> tuple[int, int]:
        with _forked(work) as item, _forked(work) as two:
            children = [item, two]
            return used_bytes(children, 10**12), used_bytes(children, _MIB)

    with shared:
        # They also share what this process holds.
        rough_before, exact_before = measure(lambda: 1)
        rough, exact = measure(touch)
    assert rough - rough_before > 390 * _MIB
    # This process has a third of it.
    assert exact - exact_before < 250 * _MIB


def test_a_process_that_has_ended_has_none() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert used_bytes([child.pid], limit_bytes=0) == 0
