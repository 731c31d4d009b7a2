"""Tables and fields of k8s/runtime.toml, and their validation."""

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from paring.errors import ParameterError, nearest
from paring_pipelines.kubeflow.formats import INT32
from paring_pipelines.kubeflow.placement_values import (
    NONE,
    Accelerator,
    Backoff,
    Bytes,
    Cores,
    Count,
    DataKey,
    Environment,
    EnvName,
    ImageTarget,
    LabelKey,
    LabelValue,
    MountPath,
    ObjectName,
    PoolName,
    PullPolicy,
    Reference,
    ResourceName,
    SomeBytes,
    StorePrefix,
    SubPath,
    Text,
    Topology,
    UserId,
    VolumeName,
    Wait,
)
from paring_pipelines.pipeline.recipes import Target
from paring_pipelines.pipeline.toml_file import read_toml

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_LONGEST_SHOWN = 200


def _distinct_paths(volumes: object) -> object:
    """Refuse two spellings of one path, of which one volume would be lost."""
    if isinstance(volumes, dict):
        spelled: dict[str, str] = {}
        for path in map(str, volumes):
            other = spelled.setdefault(posixpath.normpath(path), path)
            if other != path:
                raise PydanticCustomError("path", f"must not mount at {other} and at {path}")
    return volumes


def _renamed(value: object) -> object:
    """Return a list of keys as the mapping to variables of the same names."""
    return dict(zip(value, value, strict=True)) if isinstance(value, list) else value


class _Table(BaseModel):
    # Strict, so that no text counts as a number or as true.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Toleration(_Table):
    """A taint of a machine that does not matter; see Kubernetes' own.

    Attributes:
        key: The key of the taint; None, with operator Exists, for all of them.
        operator: Whether the value counts.
        value: The value of the taint.
        effect: The effect of the taint; None for each.
        toleration_seconds: How long a taint NoExecute is tolerated; None for ever.
    """

    key: LabelKey | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    toleration_seconds: Annotated[int, Field(ge=0, le=INT32)] | None = None

    @model_validator(mode="after")
    def _check_value(self) -> "Toleration":
        if self.key is None and self.operator != "Exists":
            raise PydanticCustomError(
                "toleration", 'needs a key, or operator = "Exists" for every taint'
            )
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise PydanticCustomError(
                "toleration", "toleration_seconds goes with effect NoExecute only"
            )
        if self.operator == "Exists" and self.value:
            raise PydanticCustomError("toleration", "operator Exists takes no value")
        return self


class Pool(_Table):
    """Machines of one kind.

    Attributes:
        labels: Those that its machines have.
        tolerations: The taints of its machines.
        accelerator: What its machines have; none for none.
        resource: The name of that among a container's resources.
        topology: Of TPUs alone.
        machine_cpu: Cores of one machine; steps that measure must not fit on it twice.
        machine_accelerators: Accelerators of one machine, likewise.
    """

    labels: dict[LabelKey, LabelValue] = {}
    tolerations: list[Toleration] = []
    accelerator: Accelerator = NONE
    resource: ResourceName | None = None
    topology: Topology | None = None
    machine_cpu: Cores | None = None
    machine_accelerators: Count | None = None


class EnvFrom(_Table):
    """Keys of a Secret or a ConfigMap that become environment variables.

    Attributes:
        name: The name of the Secret or ConfigMap, in the namespace of the runs.
        keys: The variable for each key; a list where both have the same name.
        optional: Whether the pod starts without those that are not there.
    """

    name: ObjectName
    keys: Annotated[dict[DataKey, EnvName], BeforeValidator(_renamed), Field(min_length=1)]
    optional: bool = False


class Volume(_Table):
    """A volume; exactly one of `claim`, `secret` and `config_map` names its content.

    Attributes:
        claim: The name of a PersistentVolumeClaim that exists.
        secret: The name of a Secret, whose keys become files.
        config_map: The name of a ConfigMap, likewise.
        sub_path: The folder of the claim that is mounted; "" for all of it.
        optional: Whether the pod starts without the Secret or ConfigMap.
    """

    claim: VolumeName | None = None
    secret: VolumeName | None = None
    config_map: VolumeName | None = None
    sub_path: SubPath = ""
    optional: bool = False

    @property
    def name(self) -> str:
        """Return the name of the claim, Secret or ConfigMap."""
        return self.claim or self.secret or self.config_map or ""

    @model_validator(mode="after")
    def _check_kind(self) -> "Volume":
        if sum(item is not None for item in (self.claim, self.secret, self.config_map)) != 1:
            raise PydanticCustomError("volume", "needs exactly one of claim, secret and config_map")
        if self.sub_path and self.claim is None:
            raise PydanticCustomError("volume", "sub_path goes with a claim only")
        if ".." in self.sub_path.split("/"):
            raise PydanticCustomError("volume", "sub_path must be a path without ..")
        if self.optional and self.claim is not None:
            raise PydanticCustomError("volume", "optional goes with a secret or config_map only")
        return self


class SecurityContext(_Table):
    """The user that a container runs as; what is not given is the image's.

    Attributes:
        run_as_user: Its number; 0 is root.
        run_as_group: The number of its group.
        run_as_non_root: Whether Kubernetes refuses to start the container as root.
    """

    run_as_user: UserId | None = None
    run_as_group: UserId | None = None
    run_as_non_root: bool | None = None

    @model_validator(mode="after")
    def _check_root(self) -> "SecurityContext":
        if self.run_as_non_root and self.run_as_user == 0:
            raise PydanticCustomError("user", "run_as_user 0 is root, and run_as_non_root is true")
        return self


