"""TPUs of this machine, and the address of a TPU elsewhere."""

import os
import socket
import threading
from importlib.util import find_spec
from pathlib import Path

from paring.errors import MissingDependencyError

NAME = "TPU_NAME"
"""Variable that names a TPU: `local`, its address, or its name in Google's cloud."""

LOCAL = "local"

_VARIABLES = (NAME, "TPU_WORKER_ID")
"""Set where a TPU is reached by name, and on the hosts of a TPU node pool."""

_SKIP = "TPU_SKIP_MDS_QUERY"
_METADATA_SERVER = ("169.254.169.254", 80)
_PORT = 8470
_SECONDS = 5.0
_ROOT = Path("/")


def has_library() -> bool:
    """Return whether the library that drives TPUs is installed."""
    return find_spec("libtpu") is not None


def has_chips(root: Path = _ROOT) -> bool:
    """Return whether this machine, or this container, has a TPU's device files.

    VFIO's are those of any device that a program drives by itself, so they count where a variable
    says that there is a TPU.

    Args:
        root: Where the file system starts.
    """
    if any((root / "dev").glob("accel[0-9]*")):
        return True
    named = any(os.environ.get(variable) for variable in _VARIABLES)
    return named and any((root / "dev/vfio").glob("[0-9]*"))


def skip_metadata_server(root: Path = _ROOT) -> None:
    """Keep TensorFlow for TPUs from waiting for Google's metadata server without a TPU.

    Its library asks the server for the machine's TPUs when TensorFlow is imported, and repeats
    that for minutes where nothing answers. Call it before that import. A value that the user has
    set stays.
    """
    if has_library() and not has_chips(root):
        os.environ.setdefault(_SKIP, "1")


def require_tpu(root: Path = _ROOT) -> str:
    """Return the name of the TPU that this process may use, by TPU_NAME.

    Raises:
        MissingDependencyError: The library is missing, there is no TPU, or the one that is named
            can't be reached.
    """
    name = os.environ.get(NAME) or LOCAL
    if not has_library():
        raise _missing("libtpu not installed")
    if name == LOCAL:
        if not has_chips(root):
            raise _missing("no device /dev/accel0 or /dev/vfio/0")
        return name
    for host, port in _addresses(name):
        if not _answers(host, port):
            raise MissingDependencyError(
                f"the TPU that {NAME} names can't be reached: {host}:{port} does not answer",
                received=f"{NAME}={name}",
                remedy=f"set {NAME} to grpc://HOST:{_PORT} of a TPU that runs, to its name on a"
                f" machine in Google's cloud, or to {LOCAL} on the TPU's own host",
            )
    return name


def _missing(received: str) -> MissingDependencyError:
    variables = [f"{name}={os.environ.get(name) or 'not set'}" for name in _VARIABLES]
    return MissingDependencyError(
        "there is no TPU that this process can use",
        received="; ".join([received, *variables]),
        remedy="run on a host of a TPU with the image tpu, or with tensorflow-tpu installed, and"
        f" give the container the TPU (on Kubernetes: google.com/tpu); {NAME}=grpc://HOST:{_PORT}"
        " names one elsewhere",
    )


def _addresses(name: str) -> list[tuple[str, int]]:
    """Return what must answer before TensorFlow is given the name of a TPU.

    The name of a TPU in Google's cloud is looked up by the metadata server.
    """
    if "://" not in name:
        return [_METADATA_SERVER]
    result = []
    for address in name.split(","):
        host, _, port = address.rpartition("://")[2].rpartition(":")
        result.append((host, int(port)) if host and port.isdecimal() else (host or port, _PORT))
    return result


def _answers(host: str, port: int) -> bool:
    """Return whether a server takes connections; the name may take as long to look up again."""
    taken = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=_SECONDS).close()
        except OSError:
            return
        taken.set()

    # Looking up a name has no timeout of its own.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(2 * _SECONDS)
    return taken.is_set()
