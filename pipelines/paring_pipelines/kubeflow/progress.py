"""Progress of a run's nodes, from what Kubeflow reports about it.

Kubeflow runs a node `X` as an Argo DAG `X` with one pod `executor` in it, after a pod
`X-driver`. With retries each of them may have children `X(0)`, `executor(1)` and so on,
so its API lists about a hundred tasks for 32 nodes, without saying which executor belongs
to which node. The workflow's manifest says so, as well as why a pod failed or waits; it
comes from the API's older version. Where that is closed, executors are assigned to nodes
by their times, to the second.
"""

import base64
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from paring_pipelines.kubeflow.json_objects import object_at
from paring_pipelines.kubeflow.task_graph import PlannedTask
from paring_pipelines.kubeflow.types import FINISHED, Run, Task

_PHASES = {"Error": "FAILED", "Omitted": "OMITTED"}
_ATTEMPT = re.compile(r"\((\d+)\)$")
_NEAR = 4.0
"""Seconds that an executor's start and end may differ from its node's, taken together."""

_GRACE = 90.0
"""Seconds before a canceled run's end within which what failed counts as canceled."""

DRIVER_FAILED = "Kubeflow's driver failed"
"""The error of a node that failed before its own container started."""

_DRIVER = "system-container-driver"
_V1_POD_NAMES = "workflows.argoproj.io/pod-name-format"


@dataclass(frozen=True)
class Pod:
    """A part of a node that Kubeflow reports: a driver, an attempt, the whole.

    Attributes:
        state: Such as PENDING, RUNNING, SUCCEEDED, FAILED, SKIPPED or OMITTED.
        started: When it was created, None if it was not.
        ended: When it ended, None if it has not.
        name: The pod's, "" if unknown or if there is no pod.
        message: Why it failed or waits, as Kubernetes and Argo say it; "" for nothing.
    """

    state: str
    started: datetime | None
    ended: datetime | None
    name: str = ""
    message: str = ""


@dataclass
class Trace:
    """Parts of one node that Kubeflow reports.

    Attributes:
        driver: The pod that prepares it, None before that.
        task: The node as a whole, None before it has started.
        attempts: Pods that run the step, the first one first. None of them if the result
            came from the cache.
        cached: Whether the result came from Kubeflow's cache, None if unknown.
    """

    driver: Pod | None = None
    task: Pod | None = None
    attempts: list[Pod] = field(default_factory=list)
    cached: bool | None = None


@dataclass(frozen=True)
class NodeStatus:
    """State, times and result of one node.

    Attributes:
        name: The node's id with dashes.
        step: Paring's step, "" if it runs something else.
        state: PENDING (prepared, or without a machine), RUNNING, SUCCEEDED, FAILED,
            CANCELED, OMITTED (another one failed before it), or "" if it has not started.
        attempt: Number of the last attempt, 0 before the first one.
        created: When its pod was created, None before.
        waited: Seconds from when its inputs were there until a pod was created for it;
            while that pod is PENDING, until now. None before.
        ran: Seconds since then, until its end; of all attempts. None before.
        cached: Whether its result came from Kubeflow's cache, None if unknown.
        outcome: made, unsupported or failed, as its output's record says; "" if unknown.
        reason: Why it could not be made, or why it waits; "" for nothing.
        error: Why it failed, "" if it has not.
    """

    name: str
    step: str
    state: str
    attempt: int = 0
    created: datetime | None = None
    waited: float | None = None
    ran: float | None = None
    cached: bool | None = None
    outcome: str = ""
    reason: str = ""
    error: str = ""