class Fields(_Table):
    """Fields of a rule on a node; docs/kubeflow.md describes each one."""

    image: ImageTarget | None = None
    pool: str | None = None
    accelerator: Accelerator | None = None
    accelerator_count: Count | None = None
    cpu: Cores | None = None
    cpu_limit: Cores | None = None
    memory: Bytes | None = None
    memory_limit: Bytes | None = None
    shm: SomeBytes | None = None
    timeout_seconds: Count | None = None
    retries: Annotated[int, Field(ge=0, le=INT32)] | None = None
    backoff_seconds: Wait | None = None
    # Argo, which tries again for Kubeflow, takes whole numbers alone.
    backoff_factor: Backoff | None = None
    # Kubeflow takes no more.
    backoff_max_seconds: Backoff | None = None
    cache: bool | None = None
    beam_options: Text | None = None
    shared_dir: Text | None = None
    env: Environment | None = None
    env_from_secret: list[EnvFrom] | None = None
    env_from_config_map: list[EnvFrom] | None = None
    image_pull_policy: PullPolicy | None = None
    image_pull_secrets: list[ObjectName] | None = None
    labels: dict[LabelKey, LabelValue] | None = None
    annotations: dict[LabelKey, Text] | None = None
    volumes: Annotated[dict[MountPath, Volume], BeforeValidator(_distinct_paths)] | None = None
    security_context: SecurityContext | None = None
    store_identity: list[StorePrefix] | None = None

    @model_validator(mode="after")
    def _check_variables(self) -> "Fields":
        names = [*(self.env or ())]
        for source in (*(self.env_from_secret or ()), *(self.env_from_config_map or ())):
            names += source.keys.values()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PydanticCustomError(
                "variable",
                "environment variables must be given once",
                {"received": ", ".join(twice)},
            )
        return self

    def given(self) -> dict[str, Any]:
        """Return the fields that the table holds."""
        given = self.model_fields_set
        return {name: getattr(self, name) for name in Fields.model_fields if name in given}


class Rule(Fields):
    """Fields for the nodes whose step and id match the patterns."""

    step: str | None = None
    node: str | None = None

    @model_validator(mode="after")
    def _check_pattern(self) -> "Rule":
        if self.step is None and self.node is None:
            raise PydanticCustomError("pattern", "needs a step or a node, or both")
        return self


class TargetTable(_Table):
    """Fields that override the others for one --target."""

    defaults: Fields = Fields()
    place: list[Rule] = []


class RuntimeFile(_Table):
    """The whole file."""

    images: dict[ImageTarget, Reference] = {}
    pools: dict[PoolName, Pool] = {}
    defaults: Fields = Fields()
    place: list[Rule] = []
    targets: dict[Target, TargetTable] = {}


def read_runtime(path: Path) -> RuntimeFile:
    """Read and check one file by itself.

    Raises:
        ParameterError: It can't be read, or holds what it can't; the message names the
            file, the table and the key.
    """
    tables = read_toml(path, "--runtime", remedy="give a TOML file such as k8s/runtime.toml")
    try:
        return RuntimeFile.model_validate(tables)
    except ValidationError as error:
        first = error.errors()[0]
        place = [item for item in first["loc"] if item != "[key]"]
        known, depth = _table(place)
        unknown = first["type"] == "extra_forbidden"
        raise ParameterError(
            f"{path}: {_where(place, depth)}: "
            + ("there is no such key" if unknown else _begun_small(first["msg"])),
            received=place[-1] if unknown else _shown(first),
            remedy=nearest(str(place[-1]), known.model_fields)
            if unknown
            else "see docs/kubeflow.md, which has all fields",
        ) from error


def _shown(error: "ErrorDetails") -> str:
    """Return what an error is about; of a table its keys, since it may be long or secret."""
    value = error.get("ctx", {}).get("received", error["input"])
    if isinstance(value, dict):
        return f"a table with {', '.join(map(str, value)) or 'no keys'}"
    if isinstance(value, str):
        # What can't be seen is shown too.
        text = value if value.isprintable() and value else repr(value)
    else:
        text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _begun_small(text: str) -> str:
    return text[:1].lower() + text[1:]


_INNER: Mapping[str | int, type[BaseModel]] = {
    "tolerations": Toleration,
    "env_from_secret": EnvFrom,
    "env_from_config_map": EnvFrom,
    "volumes": Volume,
    "security_context": SecurityContext,
}
"""The models of the tables within a table, by their keys."""


def _table(place: Sequence[str | int]) -> tuple[type[BaseModel], int]:
    """Return the model of the table that holds `place`, and how many parts name that table."""
    if place[0] == "targets":
        if len(place) < 4:
            return TargetTable, 2
        known, depth = _table(place[2:])
        return known, depth + 2
    tables: dict[str | int, tuple[type[BaseModel], int]] = {
        "images": (RuntimeFile, 1),
        "defaults": (Fields, 1),
        "place": (Rule, 2),
        "pools": (Pool, 2),
    }
    known, depth = tables.get(place[0], (RuntimeFile, 0))
    inner = [_INNER[key] for key in place[depth:-1] if key in _INNER]
    return inner[-1] if inner else known, depth


def _where(place: Sequence[str | int], depth: int) -> str:
    """Return the table in brackets as the file has it, and the key."""
    table = ".".join(item for item in place[:depth] if isinstance(item, str))
    keys = " ".join(str(item + 1) if isinstance(item, int) else item for item in place[depth:])
    numbers = [item + 1 for item in place[:depth] if isinstance(item, int)]
    named = f"[[{table}]] {numbers[0]}" if numbers else f"[{table}]" if table else ""
    return ": ".join(item for item in (named, keys) if item)
