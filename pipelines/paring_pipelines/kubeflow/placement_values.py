"""Types of the values in k8s/runtime.toml, and their validation."""

import math
import posixpath
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from paring.errors import ParameterError
from paring.system.step_limits import TIME_VARIABLE, parse_duration
from paring_pipelines.kubeflow.formats import (
    DNS_LABEL,
    IMAGE,
    INT32,
    OBJECT_NAME,
    is_image,
    quantity,
)

NONE = "none"
"""For a rule that takes back the pool or the accelerator of an earlier one."""

_LAUNCHERS_VARIABLES = ("KFP_POD_NAME", "KFP_POD_UID", "KFP_RETRY_INDEX")
_LAUNCHERS_FOLDERS = ("/gcs", "/s3", "/minio", "/.local", "/.cache", "/.config", "/kfp-launcher")
_CREDENTIALS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

_IMAGES_FOLDERS = (
    *("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt", "/opt/paring", "/sbin", "/usr"),
    *("/usr/bin", "/usr/lib"),
)
"""Folders of an image that its programs need; a volume there hides them."""

_SYSTEMS_FOLDERS = (
    *("/proc", "/sys"),
    *(f"{run}/secrets/kubernetes.io/serviceaccount" for run in ("/run", "/var/run")),
)
"""Folders that Kubernetes mounts in each container, and keeps for itself."""

_MOST_CORES = 2**31
_LEAST_BYTES = 2**20
_MOST_BYTES = 2**63 - 1
_KFP_BYTES = re.compile(r"[0-9]+([MGTPE]|[KMGTPE]i)?")
_LONGEST_BACKOFF = 3600
"""Seconds after its first start at which Kubeflow tries a task no more."""


def _cores(text: str) -> str:
    cores = quantity(text)
    if 0 < cores < 0.001 or cores > _MOST_CORES:
        raise PydanticCustomError("cores", "must be 0, or cores from 1m to 2**31")
    return text


def _bytes(text: str) -> str:
    """Return the text as kfp takes it, which knows no fractions, exponents and no k."""
    size = quantity(text)
    if size > _MOST_BYTES:
        raise PydanticCustomError("bytes", "must be less than 2**63 bytes, which are 8Ei")
    if 0 < size < _LEAST_BYTES:
        raise PydanticCustomError(
            "bytes", "must be 0 or at least 1Mi; a number without a unit is one of bytes"
        )
    # Kubernetes rounds up too.
    return text if _KFP_BYTES.fullmatch(text) else str(math.ceil(size))


def _some_bytes(text: str) -> str:
    if not quantity(text):
        raise PydanticCustomError(
            "bytes", "must be more than 0, which Kubernetes takes as no limit; or leave it out"
        )
    return text


def _resource(name: str) -> str:
    """Refuse a name that Kubernetes takes for one of its own, without a domain."""
    domain = name.partition("/")[0]
    if f".{domain}".endswith(".kubernetes.io"):
        raise PydanticCustomError("resource", "must not be of the domain kubernetes.io")
    return name


