"""Interface between a run and what runs its graph on this machine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from paring.artifacts import Artifact
from paring_pipelines.pipeline.dag import Dag, Node


@dataclass(frozen=True)
class NodeEvent:
    """Start or end of a node's step; a node whose result comes from the cache has neither.

    Attributes:
        node: The node.
        seconds: Duration of the step; None at the start.
        outputs: Outputs of the step; empty at the start and after an error.
        error: Error that ended the step, an interrupt too; None if there was none.
    """

    node: Node
    seconds: float | None = None
    outputs: tuple[Artifact, ...] = ()
    error: BaseException | None = None

    @property
    def is_start(self) -> bool:
        """True if the step starts."""
        return self.seconds is None


Observer = Callable[[NodeEvent], None]


def ignore(event: NodeEvent) -> None:
    """Do nothing on an event."""


@dataclass
class RunResult:
    """Outputs of a run.

    Attributes:
        outputs: Path of each output by node id and output name.
        cached: Ids of the nodes whose earlier result was taken.
        nodes: Number of nodes.
    """

    outputs: dict[str, dict[str, Path]] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    nodes: int = 0


class Runner(Protocol):
    """Runner of graphs on this machine, into one folder."""

    def run(
        self,
        dag: Dag,
        identities: Mapping[str, str],
        observe: Observer = ignore,
        *,
        retry_failed: bool = True,
    ) -> RunResult:
        """Run `dag`; nodes of an earlier identity may come from the cache.

        Args:
            dag: The graph.
            identities: Result of `Dag.identities`.
            observe: Called when a step starts and ends, in the thread that runs it; of several
                threads by one at a time.
            retry_failed: Whether the next run tries again what has failed in this one.

        Raises:
            ParingError: A step raised it.
            StepFailedError: A node broke in another way.
            KeyboardInterrupt: The run was interrupted.
        """
        ...
