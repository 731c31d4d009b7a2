"""A run of a package as Argo and Kubeflow report it: nodes, tasks, pods and logs.

Nothing is run. A test says how each task went; what follows from that is written down as
Kubeflow 2.17 does with Argo 4: a driver and a DAG with one executor for each task, a
retry node around each where the controller or the package asks for retries, pods named
for their templates, and the rows that the API makes of the nodes, which have neither
their own node's id nor an error.
"""

import random
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

DRIVER_SECONDS = 5
_STATES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Skipped": "SKIPPED",
    "Failed": "FAILED",
    "Error": "FAILED",
    # The API has no word for it.
    "Omitted": "RUNTIME_STATE_UNSPECIFIED",
}
NEVER = "0001-01-01T00:00:00Z"
"""The end of what goes on, as the API reports it."""

End = Literal[
    "succeeded", "cached", "failed", "running", "pending", "driver failed", "driver running"
]


@dataclass(frozen=True)
class Went:
    """State and attempts of a task.

    Attributes:
        end: Where it stands.
        seconds: How long the last attempt took, or has taken so far.
        attempts: How many there were; all but the last failed.
        log: What the last attempt's main container wrote; of a driver that failed, its log.
        earlier: What those before it wrote.
        message: What Kubernetes says about the last attempt.
        archived: Whether Argo could keep its log.
    """

    end: End = "succeeded"
    seconds: int = 30
    attempts: int = 1
    log: str = ""
    earlier: str = ""
    message: str = ""
    archived: bool = True


