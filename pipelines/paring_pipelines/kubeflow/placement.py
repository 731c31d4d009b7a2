"""Placement of a node of a Dag, as the files of `placement_rules` determine it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from paring_pipelines.kubeflow.placement_file import SecurityContext, Toleration, Volume
from paring_pipelines.kubeflow.placement_values import NONE

STORE_IDENTITY = "paring.dev/store-identity"
"""The annotation of pods whose own identity opens stores: prefixes of URIs, with blanks between."""


@dataclass(frozen=True)
class EnvReference:
    """The key of a Secret or a ConfigMap that an environment variable is taken from.

    Attributes:
        kind: "secret" or "config_map".
        name: The name of the Secret or ConfigMap.
        key: The key in it.
        optional: Whether the pod starts without it.
    """

    kind: Literal["secret", "config_map"]
    name: str
    key: str
    optional: bool = False


@dataclass(frozen=True)
class Retry:
    """Number and delays of the retries of a failed task.

    Attributes:
        count: Number of retries after the first attempt.
        backoff_seconds: The wait before the first retry.
        factor: Ratio of each wait to the one before it.
        max_seconds: Time after its first start from which a task is not retried.
    """

    count: int
    backoff_seconds: int = 0
    factor: int = 2
    max_seconds: int = 3600


@dataclass(frozen=True)
class Placement:
    """Machine, resources and environment of one node.

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
        env: Environment variables: each one's text, or where it is taken from.
        image_pull_policy: When the image is pulled; None for Kubernetes' own default.
        image_pull_secrets: The Secrets with the registry's credentials.
        pod_labels, annotations: Of the pod.
        volumes: What is mounted, by the path that it is mounted at.
        security_context: The user of the container.
        store_identity: Prefixes of URIs that the pod's own identity opens.
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
    env: Mapping[str, str | EnvReference] = field(default_factory=dict)
    image_pull_policy: str | None = None
    image_pull_secrets: Sequence[str] = ()
    pod_labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, Volume] = field(default_factory=dict)
    security_context: SecurityContext = field(default_factory=SecurityContext)
    store_identity: Sequence[str] = ()
