"""Distribution of a training over devices, and over machines that TF_CONFIG names.

TensorFlow's multi-worker strategy reads that variable, and what starts such machines
sets it: Kubeflow's training operator, Vertex AI, or a user by hand.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from paring.errors import ParameterError
from paring.system.documents import parse_json

# See `paring.training.strategy.open_devices`.
StrategyName = Literal["auto", "one_device", "mirrored", "multi_worker", "xla", "tpu"]

TF_CONFIG_SHAPE = (
    '{"cluster": {"worker": ["HOST:PORT", ...]}, "task": {"type": "worker", "index": 0}}'
)
"""What the variable has to look like."""

_REMEDY = (
    f"give {TF_CONFIG_SHAPE},"
    " with a cluster that is the same on all workers and an index of its own on each"
)


@dataclass(frozen=True)
class Workers:
    """Workers of a cluster, and the index of this process.

    Attributes:
        addresses: HOST:PORT of each; the first one leads.
        index: This process's place among them.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def leads(self) -> bool:
        """True if this process is the one that writes the outputs."""
        return self.index == 0


def read_workers(environment: Mapping[str, str] = os.environ) -> Workers | None:
    """Return the workers that TF_CONFIG names; None if it is not set, or names no cluster.

    A chief counts as the first worker.

    Raises:
        ParameterError: It is no JSON of that shape, or has tasks of another type.
    """
    text = environment.get("TF_CONFIG", "")
    if not text.strip():
        return None
    try:
        content = parse_json(text)
        cluster = {str(kind): list(map(str, ones)) for kind, ones in content["cluster"].items()}
        kind, number = str(content["task"]["type"]), int(content["task"]["index"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if error.args == ("cluster",):
            return None
        raise ParameterError(
            "TF_CONFIG: not what TensorFlow takes", received=text[:200], remedy=_REMEDY
        ) from error
    others = sorted({*cluster, kind} - {"chief", "worker"})
    if others:
        raise ParameterError(
            "TF_CONFIG: training here takes workers alone, and a chief as the first",
            received=f"tasks of type {', '.join(others)}",
            remedy=_REMEDY,
        )
    chief = cluster.get("chief", [])
    index = number + len(chief) * (kind == "worker")
    addresses = (*chief, *cluster.get("worker", []))
    if number not in range(len(cluster.get(kind, []))):
        raise ParameterError(
            "TF_CONFIG: its task is none of its cluster",
            received=f"{kind} {number} of {', '.join(addresses)}",
            remedy=_REMEDY,
        )
    return Workers(addresses, index)


def require_workers() -> Workers:
    """Return the workers that TF_CONFIG names.

    Raises:
        ParameterError: It names none, or is broken.
    """
    workers = read_workers()
    if workers is None:
        raise ParameterError(
            "strategy multi_worker: the variable TF_CONFIG, which names the workers, is not set",
            remedy=f"set it on each worker: {TF_CONFIG_SHAPE}",
        )
    return workers
