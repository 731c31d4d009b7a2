"""One run as `status` and `logs` see it: its nodes, their results, errors and logs.

Three places know about a run, and each may be out of reach. Kubeflow's API knows states
and times, and has logs. The workflow's manifest says which pods belong to a node, and
what Kubernetes says about them. The artifact store has the records, with outcomes and
reasons, and the logs that the launcher kept.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from paring.errors import ParameterError, ParingError, nearest
from paring_pipelines.kubeflow.errors import NotFoundError, RefusedError
from paring_pipelines.kubeflow.launcher_config import TIMEOUT, default_root, runs_namespace
from paring_pipelines.kubeflow.log_errors import find_error
from paring_pipelines.kubeflow.progress import (
    DRIVER_FAILED,
    NodeStatus,
    Pod,
    Trace,
    manifest_traces,
    node_statuses,
    root_failure,
    task_traces,
    was_canceled,
    workflow_nodes,
)
from paring_pipelines.kubeflow.run_artifacts import RunArtifacts, run_root, with_results
from paring_pipelines.kubeflow.task_graph import PlannedTask, planned_tasks, task_name
from paring_pipelines.kubeflow.types import FINISHED, Run, pipeline_name

if TYPE_CHECKING:
    from paring_pipelines.kubeflow.client import Kubeflow

_PLAIN_FAILURE = re.compile(r"main: Error \(exit code [1-9][0-9]?\)$")
"""What Argo says of a container that ended by itself: codes above 128 are of signals."""

_NO_NODES = (
    "attempts, pods and what Kubernetes says are not known: the workflow that Kubeflow stores"
    " has no nodes that can be read; Argo may keep them in its database (offloadNodeStatusVersion)"
)

_ROOT_DRIVER = "root-driver"


@dataclass(frozen=True)
class RunReport:
    """A run and its nodes.

    Attributes:
        run: The run.
        nodes: Its nodes, in the plan's order.
        notes: What could not be read and what is unknown for that.
    """

    run: Run
    nodes: Sequence[NodeStatus]
    notes: Sequence[str] = ()


class RunReader:
    """One run, with each of its places read once.

    Args:
        kubeflow: Where it runs.
        run: The run, with its tasks.
        pipeline_root: Where its artifacts lie, in place of what is known about it.
        pipeline: The pipeline's name, in place of what is known about it.

    Raises:
        ClusterError: Kubeflow can't be reached.
    """

    def __init__(
        self, kubeflow: "Kubeflow", run: Run, *, pipeline_root: str = "", pipeline: str = ""
    ) -> None:
        self._kubeflow = kubeflow
        self._pipeline_root = pipeline_root
        self._notes: list[str] = []
        self._planned: list[PlannedTask] = []
        name = ""
        try:
            spec = kubeflow.pipeline_spec(run)
            name, self._planned = pipeline_name(spec), planned_tasks(spec)
        except RefusedError as error:
            self._notes.append(
                f"the plan's order, and what has not started, are not known: {_line(error)}"
            )
        self.run = replace(run, pipeline=pipeline or name)
        self._traces: Mapping[str, Trace] | None = None
        self._root_failure: Pod | None = None
        self._artifacts: RunArtifacts | ParingError | None = None

    @property
    def planned(self) -> Sequence[PlannedTask]:
        """The pipeline's tasks in the plan's order, or those that were reported by time.

        Raises:
            ClusterError: Kubeflow can't be reached.
        """
        if self._planned:
            return self._planned
        reported = sorted(self.traces().items(), key=lambda item: _first_time(item[1]))
        return [PlannedTask(name, importer=trace.driver is None) for name, trace in reported]

    def traces(self) -> Mapping[str, Trace]:
        """Return what Kubeflow reports about each node, by the node's name.

        Raises:
            ClusterError: Kubeflow can't be reached.
        """
        if self._traces is None:
            manifest = self._kubeflow.manifest(self.run.id)
            nodes = None if manifest is None else workflow_nodes(manifest)
            if manifest is not None and nodes:
                self._traces = manifest_traces(manifest)
            else:
                self._traces = task_traces(self.run.tasks, self._planned)
            if manifest is not None:
                if nodes is None:
                    self._notes.append(_NO_NODES)
                self._root_failure = root_failure(manifest)
                if self.run.state == "FAILED" and was_canceled(manifest):
                    self.run = replace(self.run, state="CANCELED")
        return self._traces

    def pipeline_root(self) -> str:
        """Return the URI below which artifacts of runs like this one lie.

        Raises:
            ParameterError: It is Kubeflow's default, which can't be read.
        """
        given = self._pipeline_root or self.run.pipeline_root
        if given:
            return given
        settings = self._kubeflow.settings
        namespace = runs_namespace(settings.host, self._kubeflow.namespace)
        return default_root(namespace, timeout=min(settings.timeout, TIMEOUT))

    def artifacts(self) -> RunArtifacts:
        """Return what the run left in the artifact store.

        Raises:
            ParameterError: Its place is not known.
            StorageError: The store can't be read.
        """
        if self._artifacts is None:
            try:
                self._artifacts = RunArtifacts(run_root(self.run, self.pipeline_root()))
            except ParingError as error:
                self._artifacts = error
        if isinstance(self._artifacts, ParingError):
            raise self._artifacts
        return self._artifacts

    def progress(self) -> RunReport:
        """Return where each node stands, by what Kubeflow reports alone.

        Raises:
            ClusterError: Kubeflow can't be reached.
        """
        traces = self.traces()
        return RunReport(self.run, node_statuses(self.run, self.planned, traces, datetime.now(UTC)))

    def report(self) -> RunReport:
        """Return where each node stands, with its outcome, reason and error.

        Raises:
            ClusterError: Kubeflow can't be reached.
        """
        nodes = list(self.progress().nodes)
        notes = list(self._notes)
        if any(node.state in ("RUNNING", "SUCCEEDED") for node in nodes):
            try:
                artifacts = self.artifacts()
                nodes = with_results(nodes, artifacts)
                if not artifacts and any(
                    node.state == "SUCCEEDED" and not node.cached for node in nodes
                ):
                    notes.append(
                        "outcomes and reasons are not known: nothing of this run is below"
                        f" {artifacts.root}; check --pipeline-root"
                    )
            except ParingError as error:
                remedy = f"; {error.remedy}" if error.remedy else ""
                notes.append(f"outcomes and reasons are not known: {_line(error)}{remedy}")
        nodes = [
            replace(node, error=self._error(node)) if node.state == "FAILED" else node
            for node in nodes
        ]
        run = self.run
        if run.state == "FAILED" and not any(node.state == "FAILED" for node in nodes):
            run = replace(run, error=run.error or self._run_error())
        return RunReport(run, nodes, notes)

    def node(self, name: str) -> str:
        """Return the name of the task for a node's id or name.

        Raises:
            ParameterError: The run has no such node.
        """
        wanted = task_name(name)
        known = [item.name for item in self.planned]
        if wanted not in known:
            raise ParameterError(
                f"the run {self.run.name} has no node {name!r}", remedy=nearest(wanted, known)
            )
        return wanted

    def log(self, name: str, attempt: int | None = None) -> str:
        """Return what the container of a node has written.

        It is read from Kubeflow's API, else from the artifact store. Where the node's driver
        failed, it is the driver's log.

        Args:
            name: The node's.
            attempt: Number of the attempt, from 1; the last one if not given.

        Raises:
            ClusterError: There is none, or neither of the two can be read.
            ParameterError: There was no such attempt.
        """
        trace = self.traces().get(name, Trace())
        pods = [pod.name for pod in trace.attempts]
        driver_failed = trace.driver is not None and trace.driver.state == "FAILED"
        if not pods and trace.driver is not None and driver_failed:
            pods = [trace.driver.name]
        if not pods and trace.task is not None and not trace.cached:
            # It ran, in a pod whose name is not known.
            pods = [""] if trace.task.state not in ("", "OMITTED") else []
        if attempt is not None and any(pods) and attempt > len(pods):
            raise ParameterError(
                f"{name} had {len(pods)} attempt(s)",
                received=attempt,
                remedy="give --attempt one of them",
            )
        if not pods:
            raise NotFoundError(
                f"{name} has written no log",
                received=_why_no_log(trace, self.run),
                remedy="look at the state of each node by `paring status RUN`",
            )
        problems: list[str] = []
        # Where names are not known, neither is the number of attempts.
        if any(pods):
            try:
                pod = pods[-1 if attempt is None else attempt - 1]
                return self._kubeflow.log(self.run.id, pod)
            except NotFoundError as error:
                problems.append(error.received)
        if not driver_failed:
            try:
                return self.artifacts().log(name, attempt)
            except ParingError as error:
                problems.append(_line(error))
        raise NotFoundError(
            f"the log of {name} can't be read",
            received="; ".join(problems),
            remedy="check --pipeline-root; of a container that was killed nothing is kept there:"
            " look at its pod with kubectl",
        )

    def _run_error(self) -> str:
        """Return why a run failed of which no node did."""
        failure = self._root_failure
        if failure is not None and not failure.name:
            return failure.message
        parts = ["Kubeflow's driver of the run failed"]
        if failure is not None:
            parts.append(failure.message)
            try:
                logged = find_error(self._kubeflow.log(self.run.id, failure.name))
                parts.append(logged.what if logged is not None else "")
            except NotFoundError:
                pass
        elif not any(
            (task.name, task.state) == (_ROOT_DRIVER, "FAILED") for task in self.run.tasks
        ):
            return "no node failed"
        return ": ".join(filter(None, parts))

    def _error(self, node: NodeStatus) -> str:
        try:
            logged = find_error(self.log(node.name))
        except ParingError as error:
            return node.error or f"unknown: {_line(error)}"
        if logged is None:
            return node.error or "unknown: its log is empty"
        if logged.ours:
            return str(logged)
        plain = _PLAIN_FAILURE.search(node.error)
        if plain is not None:
            # That it failed is known; the log says why, of Kubeflow's launcher too.
            return f"{node.error[: plain.start()]}{logged.what}\n  {plain[0]}"
        if node.error == DRIVER_FAILED:
            return f"{node.error}: {logged.what}"
        # What Kubernetes says goes first: a container that was killed could not say why.
        return f"{node.error}\n  its log ends with: {logged.what}" if node.error else logged.what


def find_run(kubeflow: "Kubeflow", name: str) -> Run:
    """Return a run by its name, else by its id, with its tasks.

    Raises:
        NotFoundError: There is none.
        ClusterError: Kubeflow can't be reached, or refused.
    """
    named = kubeflow.runs_named(name)
    if named:
        # A listing does not have all of it.
        return kubeflow.run(named[0].id)
    try:
        return kubeflow.run(name)
    except NotFoundError as error:
        known = [item.name for item in kubeflow.runs(limit=100)]
        raise NotFoundError(
            "there is no run of this id or name",
            received=name,
            remedy=f"{did_you_mean(name, known)}`paring status` lists the newest",
        ) from error


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return a hint at the nearest known name, "" if none is near."""
    hint, _, _ = nearest(name, known).partition("known: ")
    return hint


def _why_no_log(trace: Trace, run: Run) -> str:
    if trace.cached:
        return "its result came from Kubeflow's cache"
    if run.state in FINISHED:
        return "it did not run"
    return "it has not started"


def _first_time(trace: Trace) -> float:
    part = trace.driver or trace.task
    return part.started.timestamp() if part and part.started else math.inf


def _line(error: ParingError) -> str:
    return f"{error.what} ({error.received})" if error.received else error.what
