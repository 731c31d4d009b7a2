"""Logs of a run's nodes, printed once or as they grow.

Kubeflow's API has no way to follow a log, so it is read again and again, and what was
printed before is left out.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from paring_pipelines.kubeflow.errors import NotFoundError
from paring_pipelines.kubeflow.types import FINISHED

if TYPE_CHECKING:
    from paring_pipelines.kubeflow.progress import NodeStatus
    from paring_pipelines.kubeflow.run_reader import RunReader

_ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "OMITTED")


class LogPrinter:
    """Printer of logs that prints each line once.

    Args:
        write: Prints a line.
        node: The node's id or name; None for all nodes, each line with the node before it.
    """

    def __init__(self, write: Callable[[str], object], node: str | None) -> None:
        self._write = write
        self._node = node
        self._printed: dict[tuple[str, int], list[str]] = {}
        self._attempts: dict[str, int] = {}
        self._complete: set[str] = set()

    def print_once(self, reader: "RunReader", attempt: int | None = None) -> None:
        """Print what there is; of all nodes, those that have written something.

        Raises:
            NotFoundError: There is none of the node, or of no node.
            ClusterError: Kubeflow can't be reached.
            ParameterError: The run has no such node or attempt.
        """
        if self._node is not None:
            name = reader.node(self._node)
            self._print(name, 0, reader.log(name, attempt), ended=True)
            return
        problems: list[NotFoundError] = []
        for item in reader.planned:
            try:
                self._print(item.name, 0, reader.log(item.name), ended=True)
            except NotFoundError as error:
                problems.append(error)
        if len(problems) == len(reader.planned):
            raise NotFoundError(
                f"no node of {reader.run.name} has a log that can be read",
                received=problems[-1].received if problems else "a pipeline without nodes",
                remedy="look at the state of each node by `paring status RUN`",
            )

    def print_more(self, reader: "RunReader") -> bool:
        """Print what was written since the last call.

        Args:
            reader: Of a run that was just read.

        Returns:
            Whether more may come.

        Raises:
            ClusterError: Kubeflow can't be reached; the log of what has ended can't be read.
            ParameterError: The run has no such node.
        """
        wanted = None if self._node is None else reader.node(self._node)
        report = reader.progress()
        for node in report.nodes:
            if node.name in self._complete or (wanted is not None and node.name != wanted):
                continue
            ended = node.state in _ENDED or report.run.state in FINISHED
            if ended:
                self._complete.add(node.name)
            self._finish_earlier(reader, node)
            try:
                text = reader.log(node.name)
            except NotFoundError:
                # Before it has started there is nothing to read.
                if ended and wanted is not None:
                    raise
                continue
            self._print(node.name, node.attempt, text, ended=ended)
        if wanted is not None:
            return wanted not in self._complete
        return report.run.state not in FINISHED

    def _finish_earlier(self, reader: "RunReader", node: "NodeStatus") -> None:
        """Print what attempts wrote at their end, if another has followed since."""
        following = max(self._attempts.get(node.name, node.attempt), 1)
        for attempt in range(following, node.attempt):
            try:
                text = reader.log(node.name, attempt)
            except NotFoundError:
                continue
            self._print(node.name, attempt, text, ended=True)
        self._attempts[node.name] = node.attempt

    def _print(self, name: str, attempt: int, text: str, *, ended: bool) -> None:
        lines = text.split("\n")
        rest = lines.pop()
        # A line may still be written to.
        if ended and rest:
            lines.append(rest)
        # What the archive and the store have may lack empty lines that the pod showed.
        lines = [line for line in lines if line.strip()]
        before = self._printed.setdefault((name, attempt), [])
        for line in lines[_common(before, lines) :]:
            self._write(line if self._node is not None else f"{name}  {line}")
        self._printed[name, attempt] = lines


def _common(before: list[str], lines: list[str]) -> int:
    """Return how many of `lines` were printed before.

    The launcher's own lines are in a pod's log and not in what the store keeps.
    """
    if lines[: len(before)] == before:
        return len(before)
    last = before[-1]
    for position in range(len(lines) - 1, -1, -1):
        if lines[position] == last:
            return position + 1
    return 0
