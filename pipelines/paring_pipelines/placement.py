"""Where a node of a Dag runs: what the files of `paring_pipelines.runtime` come to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from paring_pipelines.runtime_file import NONE, Toleration


@dataclass(frozen=True)
class Retry:
    """How often a failed task is tried again, and when.

    Attributes:
        count: How many times after the first one.
        backoff_seconds: The wait before the first of them.
        factor: What each wait is longer by than the one before it.
        max_seconds: So long after its first start a task is not tried again.
    """

    count: int
    backoff_seconds: int = 0
    factor: int = 2
    max_seconds: int = 3600


@dataclass(frozen=True)
class Placement:
    """Where one node runs, and what it is given there.

    Attributes:
        image: The container image; None for the one that is compiled for all.
        cpu, cpu_limit: Cores, as Kubernetes writes them; None where nothing is said.
        memory, memory_limit: Bytes, likewise.
        accelerator: Its type; "none" for none.
        resource: The accelerator's name among a container's resources; None for none.
        accelerator_count: How many of it.
        labels: Those of the machine.
        tolerations: The taints of the machine.
        shm: The size of /dev/shm, as Kubernetes writes it; None leaves it as it is.
        timeout_seconds: When the task is ended; None for never.
        retry: What follows a failure; None for nothing.
        cache: Whether an earlier result may be taken.
        parameters: Those of the step's that are other ones here than the node has.
    """

    image: str | None = None
    cpu: str | None = None
    cpu_limit: str | None = None
    memory: str | None = None
    memory_limit: str | None = None
    accelerator: str = NONE
    resource: str | None = None
    accelerator_count: int = 1
    labels: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Toleration] = ()
    shm: str | None = None
    timeout_seconds: int | None = None
    retry: Retry | None = None
    cache: bool = True
    parameters: Mapping[str, str] = field(default_factory=dict)