def _text(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("text", "must be text without the character NUL")
    return value


def _image(value: str) -> str:
    if not is_image(value):
        raise PydanticCustomError("image", "must be {what}", {"what": IMAGE})
    return value


def _pool_name(name: str) -> str:
    if name in ("", NONE):
        raise PydanticCustomError(
            "pool", 'must be another name: none stands for any machine, in pool = "none"'
        )
    return name


def _environment_variable(name: str) -> str:
    if name in _LAUNCHERS_VARIABLES:
        raise PydanticCustomError("variable", "must not be one that Kubeflow itself sets")
    return name


def _no_credential(name: str) -> str:
    if name in _CREDENTIALS:
        raise PydanticCustomError(
            "credential", "must not be a credential, which env_from_secret keeps out of files"
        )
    return name


def _check_settings(variables: dict[str, str]) -> dict[str, str]:
    """Refuse values that Paring itself would refuse when the pod has started."""
    limit = variables.get(TIME_VARIABLE)
    if limit is not None:
        try:
            parse_duration(limit)
        except ParameterError as error:
            text = f"must hold a duration of up to a year in {TIME_VARIABLE}, as 57m, or 0"
            raise PydanticCustomError("variable", text, {"received": limit}) from error
    return variables


def _mount_path(path: str) -> str:
    normal = posixpath.normpath(path)
    if not path.startswith("/") or path.startswith("//") or normal == "/" or ":" in path:
        raise PydanticCustomError("path", "must be an absolute path below /, without a colon")
    if ".." in path.split("/"):
        raise PydanticCustomError("path", "must be a path without ..")
    if _is_below(normal, _LAUNCHERS_FOLDERS):
        raise PydanticCustomError("path", "must not be where Kubeflow mounts volumes of its own")
    if normal in _IMAGES_FOLDERS or _is_below(normal, _SYSTEMS_FOLDERS):
        raise PydanticCustomError("path", "must not hide a folder that the container itself needs")
    return normal


def _is_below(path: str, folders: tuple[str, ...]) -> bool:
    return any(f"{path}/".startswith(f"{folder}/") for folder in folders)


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
# As kfp takes them.
Cores = Annotated[
    str,
    Number,
    _like(r"([0-9]*[.])?[0-9]+m?", "cores, as 4, 0.5 or 500m"),
    AfterValidator(_cores),
]
Bytes = Annotated[
    str,
    Number,
    _like(
        r"([0-9]+([.][0-9]*)?|[.][0-9]+)(k|[MGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,3})?",
        "bytes, as 4Gi, 500M or 4000k",
    ),
    AfterValidator(_bytes),
]
SomeBytes = Annotated[Bytes, AfterValidator(_some_bytes)]
LabelKey = Annotated[
    str, _like(rf"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_NAME}", "a key as Kubernetes' labels have")
]
ResourceName = Annotated[
    str,
    _like(
        rf"{DNS_LABEL}([.]{DNS_LABEL})*/{_NAME}", "a resource with its domain, as nvidia.com/gpu"
    ),
    AfterValidator(_resource),
]
LabelValue = Annotated[str, _like(rf"({_NAME})?", "a value as Kubernetes' labels have")]
Reference = Annotated[str, AfterValidator(_image)]
Text = Annotated[str, AfterValidator(_text)]
Accelerator = Annotated[str, AfterValidator(_accelerator)]
ImageTarget = Literal["cpu", "gpu", "tensorrt", "tpu"]
PullPolicy = Literal["Always", "Never", "IfNotPresent"]
ObjectName = Annotated[str, _like(OBJECT_NAME, "the name of a Kubernetes object")]
# Kubeflow names a pod's volume for what it holds, and volumes' names have no dots.
VolumeName = Annotated[
    str, _like(DNS_LABEL, "a name of at most 63 small letters, digits and dashes, without dots")
]
DataKey = Annotated[str, _like(r"[-._a-zA-Z0-9]+", "a key as Secrets and ConfigMaps have")]
EnvName = Annotated[
    str,
    _like(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable"),
    AfterValidator(_environment_variable),
]
PlainName = Annotated[EnvName, AfterValidator(_no_credential)]
Environment = Annotated[dict[PlainName, Annotated[Text, Number]], AfterValidator(_check_settings)]
PoolName = Annotated[str, AfterValidator(_pool_name)]
SubPath = Annotated[str, _like(r"([^/].*)?", "a path that is not absolute")]
MountPath = Annotated[str, AfterValidator(_mount_path)]
UserId = Annotated[int, Field(ge=0, le=INT32)]
Count = Annotated[int, Field(ge=1, le=INT32)]
Wait = Annotated[int, Field(ge=0, le=_LONGEST_BACKOFF)]
Backoff = Annotated[int, Field(ge=1, le=_LONGEST_BACKOFF)]
StorePrefix = Annotated[
    str, _like(r"(gs|s3|minio)://\S*", "gs://, s3:// or minio://, with or without a bucket")
]
Topology = Literal["1x1", "2x2", "2x4"]
"""The arrangements of TPU v5e and v6e chips that lie in one host; a task is one pod."""


def chips(topology: Topology) -> int:
    """Return the number of chips of a TPU topology."""
    return math.prod(int(side) for side in topology.split("x"))
