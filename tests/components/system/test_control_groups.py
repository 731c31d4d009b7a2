"""The groups that limit a process's memory, as the kernel and container runtimes lay them out."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers.control_group import memory_group, start_in

from paring.system.control_groups import MemoryGroup, memory_groups

_GIB = 1 << 30
_NO_LIMIT = 9223372036854771712
# A host of version 1 that has version 2 mounted without controllers.
_VERSION_1 = """\
25 20 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
26 25 0:23 {top} /sys/fs/cgroup/cpu,cpuacct ro shared:3 - cgroup cgroup rw,cpu,cpuacct
27 25 0:24 {top} /sys/fs/cgroup/memory ro,nosuid shared:4 - cgroup cgroup rw,memory
28 25 0:25 / /sys/fs/cgroup/unified ro,nosuid shared:5 - cgroup2 cgroup2 rw
"""
_VERSION_2 = "30 20 0:26 {top} /sys/fs/cgroup ro,nosuid,nodev - cgroup2 cgroup rw,nsdelegate\n"


def _process(root: Path, version: int, path: str, top: str = "/") -> None:
    """Lay out what the kernel tells a process of its groups."""
    folder = root / "proc" / "self"
    folder.mkdir(parents=True)
    named = f"3:memory:{path}\n2:cpu,cpuacct:{path}\n0::/init" if version == 1 else f"0::{path}"
    (folder / "cgroup").write_text(f"{named}\n")
    mounts = _VERSION_1 if version == 1 else _VERSION_2
    (folder / "mountinfo").write_text(mounts.format(top=top))


def _group_1(root: Path, path: str, limit: int, used: int = 0, cache: int = 0) -> None:
    folder = root / "sys/fs/cgroup/memory" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used + cache}\n")
    stat = f"cache {cache}\ntotal_inactive_file {cache}\ntotal_active_file 0\n"
    (folder / "memory.stat").write_text(stat)
    (folder / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 0\n")
    (folder / "memory.failcnt").write_text("0\n")


def _group_2(root: Path, path: str, limit: int | None, used: int = 0, cache: int = 0) -> None:
    folder = root / "sys/fs/cgroup" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text("max\n" if limit is None else f"{limit}\n")
    (folder / "memory.current").write_text(f"{used + cache + 7}\n")
    stat = f"anon {used}\nactive_file {cache}\ninactive_file 0\nslab_reclaimable 7\n"
    (folder / "memory.stat").write_text(stat)
    (folder / "memory.events").write_text("low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n")


def _limits(root: Path) -> list[int]:
    return [group.limit_bytes for group in memory_groups(root)]


def test_a_container_of_version_2_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    _process(tmp_path, 2, "/")
    _group_2(tmp_path, "", _GIB, used=_GIB // 2, cache=_GIB // 4)
    (group,) = memory_groups(tmp_path)
    assert (group.version, group.limit_bytes) == (2, _GIB)
    assert group.used_bytes() == group.free_bytes() == _GIB // 2


def test_a_container_of_version_1_is_told_a_path_that_it_does_not_see(tmp_path: Path) -> None:
    path = "/kubepods/burstable/pod7/container9"
    _process(tmp_path, 1, path, top=path)
    _group_1(tmp_path, "", _GIB, used=_GIB // 2, cache=_GIB // 4)
    (group,) = memory_groups(tmp_path)
    assert (group.version, group.limit_bytes) == (1, _GIB)
    assert group.used_bytes() == group.free_bytes() == _GIB // 2


def test_a_container_with_its_hosts_groups_mounted_finds_its_own(tmp_path: Path) -> None:
    _process(tmp_path, 1, "/docker/abc")
    _group_1(tmp_path, "", _NO_LIMIT)
    _group_1(tmp_path, "docker", 2 * _GIB)
    _group_1(tmp_path, "docker/abc", _GIB)
    assert _limits(tmp_path) == [_GIB, 2 * _GIB]


def test_a_limit_around_a_group_without_one_counts(tmp_path: Path) -> None:
    _process(tmp_path, 2, "/user.slice/session.scope")
    _group_2(tmp_path, "user.slice", _GIB)
    _group_2(tmp_path, "user.slice/session.scope", None)
    assert _limits(tmp_path) == [_GIB]


@pytest.mark.parametrize("limit", [None, 1 << 60])
def test_no_limit_and_one_above_the_machines_memory_are_none(
    limit: int | None, tmp_path: Path
) -> None:
    _process(tmp_path, 2, "/")
    _group_2(tmp_path, "", limit)
    assert _limits(tmp_path) == []


def test_a_system_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert memory_groups(tmp_path) == []
    _process(tmp_path, 2, "/")
    (tmp_path / "proc/self/mountinfo").write_text("20 1 0:1 / / rw - ext4 /dev/sda rw\n")
    assert memory_groups(tmp_path) == []


def test_a_limit_whose_figures_are_not_there_is_not_watched_and_that_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _process(tmp_path, 2, "/")
    _group_2(tmp_path, "", _GIB)
    (tmp_path / "sys/fs/cgroup/memory.stat").write_text("cache 5\n")
    assert _limits(tmp_path) == []
    assert "the memory limit is not watched: KeyError('active_file')" in caplog.text


def test_a_process_finds_the_group_that_it_is_in() -> None:
    look = "from paring.system.control_groups import *; print(memory_groups())"
    with memory_group("found", _GIB) as group:
        child = start_in(group, [sys.executable, "-c", look], stdout=subprocess.PIPE)
        shown, _ = child.communicate(timeout=60)
    assert shown.strip() == str([group])


def test_memory_that_is_taken_shows_and_the_cache_of_files_does_not(tmp_path: Path) -> None:
    taken, file = 50 << 20, tmp_path / "file"
    hold = (
        f"held = b'x' * {taken}; open({str(file)!r}, 'wb').write(bytes({taken}));"
        "print(flush=True); input()"
    )
    with memory_group("used", _GIB) as group:
        child = start_in(
            group, [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        name = "memory.usage_in_bytes" if group.version == 1 else "memory.current"
        whole, used = int((group.folder / name).read_text()), group.used_bytes()
        child.communicate("\n", timeout=60)
    assert taken <= used < 2 * taken <= whole
    assert group.limit_bytes - used > 0


def test_what_the_kernel_kills_is_counted() -> None:
    with memory_group("killed", 64 << 20) as group:
        assert (group.kills(), group.refusals()) == (0, 0)
        child = start_in(group, [sys.executable, "-c", f"b'x' * {200 << 20}"])
        assert child.wait(60) != 0
        assert group.kills() == 1
        assert group.refusals() > 0


def test_version_2_counts_kills_and_what_came_before(tmp_path: Path) -> None:
    # As the kernel writes it; the machine of this test may have version 1.
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\n")
    group = MemoryGroup(tmp_path, 2, _GIB)
    assert (group.kills(), group.refusals()) == (2, 3)
