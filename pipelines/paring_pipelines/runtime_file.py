"""What may stand in k8s/runtime.toml, and how it is read."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from paring.errors import ParameterError, nearest
from paring_pipelines.recipes import Target
from paring_pipelines.toml_file import read_toml

NONE = "none"
"""For a rule that takes back the pool or the accelerator of an earlier one."""

_UNITS = {
    **{"m": 1e-3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18},
    **{f"{prefix}i": 1024.0**power for power, prefix in enumerate("KMGTPE", 1)},
}


def quantity(text: str) -> float:
    """Kubernetes' text for cores or bytes as a number, such as 0.5 of 500m."""
    number = text.rstrip("".join(_UNITS))
    return float(number) * _UNITS.get(text[len(number) :], 1.0)


def _text_of_number(value: object) -> object:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else value


def _accelerator(value: str) -> str:
    if value in (NONE, "tpu-v5e", "tpu-v6e") or value.startswith("nvidia-"):
        return value
    raise PydanticCustomError(
        "accelerator", "must be tpu-v5e, tpu-v6e, an NVIDIA GPU as nvidia-l4, or none"
    )


def _like(pattern: str, what: str) -> AfterValidator:
    """Refuse text that `pattern` does not match as a whole, as being no `what`."""
    whole = re.compile(pattern)

    def check(value: str) -> str:
        if not whole.fullmatch(value):
            raise PydanticCustomError("like", "must be {what}", {"what": what})
        return value

    return AfterValidator(check)


_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"

Number = BeforeValidator(_text_of_number)
# The first two take what kfp takes.
Cores = Annotated[str, Number, _like(r"([0-9]*[.])?[0-9]+m?", "cores, as 4, 0.5 or 500m")]
Bytes = Annotated[str, Number, _like(r"[0-9]+([KMGTPE]i?)?", "bytes, as 4Gi or 500M")]
LabelKey = Annotated[
    str, _like(rf"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_NAME}", "a key as Kubernetes' labels have")
]
LabelValue = Annotated[str, _like(rf"({_NAME})?", "a value as Kubernetes' labels have")]
Reference = Annotated[str, _like(r"\S+", "the reference of an image, without spaces")]
Accelerator = Annotated[str, AfterValidator(_accelerator)]
ImageTarget = Literal["cpu", "gpu", "tensorrt", "tpu"]
Topology = Literal["1x1", "2x2", "2x4"]
"""The arrangements of TPU v5e and v6e chips that lie in one host; a task is one pod."""


def chips(topology: Topology) -> int:
    """How many chips an arrangement of TPUs has."""
    return math.prod(int(side) for side in topology.split("x"))


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toleration(_Table):
    """A taint of a machine that does not matter; see Kubernetes' own."""

    key: LabelKey
    operator: Literal["Equal", "Exists"] = "Equal"
    value: LabelValue = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None

    @model_validator(mode="after")
    def _check_value(self) -> "Toleration":
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
    """

    labels: dict[LabelKey, LabelValue] = {}
    tolerations: list[Toleration] = []
    accelerator: Accelerator = NONE
    resource: LabelKey | None = None
    topology: Topology | None = None


class Fields(_Table):
    """What a rule may say of a node; docs/kubeflow.md tells what each one does."""

    image: ImageTarget | None = None
    pool: str | None = None
    accelerator: Accelerator | None = None
    accelerator_count: Annotated[int, Field(ge=1)] | None = None
    cpu: Cores | None = None
    cpu_limit: Cores | None = None
    memory: Bytes | None = None
    memory_limit: Bytes | None = None
    shm: Bytes | None = None
    timeout_seconds: Annotated[int, Field(ge=1)] | None = None
    retries: Annotated[int, Field(ge=0)] | None = None
    backoff_seconds: Annotated[int, Field(ge=0)] | None = None
    # Argo, which tries again for Kubeflow, takes whole numbers alone.
    backoff_factor: Annotated[int, Field(ge=1)] | None = None
    # Kubeflow takes no more.
    backoff_max_seconds: Annotated[int, Field(ge=1, le=3600)] | None = None
    cache: bool | None = None
    beam_options: str | None = None
    shared_dir: str | None = None

    def given(self) -> dict[str, Any]:
        """The fields that the table holds."""
        return self.model_dump(exclude_unset=True, include=set(Fields.model_fields))


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
    """What goes over the rest for one --target."""

    defaults: Fields = Fields()
    place: list[Rule] = []


class RuntimeFile(_Table):
    """The whole file."""

    images: dict[ImageTarget, Reference] = {}
    pools: dict[str, Pool] = {}
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
        place = [one for one in first["loc"] if one != "[key]"]
        known, depth = _table(place)
        unknown = first["type"] == "extra_forbidden"
        raise ParameterError(
            f"{path}: {_where(place, depth)}: "
            + ("there is no such key" if unknown else _begun_small(first["msg"])),
            received=place[-1] if unknown else first["input"],
            remedy=nearest(str(place[-1]), known.model_fields)
            if unknown
            else "docs/kubeflow.md has all fields",
        ) from error


def _begun_small(text: str) -> str:
    return text[:1].lower() + text[1:]


def _table(place: Sequence[str | int]) -> tuple[type[BaseModel], int]:
    """The model of the table that holds `place`, and how many parts name that table."""
    if place[0] == "targets":
        if len(place) < 4:
            return TargetTable, 2
        known, depth = _table(place[2:])
        return known, depth + 2
    if place[0] == "pools" and "tolerations" in place[2:-1]:
        return Toleration, 2
    tables: dict[str | int, tuple[type[BaseModel], int]] = {
        "images": (RuntimeFile, 1),
        "defaults": (Fields, 1),
        "place": (Rule, 2),
        "pools": (Pool, 2),
    }
    return tables.get(place[0], (RuntimeFile, 0))


def _where(place: Sequence[str | int], depth: int) -> str:
    """The table in brackets as the file has it, and the key."""
    table = ".".join(one for one in place[:depth] if isinstance(one, str))
    keys = " ".join(str(one + 1) if isinstance(one, int) else one for one in place[depth:])
    numbers = [one + 1 for one in place[:depth] if isinstance(one, int)]
    named = f"[[{table}]] {numbers[0]}" if numbers else f"[{table}]" if table else ""
    return ": ".join(one for one in (named, keys) if one)
