"""Artifacts and logs that a run left below its pipeline root.

Kubeflow's API reports the ids of artifacts, but not their places. By rule they lie below
PIPELINE_ROOT/PIPELINE/RUN_ID/TASK/, in newer releases in a folder of a random name there,
each with its record. Beside them the launcher keeps what the container wrote, as
`executor-logs`, with the number of the attempt behind it. What Kubeflow took from its
cache is not there, but with the run that made it.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from paring.artifacts import RECORD
from paring.errors import ParameterError, StorageError
from paring.storage import Entry, join, list_below, read_text
from paring.system.documents import parse_json
from paring_pipelines.kubeflow.log_errors import find_start
from paring_pipelines.kubeflow.progress import NodeStatus
from paring_pipelines.kubeflow.types import Run

_LOG = re.compile(r"executor-logs(?:-(\d+))?$")
_READERS = 8
_LARGEST_LOG = 4 << 20
"""Bytes of a log that is read for the time in it alone."""


@dataclass(frozen=True)
class NodeResult:
    """Outcome of one node by the records of its outputs.

    Attributes:
        outcome: made, unsupported or failed.
        reason: Why it could not be made, "" if it was.
    """

    outcome: str
    reason: str = ""


class RunArtifacts:
    """Listing of what a run left, by task.

    Args:
        root: The run's own folder, see `run_root`.

    Raises:
        StorageError: The store can't be read.
        ParameterError: The root is in no known kind of store.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._entries: dict[str, list[Entry]] = {}
        for entry in list_below(root):
            task, separator, _ = entry.uri.removeprefix(root).lstrip("/").partition("/")
            if separator:
                self._entries.setdefault(task, []).append(entry)

    def __contains__(self, task: str) -> bool:
        return task in self._entries

    def __bool__(self) -> bool:
        return bool(self._entries)

    def result(self, task: str) -> NodeResult | None:
        """Return what the newest records of a task say, None if there are none.

        Raises:
            StorageError: One can't be read.
        """
        newest: dict[str, Entry] = {}
        for entry in self._entries.get(task, ()):
            if entry.uri.endswith(f"/{RECORD}"):
                output = entry.uri.split("/")[-2]
                newest[output] = max(newest.get(output, entry), entry, key=_modified)
        for entry in newest.values():
            try:
                failure = parse_json(read_text(entry.uri)).get("failure")
            except (ValueError, AttributeError) as error:
                raise StorageError(
                    f"{entry.uri} is no artifact's record", received=error
                ) from error
            if failure:
                return NodeResult(str(failure["outcome"]), str(failure["reason"]))
        return NodeResult("made") if newest else None

    def logs(self, task: str) -> list[Entry]:
        """Return the logs of a task's attempts, the last one last."""
        result = [item for item in self._entries.get(task, ()) if _LOG.search(item.uri)]
        return sorted(result, key=lambda item: (_number(item), _modified(item)))

    def log(self, task: str, attempt: int | None = None) -> str:
        """Return what an attempt wrote, as the launcher kept it when that had ended.

        Args:
            task: The task's name.
            attempt: Its number, from 1; the last one if not given.

        Raises:
            StorageError: There is no such log, or it can't be read.
        """
        logs = self.logs(task)
        if attempt is not None:
            logs = [item for item in logs if _number(item) == attempt - 1]
        if not logs:
            raise StorageError(
                f"the artifact store has no log of {task}",
                received=join(self.root, task),
                remedy="wait for its end; of a container that was killed there is none",
            )
        return read_text(logs[-1].uri, errors="replace")


def run_root(run: Run, pipeline_root: str = "", pipeline: str = "") -> str:
    """Return the folder below which the artifacts of `run` lie.

    Args:
        run: The run.
        pipeline_root: In place of the run's own.
        pipeline: The pipeline's name, in place of the run's own.

    Raises:
        ParameterError: One of the two is not known.
    """
    root = pipeline_root or run.pipeline_root
    if not root:
        raise ParameterError(
            f"the place of the artifacts of {run.name} is not known:"
            " it was submitted with Kubeflow's own default",
            remedy="give --pipeline-root",
        )
    name = pipeline or run.pipeline
    if not name:
        raise ParameterError(
            f"the name of the pipeline that {run.name} ran is not known",
            remedy="give --pipeline NAME",
        )
    # What stands behind a question mark says how the store is reached, not where it is.
    return join(root.partition("?")[0], name, run.id)


def with_results(nodes: Iterable[NodeStatus], artifacts: RunArtifacts) -> list[NodeStatus]:
    """Return `nodes` with what the run's artifacts say about those that have ended.

    Raises:
        StorageError: A record can't be read.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        return list(readers.map(lambda node: _with_result(node, artifacts), nodes))


def _with_result(node: NodeStatus, artifacts: RunArtifacts) -> NodeStatus:
    if node.state in ("", "PENDING", "OMITTED"):
        return node
    node = _with_start(node, artifacts)
    if node.state != "SUCCEEDED":
        return node
    cached = node.cached
    if cached is None and artifacts:
        cached = node.name not in artifacts
    result = artifacts.result(node.name)
    if result is None:
        return replace(node, cached=cached)
    return replace(node, cached=cached, outcome=result.outcome, reason=result.reason)


def _with_start(node: NodeStatus, artifacts: RunArtifacts) -> NodeStatus:
    """Count the time without a machine as waiting, if a log has the start of the step."""
    logs = artifacts.logs(node.name)
    if len(logs) != 1 or logs[0].size > _LARGEST_LOG or node.created is None:
        return node
    started: datetime | None = find_start(read_text(logs[0].uri, errors="replace"))
    if started is None or node.waited is None or node.ran is None:
        return node
    moved = min(max(0.0, (started - node.created).total_seconds()), node.ran)
    return replace(node, waited=node.waited + moved, ran=node.ran - moved)


def _modified(entry: Entry) -> float:
    return entry.modified or 0.0


def _number(entry: Entry) -> int:
    matched = _LOG.search(entry.uri)
    return int(matched.group(1) or 0) if matched else 0