@dataclass
class Workflow:
    """A run's workflow.

    Attributes:
        name: The workflow's, such as `paring-optimize-x2b4k`.
        spec: The pipeline, beside its platform's part if it has one.
        start: When it was made.
        controller_retries: Whether the controller has a retry strategy for every template,
            as Kubeflow's manifests have it.
    """

    name: str
    spec: Mapping[str, Any]
    start: datetime
    controller_retries: bool = True
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    unarchived: set[str] = field(default_factory=set)

    def play(self, went: Mapping[str, Went]) -> None:
        """Write down how the tasks went; each that is not named succeeded.

        Of `root-driver`, the driver of the whole, it can be said too that it failed. What
        comes after a failure is omitted, and what comes after a task that goes on has not
        started.
        """
        pipeline = self.spec.get("pipeline_spec", self.spec)
        tasks = pipeline["root"]["dag"]["tasks"]
        unknown = set(went) - set(tasks) - {"root-driver"}
        if unknown:
            raise ValueError(f"the pipeline has no task {sorted(unknown)}")
        self.nodes.clear()
        ends: dict[str, datetime] = {}
        phases: dict[str, str] = {}
        top = self._whole(self.name, "", "entrypoint", "DAG", self.start)
        first = went.get("root-driver", Went())
        driver = self._pod(
            top, "root-driver", "system-dag-driver", self.start, DRIVER_SECONDS, first
        )
        begun = self.start + timedelta(seconds=DRIVER_SECONDS)
        if first.end == "failed":
            self._finish(self.name, "Failed", begun)
            return
        root = self._whole(f"{top}.root", top, "root", "DAG", begun)
        self._child(driver, f"{top}.root")
        for name, task in _in_order(tasks):
            needs = task.get("dependentTasks", [])
            if any(phases.get(item) in (None, "Running", "Pending") for item in needs):
                continue
            ready = max((ends[item] for item in needs), default=begun)
            parents = [leaf for item in needs for leaf in self._leaves(f"{root}.{item}")] or [root]
            omitted = any(phases[item] != "Succeeded" for item in needs)
            item = None if omitted else went.get(name, Went())
            phases[name], ends[name] = self._task(root, parents, name, task, ready, item)
        last = max(ends.values(), default=begun)
        phase = "Succeeded"
        if any(item == "Failed" for item in phases.values()):
            phase = "Failed"
        if "Running" in phases.values() or "Pending" in phases.values():
            phase = "Running"
        for node in self.nodes.values():
            if node["phase"] == "Running" and node["type"] in ("DAG", "Retry"):
                inside = node["name"].startswith(f"{root}.")
                if not inside and phase != "Running":
                    node |= {"phase": phase, "finishedAt": _text(last)}

    @property
    def phase(self) -> str:
        """The phase of the whole, "" before the controller has looked at it."""
        return str(self.nodes[self.name]["phase"]) if self.nodes else ""

    def manifest(self) -> dict[str, Any]:
        """The workflow as Kubeflow stores it."""
        return {
            "metadata": {"name": self.name, "namespace": "kubeflow"},
            "spec": {"entrypoint": "entrypoint"},
            "status": {"phase": self.phase} | ({"nodes": self.nodes} if self.nodes else {}),
        }

    def task_details(self, run_id: str, seed: int = 0) -> list[dict[str, Any]]:
        """The rows that the API lists, in no order."""
        rows = [
            {
                "run_id": run_id,
                "task_id": str(uuid.uuid4()),
                "display_name": node["displayName"],
                "create_time": _text(self.start),
                "start_time": node["startedAt"],
                "end_time": node["finishedAt"] or NEVER,
                "state": _STATES[node["phase"]],
                "child_tasks": [{"pod_name": child} for child in node["children"]],
            }
            for node in self.nodes.values()
        ]
        random.Random(seed).shuffle(rows)
        return rows

    def log(self, node: str, *, pods_gone: bool) -> str:
        """Return the log that the API's endpoint finds for a node's id or a pod's name.

        Raises:
            LookupError: There is no such pod, and no archived log.
        """
        if not pods_gone and node in self.logs:
            return self.logs[node]
        for item in self.nodes.values():
            pod = self.pod_name(item)
            archived = item["phase"] not in ("Running", "Pending") and pod not in self.unarchived
            if node in (item["id"], pod) and pod in self.logs and archived:
                return self.logs[pod]
        raise LookupError(f'pods "{node}" not found')

    def pod_name(self, node: Mapping[str, Any]) -> str:
        """The name of a node's pod."""
        digits = node["id"].rpartition("-")[2]
        return f"{self.name}-{node['templateName']}-{digits}"

    def _task(
        self,
        root: str,
        parents: list[str],
        name: str,
        task: Mapping[str, Any],
        ready: datetime,
        went: Went | None,
    ) -> tuple[str, datetime]:
        """Write down one task; its phase and its end."""
        importer = "importer" in self._executor(task)
        path = f"{root}.{name}"
        if went is None:
            # Its driver is omitted, and so is what depends on that.
            omitted = path if importer else f"{path}-driver"
            template = "system-importer" if importer else "system-container-driver"
            self._node(omitted, root, template, "Skipped", "Omitted", ready, ready)
            for parent in parents:
                self._child(parent, omitted)
            if not importer:
                executor = self._template(task, "executor")
                self._node(path, root, executor, "Skipped", "Omitted", ready, ready)
                self._child(omitted, path)
            return "Omitted", ready
        if importer:
            leaf = self._pod(root, name, "system-importer", ready, went.seconds, went)
            for parent in parents:
                self._child(parent, path)
            return self.nodes[self._id(leaf)]["phase"], ready + timedelta(seconds=went.seconds)
        driver_went = Went()
        if went.end.startswith("driver"):
            driver_went = Went("failed" if went.end == "driver failed" else "running", log=went.log)
        driver = self._pod(
            root, f"{name}-driver", "system-container-driver", ready, DRIVER_SECONDS, driver_went
        )
        for parent in parents:
            self._child(parent, f"{path}-driver")
        begun = ready + timedelta(seconds=DRIVER_SECONDS)
        if went.end == "driver running":
            return "Running", begun
        executor = self._template(task, "executor")
        if went.end == "driver failed":
            self._node(path, root, executor, "Skipped", "Omitted", begun, begun)
            self._child(driver, path)
            return "Failed", begun
        self._child(driver, path)
        boundary = self._whole(path, root, executor, "DAG", begun)
        if went.end == "cached":
            self._node(
                f"{boundary}.executor",
                boundary,
                self._template(task, "impl"),
                "Skipped",
                "Skipped",
                begun,
                begun,
                "when 'true != true' evaluated false",
            )
            self._child(boundary, f"{boundary}.executor")
            self._finish(path, "Succeeded", begun)
            return "Succeeded", begun
        impl = self._template(task, "impl")
        end = begun + timedelta(seconds=went.seconds * went.attempts)
        retries = "retryPolicy" in task
        self._pod(boundary, "executor", impl, begun, went.seconds, went, retries=retries)
        self._child(boundary, f"{boundary}.executor")
        if went.end in ("running", "pending"):
            return "Running", end
        phase = "Failed" if went.end == "failed" else "Succeeded"
        self._finish(path, phase, end)
        return phase, end

    def _pod(
        self,
        boundary: str,
        name: str,
        template: str,
        start: datetime,
        seconds: int,
        went: Went | None = None,
        *,
        retries: bool = False,
    ) -> str:
        """Write down a pod, inside a retry node where there are retries; its leaf's path."""
        went = went or Went()
        path = f"{boundary}.{name}"
        wrapped = self.controller_retries or retries
        phases = {"failed": "Failed", "running": "Running", "pending": "Pending"}
        last = phases.get(went.end, "Succeeded")
        end = start + timedelta(seconds=seconds * went.attempts)
        if wrapped:
            whole = "Running" if last in ("Running", "Pending") else last
            self._node(path, boundary, template, "Retry", whole, start, end)
        elif went.attempts > 1:
            raise ValueError(f"{name} has no retries")
        leaf = path
        for attempt in range(went.attempts):
            final = attempt == went.attempts - 1
            leaf = f"{path}({attempt})" if wrapped else path
            begun = start + timedelta(seconds=seconds * attempt)
            phase, message = (last, went.message) if final else ("Error", "pod deleted")
            until = begun + timedelta(seconds=seconds)
            node = self._node(leaf, boundary, template, "Pod", phase, begun, until, message)
            if wrapped:
                self._child(path, leaf)
            if phase != "Pending":
                pod = self.pod_name(node)
                self.logs[pod] = went.log if final else went.earlier
                if not went.archived:
                    self.unarchived.add(pod)
        return leaf

    def _whole(self, path: str, boundary: str, template: str, kind: str, start: datetime) -> str:
        """Write down a DAG that goes on; the path that its tasks are below."""
        if not self.controller_retries:
            self._node(path, boundary, template, kind, "Running", start, None)
            return path
        self._node(path, boundary, template, "Retry", "Running", start, None)
        self._node(f"{path}(0)", boundary, template, kind, "Running", start, None)
        self._child(path, f"{path}(0)")
        return f"{path}(0)"

    def _finish(self, path: str, phase: str, end: datetime) -> None:
        for item in (path, f"{path}(0)"):
            node = self.nodes.get(self._id(item))
            if node is not None:
                node |= {"phase": phase, "finishedAt": _text(end)}

    def _node(
        self,
        path: str,
        boundary: str,
        template: str,
        kind: str,
        phase: str,
        start: datetime,
        end: datetime | None,
        message: str = "",
    ) -> dict[str, Any]:
        done = phase not in ("Running", "Pending")
        shown = path.removeprefix(boundary).removeprefix(".") if boundary else path
        node = {
            "id": self._id(path),
            "name": path,
            "displayName": shown,
            "type": kind,
            "templateName": template,
            "phase": phase,
            "startedAt": _text(start),
            "finishedAt": _text(end) if done and end is not None else None,
            "children": [],
        } | ({"message": message} if message else {})
        self.nodes[node["id"]] = node
        return node

    def _child(self, parent: str, child: str) -> None:
        self.nodes[self._id(parent)]["children"].append(self._id(child))

    def _leaves(self, path: str) -> list[str]:
        """The paths below which Argo puts what depends on a task: its last pods."""
        inside = [
            node
            for node in self.nodes.values()
            if _plain(node["name"]).startswith(_plain(path))
            and _plain(node["name"]) in (_plain(path), f"{_plain(path)}.executor")
            and node["type"] in ("Pod", "Skipped")
        ]
        return [node["name"] for node in inside[-1:]]

    def _executor(self, task: Mapping[str, Any]) -> Mapping[str, Any]:
        pipeline = self.spec.get("pipeline_spec", self.spec)
        component = pipeline["components"][task["componentRef"]["name"]]
        executor: Mapping[str, Any] = pipeline["deploymentSpec"]["executors"][
            component["executorLabel"]
        ]
        return executor

    def _template(self, task: Mapping[str, Any], part: str) -> str:
        return f"{'retry-' if 'retryPolicy' in task else ''}system-container-{part}"

    def _id(self, path: str) -> str:
        if path == self.name:
            return path
        digest = 0x811C9DC5
        for byte in path.encode():
            digest = ((digest ^ byte) * 0x01000193) & 0xFFFFFFFF
        return f"{self.name}-{digest}"


def _in_order(tasks: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    waiting = dict(sorted(tasks.items()))
    done: set[str] = set()
    while waiting:
        ready = [
            item for item in waiting if done.issuperset(waiting[item].get("dependentTasks", []))
        ]
        for name in ready:
            yield name, waiting.pop(name)
            done.add(name)


def _plain(path: str) -> str:
    return "".join(part for part in path.replace(")", "(").split("(")[::2])


def _text(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
