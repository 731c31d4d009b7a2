"""The cluster itself: it runs pods, and nothing is left of it however it ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cluster import keeper
from tests.cluster.api import wait
from tests.cluster.cluster import PAUSE, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]

ROOT = Path(__file__).parents[2]

_FLAGS = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "net/ipv4/ip_forward")


def _paused(name: str, *arguments: str) -> dict[str, object]:
    container = {"name": "main", "image": PAUSE, "args": list(arguments)}
    spec = {"containers": [container], "restartPolicy": "Never"}
    return {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def test_a_pod_runs_to_its_end_and_is_seen_to(cluster: Cluster, namespace: str) -> None:
    api = cluster.api()
    pods = f"/api/v1/namespaces/{namespace}/pods"
    api.create(pods, _paused("short", "1s"))

    def ended() -> bool:
        return bool(api.get(f"{pods}/short")["status"]["phase"] == "Succeeded")

    wait("the pod's end", ended)
    # Which the API server asks the kubelet for.
    assert api.get(f"{pods}/short/log") == "ended after 1s\n"


@dataclass
class Started:
    """Cluster of a separate process."""

    process: subprocess.Popen[str]
    kubeconfig: Path
    inside: list[str]

    @property
    def folder(self) -> Path:
        return self.kubeconfig.parent

    def output(self, *command: str) -> str:
        """Return what a command prints in the cluster's namespaces."""
        return subprocess.run(
            [*self.inside, *command], check=True, capture_output=True, text=True
        ).stdout

    def traces(self) -> set[str]:
        """Return what this machine shows of the cluster: files, groups, devices, processes."""
        result = {str(item) for item in [self.folder] if item.exists()}
        for root in keeper.hierarchies():
            result |= {str(item) for item in root.glob(self.folder.name)}
        for loop in Path("/sys/block").glob("loop*/loop/backing_file"):
            with suppress(OSError):
                if self.folder.name in loop.read_text():
                    result.add(str(loop))
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                answer = (process / "cmdline").read_text() + (process / "cgroup").read_text()
                if self.folder.name in answer:
                    result.add(f"{process.name}: {answer[:200]}")
        return result


@contextmanager
def _started() -> Iterator[Started]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.cluster"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            kubeconfig = process.stdout.readline().strip().partition("=")[2]
            inside = process.stdout.readline().strip().removeprefix("# inside: ").split()
            yield Started(process, Path(kubeconfig), inside)
        finally:
            process.terminate()


def _machine() -> dict[str, str]:
    """Return the state of this machine that a cluster could change."""
    interfaces = sorted(item.name for item in Path("/sys/class/net").iterdir())
    rules = [
        subprocess.run(["iptables-save", "-t", table], capture_output=True, text=True, check=True)
        for table in ("filter", "nat", "mangle")
    ]
    return {
        "interfaces": " ".join(interfaces),
        # podman's come and go, with images that are built meanwhile.
        "mounts": "\n".join(
            line
            for line in Path("/proc/self/mounts").read_text().splitlines()
            if "/storage/overlay" not in line
        ),
        "rules": "".join(
            line for item in rules for line in item.stdout.splitlines(True) if line.startswith("-A")
        ),
        **{flag: Path("/proc/sys", flag).read_text() for flag in _FLAGS},
    }


def _end_by_ctrl_c(started: Started) -> None:
    # A terminal sends it to the whole foreground group.
    os.killpg(started.process.pid, signal.SIGINT)


def _kill_the_starter(started: Started) -> None:
    started.process.kill()


def _kill_the_keeper_then_the_starter(started: Started) -> None:
    (keeping,) = (
        item
        for item in keeper.children(started.process.pid)
        if keeper.__file__ in Path(f"/proc/{item}/cmdline").read_text()
    )
    os.kill(keeping, signal.SIGKILL)
    # Without it nothing runs any more; the files are for who is left.
    shims = f"{started.folder.name}/containerd"
    wait("the end of what ran", lambda: not any(shims in item for item in started.traces()))
    started.process.terminate()


@pytest.mark.parametrize(
    "end", [_end_by_ctrl_c, _kill_the_starter, _kill_the_keeper_then_the_starter]
)
def test_nothing_is_left_of_a_cluster_however_it_ends(binaries: Path, end: object) -> None:
    before = _machine()
    with _started() as started:
        kubectl = [str(Path(sys.executable).with_name("kubectl"))]
        kubectl += [f"--kubeconfig={started.kubeconfig}"]
        for command in (
            ["run", "long", f"--image={PAUSE}"],
            ["expose", "pod", "long", "--port=80"],
            ["wait", "pod", "long", "--for=condition=Ready", "--timeout=60s"],
        ):
            subprocess.run([*kubectl, *command], check=True, capture_output=True)
        # All of what must be gone after it is there.
        result = "\n".join(started.traces())
        assert str(started.folder) in result
        assert "pause" in result
        assert "/sys/fs/cgroup" in result
        assert "/sys/block/loop" in result
        assert "cni0" in started.output("ip", "link")
        # kube-proxy writes its rules some time after the pod is ready.
        wait("the rules of the service", lambda: "default/long" in started.output("iptables-save"))
        assert _machine() == before
        end(started)
        wait("what is left of the cluster to go", lambda: not started.traces(), 60)
    assert _machine() == before
