"""Tasks of a package as pods of a cluster, with the retries of Kubeflow and Argo."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.api import Api, RefusedError, condition, wait
from tests.cluster.cluster import Cluster
from tests.conformance.kfp_pods import Pod, pod
from tests.conformance.kfp_runner import Task

Incident = Callable[[Pod], None]
"""Callback that does something to a running pod."""

VANISHED = 2
"""Retries of a pod that vanished with its machine, by Argo as Kubeflow ships it."""

# Less than any step takes, and more than the command takes before it begins with one.
_BUSY_SECONDS = 2.0


@dataclass
class Attempt:
    """Pod of a task, and its end.

    Attributes:
        task: Name of the task.
        machine: Machine that it ran on; "" if it was never placed.
        end: "Succeeded", "Failed" or "vanished".
        code: Exit code of its container; None if it vanished.
    """

    task: str
    machine: str
    end: str
    code: int | None


@dataclass
class PodStarter:
    """Start function for `run_package` that runs each attempt at a task as a pod.

    Attributes:
        cluster: Cluster of the pods.
        namespace: Namespace of the runs.
        service_account: Service account of the pods.
        root: Folder of the sources and the pipeline root, which a claim mounts into each pod at
            the same path.
        incidents: Callbacks on the first pod of a task, by the task's name.
        attempts: Pods that have ended, in order.
        warnings: Warnings of the API server.
    """

    cluster: Cluster
    namespace: str
    service_account: str
    root: Path
    incidents: Mapping[str, Incident] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._claim = f"root-{self.root.name}"
        size: dict[str, Any] = {"storage": "10Gi"}
        modes = ["ReadWriteMany"]
        self._api().create(
            "/api/v1/persistentvolumes",
            {
                "metadata": {"name": self._claim},
                "spec": {
                    "capacity": size,
                    "accessModes": modes,
                    "hostPath": {"path": str(self.root), "type": "Directory"},
                    "claimRef": {"namespace": self.namespace, "name": self._claim},
                },
            },
        )
        self._api().create(
            f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims",
            {
                "metadata": {"name": self._claim},
                "spec": {
                    "accessModes": modes,
                    "resources": {"requests": size},
                    "storageClassName": "",
                    "volumeName": self._claim,
                },
            },
        )

    def __call__(self, task: Task) -> subprocess.CompletedProcess[str]:
        """Run a task to its end, with its retries."""
        left = task.retries
        vanished = 0
        folder = _output_folder(task)
        for number in range(task.retries + VANISHED + 1):
            # A pod of Kubeflow finds an empty folder. On a volume that pods share, what was
            # killed leaves files that the next attempt has to cope with.
            leftovers = [path for path in folder.iterdir() if path.name.startswith(".")]
            attempt, log = self._attempt(task, f"{task.name}-{number}")
            self.attempts.append(attempt)
            if attempt.end == "Failed":
                left -= 1
            if attempt.end == "vanished":
                vanished += 1
            if attempt.end == "Succeeded" or left < 0 or vanished > max(VANISHED, task.retries):
                break
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
        code = 1 if attempt.code is None else attempt.code
        return subprocess.CompletedProcess(list(task.command), code, log, "")

    def _api(self) -> Api:
        return self.cluster.api()

    def _attempt(self, task: Task, name: str) -> tuple[Attempt, str]:
        api = self._api()
        made = pod(task, name, service_account=self.service_account)
        spec = made["spec"]
        spec["volumes"].append(
            {"name": "root", "persistentVolumeClaim": {"claimName": self._claim}}
        )
        (container,) = spec["containers"]
        container["volumeMounts"].append({"name": "root", "mountPath": str(self.root)})
        api.create(f"/api/v1/namespaces/{self.namespace}/pods", made)
        self.warnings += api.warnings
        path = f"/api/v1/namespaces/{self.namespace}/pods/{name}"
        incident = None if self._tried(task) else self.incidents.get(task.name)
        seen: Pod = {}

        def ended() -> str:
            nonlocal incident, seen
            try:
                seen = api.get(path)
            except RefusedError as error:
                if error.code != 404:
                    raise
                return "vanished"
            phase: str = seen["status"].get("phase", "")
            if phase == "Running" and incident is not None:
                done, incident = incident, None
                done(seen)
            # Kubernetes marks a pod of a lost machine as failed before it deletes the pod.
            if condition(seen, "DisruptionTarget") == "True":
                return ""
            return phase if phase in ("Succeeded", "Failed") else ""

        try:
            end = wait(f"the pod {name}", ended, 600)
        except TimeoutError as error:
            raise RuntimeError(f"{error}: {seen['status']}") from error
        machine = seen["spec"].get("nodeName", "")
        if end == "vanished":
            return Attempt(task.name, machine, end, None), ""
        log = api.get(f"{path}/log")
        (status,) = seen["status"].get("containerStatuses") or [{"state": {}}]
        code = status["state"].get("terminated", {}).get("exitCode", 1)
        if end == "Failed":
            log += "\n" + seen["status"].get("message", "")
        return Attempt(task.name, machine, str(end), code), str(log)

    def _tried(self, task: Task) -> bool:
        return any(item.task == task.name for item in self.attempts)


def _output_folder(task: Task) -> Path:
    """Return the folder that holds the outputs of a task."""
    message = json.loads(task.command[task.command.index("--executor-input") + 1])
    (folder,) = {
        Path(output["artifacts"][0]["uri"]).parent
        for output in message["outputs"]["artifacts"].values()
    }
    return folder


def at_work(made: Pod) -> list[int]:
    """Wait until a pod's step has computed for some time; return its container's processes.

    The step computes in a child of the container's first process.
    """
    identity = made["metadata"]["uid"]

    def working() -> list[int]:
        containers: dict[str, list[int]] = {}
        busy = set()
        for process in Path("/proc").glob("[0-9]*"):
            # Others end at any time.
            with suppress(OSError):
                container = (process / "cgroup").read_text()
                if identity in container:
                    containers.setdefault(container, []).append(int(process.name))
                    if _cpu_seconds(process) > _BUSY_SECONDS:
                        busy.add(container)
        return [process for container in busy for process in containers[container]]

    processes: list[int] = wait(f"{made['metadata']['name']} to be at work", working, 120)
    return processes


def _cpu_seconds(process: Path) -> float:
    after_name = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def kill_process(made: Pod) -> None:
    """Kill all processes of a pod's container, as the kernel does when memory runs out."""
    for process in at_work(made):
        os.kill(process, signal.SIGKILL)