def workflow_nodes(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """Return the nodes of an Argo workflow, each with its name.

    Args:
        manifest: The Workflow as Kubeflow stores it.

    Returns:
        None if they are elsewhere, or can't be read.
    """
    status = object_at(manifest, "status")
    nodes, packed = status.get("nodes"), status.get("compressedNodes")
    if not nodes and status.get("offloadNodeStatusVersion"):
        # Argo has them in a database of its own.
        return None
    if nodes is None and packed:
        # Argo packs what would not fit into a Kubernetes resource.
        try:
            nodes = json.loads(zlib.decompress(base64.b64decode(packed), zlib.MAX_WBITS | 16))
        except (RecursionError, TypeError, ValueError, zlib.error):
            return None
    if not isinstance(nodes, dict | None):
        return None
    result = list((nodes or {}).values())
    return result if all(_is_node(item) for item in result) else None


def _is_node(node: object) -> bool:
    """Return whether a node has what is read of it, in the right form."""
    needed = ("name", "id") if object_at(node).get("type") == "Pod" else ("name",)
    if not all(isinstance(object_at(node).get(key), str) for key in needed):
        return False
    try:
        for key in ("startedAt", "finishedAt"):
            _time(object_at(node).get(key))
    except ValueError:
        return False
    return True


def manifest_traces(manifest: Mapping[str, Any]) -> dict[str, Trace]:
    """Return what an Argo workflow says about each node, by the node's name.

    Args:
        manifest: The Workflow as Kubeflow stores it.
    """
    workflow, by_id = _workflow(manifest)
    traces: dict[str, Trace] = {}
    executors: dict[str, list[str]] = {}
    # Attempts by their numbers, so that the last one ends up last.
    nodes = workflow_nodes(manifest) or ()
    for node in sorted(nodes, key=lambda item: _numbers(str(item["name"]))):
        # The workflow itself, the root DAG, the node or its driver, its executor.
        path = str(node["name"]).removeprefix(workflow).split(".")
        if len(path) not in (3, 4) or _plain(path[1]) != "root":
            continue
        name, part = _plain(path[2]), _pod(node, workflow, by_id)
        driver = len(path) == 3 and str(node.get("templateName", "")).endswith(_DRIVER)
        trace = traces.setdefault(name.removesuffix("-driver") if driver else name, Trace())
        if driver:
            # Where there are several attempts, their parent has the times of all.
            trace.driver = replace(trace.driver or part, name=part.name, message=part.message)
            continue
        if len(path) == 3 and path[2] == name:
            trace.task = part
        if len(path) == 4:
            executors.setdefault(name, []).append(part.state)
        if part.name:
            trace.attempts.append(part)
    for name, states in executors.items():
        traces[name].cached = not traces[name].attempts and set(states) == {"SKIPPED"}
    return traces


def task_traces(tasks: Sequence[Task], planned: Sequence[PlannedTask]) -> dict[str, Trace]:
    """Return what the tasks of a run say about each node, by the node's name.

    Executors are assigned to nodes by their times. Pods and messages stay unknown.

    Args:
        tasks: What Kubeflow calls tasks.
        planned: The pipeline's tasks; empty if unknown, for those that have a driver.
    """
    named: dict[str, list[Task]] = {}
    for task in tasks:
        named.setdefault(task.name, []).append(task)
    if not planned:
        drivers = sorted({name for name in named if name.endswith("-driver")} - {"root-driver"})
        planned = [PlannedTask(name.removesuffix("-driver")) for name in drivers]
    executors = named.get("executor", [])
    traces: dict[str, Trace] = {}
    for item in planned:
        trace = Trace()
        if f"{item.name}-driver" in named:
            trace.driver = _part(named[f"{item.name}-driver"][0])
        if item.name in named:
            task = named[item.name][0]
            trace.task = _part(task)
            executor = None if item.importer else _executor(task, executors)
            if executor is not None:
                trace.cached = executor.state == "SKIPPED"
                trace.attempts = [] if trace.cached else [_part(executor)]
            elif item.importer:
                trace.attempts = [trace.task]
        traces[item.name] = trace
    return traces


def node_statuses(
    run: Run, planned: Sequence[PlannedTask], traces: Mapping[str, Trace], now: datetime
) -> list[NodeStatus]:
    """Return where each node stands, in the plan's order.

    Importers, which Kubeflow runs by itself, are left out unless they failed.

    Args:
        run: The run.
        planned: The pipeline's tasks.
        traces: What is known of each by its name.
        now: For those that have not ended.
    """
    result: list[NodeStatus] = []
    for task in planned:
        status = _status(run, task, traces.get(task.name, Trace()), now)
        if not task.importer or status.state == "FAILED":
            result.append(status)
    return result


def _status(run: Run, planned: PlannedTask, trace: Trace, now: datetime) -> NodeStatus:
    driver, task = trace.driver, trace.task
    last = trace.attempts[-1] if trace.attempts else None
    state = _state(trace)
    # Of what it ended, Kubeflow does not always report the end.
    if run.state in FINISHED and state in ("PENDING", "RUNNING"):
        state = "FAILED"
    if run.state == "CANCELED" and state == "FAILED" and _ended_with(run, trace):
        state = "CANCELED"
    waited = ran = None
    if state not in ("", "OMITTED"):
        created = task.started if task is not None and state != "PENDING" else None
        end = (task.ended if task is not None else None) or run.finished or now
        ready = driver or task
        waited = _seconds(ready.started if ready else None, created or end)
        ran = None if created is None else _seconds(created, end)
    failed = next((item for item in (last, driver, task) if item and item.state == "FAILED"), None)
    error = ""
    if state == "FAILED":
        what = DRIVER_FAILED if failed is not None and failed is driver else ""
        error = ": ".join(part for part in (what, failed.message if failed else "") if part)
    return NodeStatus(
        name=planned.name,
        step=planned.step,
        state=state,
        attempt=len(trace.attempts),
        created=task.started if task is not None and state not in ("", "OMITTED") else None,
        waited=waited,
        ran=ran,
        cached=trace.cached if task is not None else None,
        reason=last.message if last is not None and state == "PENDING" else "",
        error=error,
    )


def _ended_with(run: Run, trace: Trace) -> bool:
    """Return whether a node went on until a run was ended."""
    part = trace.task or trace.driver
    if part is None or part.ended is None or run.finished is None:
        return True
    return _seconds(part.ended, run.finished) <= _GRACE


def _state(trace: Trace) -> str:
    driver, task = trace.driver, trace.task
    last = trace.attempts[-1] if trace.attempts else None
    if driver is not None and driver.state == "FAILED":
        return "FAILED"
    if task is None:
        if driver is None:
            return ""
        return "PENDING" if driver.state in ("PENDING", "RUNNING", "SUCCEEDED") else "OMITTED"
    if task.state == "RUNNING" and last is not None and last.state == "PENDING":
        return "PENDING"
    # The API has no word for what Argo omits.
    return task.state or "OMITTED"


def root_failure(manifest: Mapping[str, Any]) -> Pod | None:
    """Return what failed before there was any node, None if nothing did.

    Returns:
        The pod of the driver that prepares the whole run, or without a pod's name what Argo
        says about the workflow.
    """
    workflow, by_id = _workflow(manifest)
    nodes = workflow_nodes(manifest) or ()
    for node in sorted(nodes, key=lambda item: _numbers(str(item["name"])), reverse=True):
        part = _pod(node, workflow, by_id)
        if (
            part.state == "FAILED"
            and part.name
            and _plain(str(node.get("displayName", ""))) == "root-driver"
        ):
            return part
    status = object_at(manifest, "status")
    if status.get("phase") in ("Failed", "Error") and status.get("message"):
        return Pod("FAILED", None, None, message=" ".join(str(status["message"]).split()))
    return None


def was_canceled(manifest: Mapping[str, Any]) -> bool:
    """Return whether a workflow was ended by Kubeflow, which then leaves it no time."""
    return bool(object_at(manifest, "spec").get("activeDeadlineSeconds") == 0)


def count_states(nodes: Iterable[NodeStatus]) -> dict[str, int]:
    """Return how many nodes are in each state."""
    counts: dict[str, int] = {}
    for node in nodes:
        counts[node.state] = counts.get(node.state, 0) + 1
    return counts


def _workflow(manifest: Mapping[str, Any]) -> tuple[str, bool]:
    """Return a workflow's name, and whether its pods are named for their nodes' ids."""
    annotations = object_at(manifest, "metadata", "annotations")
    return str(manifest["metadata"]["name"]), annotations.get(_V1_POD_NAMES) == "v1"


def _pod(node: Mapping[str, Any], workflow: str, by_id: bool) -> Pod:
    phase = str(node.get("phase", ""))
    name = ""
    if node.get("type") == "Pod":
        name = str(node["id"])
        if not by_id:
            digits = name.rpartition("-")[2]
            name = f"{workflow}-{node.get('templateName', '')}-{digits}"
    return Pod(
        state=_PHASES.get(phase, phase.upper()),
        started=_time(node.get("startedAt")),
        ended=_time(node.get("finishedAt")),
        name=name,
        message=" ".join(str(node.get("message", "")).split()),
    )


def _part(task: Task) -> Pod:
    return Pod(task.state, task.started, task.ended)


def _executor(task: Task, executors: Iterable[Task]) -> Task | None:
    """Return the executor whose times are those of `task`, within a few seconds."""

    def distance(item: Task) -> float:
        if item.ended is None or task.ended is None:
            # An executor that has ended belongs to a task that goes on only for a moment.
            return _seconds(item.started, task.started) + (item.ended != task.ended)
        return _seconds(item.started, task.started) + _seconds(item.ended, task.ended)

    near = [
        executor
        for executor in executors
        if executor.started is not None and distance(executor) <= _NEAR
    ]
    return min(near, key=distance, default=None)


def _numbers(name: str) -> list[int]:
    return [int(text) for text in re.findall(r"\((\d+)\)", name)]


def _plain(name: str) -> str:
    return _ATTEMPT.sub("", name)


def _seconds(first: datetime | None, second: datetime | None) -> float:
    if first is None or second is None:
        return 0.0
    return abs((second - first).total_seconds())


def _time(text: object) -> datetime | None:
    if not text:
        return None
    when = datetime.fromisoformat(str(text))
    return when if when.tzinfo else when.replace(tzinfo=UTC)
