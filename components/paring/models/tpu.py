"""The TPU of this host: whether there is one, and how TensorFlow opens it.

One process at a time holds a TPU, from the import of TensorFlow until it ends. So the processes
that Paring starts have none, but for one that measures.
"""

import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

from paring.errors import MissingDependencyError, UnsupportedError
from paring.system.children import TPU_LIBRARY

# Set where a TPU is reached by name, and on the hosts of a TPU node pool.
_VARIABLES = ("TPU_NAME", "TPU_WORKER_ID")


def has_tpu() -> bool:
    """Return whether this host has a TPU that TensorFlow can open in this process."""
    reachable = any(os.environ.get(name) for name in _VARIABLES)
    loaded = os.environ.get(TPU_LIBRARY) != "0"
    return reachable and loaded and find_spec("libtpu") is not None


def leave_tpu_to_child() -> bool:
    """Keep this process from holding the TPU of the host; return whether there is one.

    Call it before TensorFlow is imported.

    Raises:
        UnsupportedError: TensorFlow is imported, and so holds the TPU.
    """
    if not has_tpu():
        return False
    if "tensorflow" in sys.modules:
        raise UnsupportedError(
            "a child process has to open the TPU, and this process holds it",
            received="TensorFlow is imported",
            remedy="run the step in a process of its own: paring step NAME",
        )
    os.environ[TPU_LIBRARY] = "0"
    return True


def require_tpu() -> None:
    """Refuse to go on where there is no TPU.

    Raises:
        MissingDependencyError: There is none.
    """
    if has_tpu():
        return
    raise MissingDependencyError(
        "strategy tpu: there is no TPU here",
        received=f"libtpu {'installed' if find_spec('libtpu') else 'not installed'};"
        f" {', '.join(_VARIABLES)} not set",
        remedy="run on a host of a TPU with the image tpu, or with tensorflow-tpu"
        " installed; where no variable is set, TPU_NAME=local names the host's own",
    )


@dataclass(frozen=True)
class Tpu:
    """The opened TPU of this process.

    Attributes:
        resolver: TensorFlow's cluster resolver of it.
        topology: Arrangement of its chips.
    """

    resolver: Any
    topology: Any

    def all_cores(self) -> Any:
        """Return a TPUStrategy with a replica on each core, for training."""
        import tensorflow as tf

        return tf.distribute.TPUStrategy(self.resolver)

    def one_core(self) -> Any:
        """Return a TPUStrategy with a single replica, for inference: one call is one program."""
        import tensorflow as tf

        assignment = tf.tpu.experimental.DeviceAssignment.build(self.topology, num_replicas=1)
        return tf.distribute.TPUStrategy(self.resolver, experimental_device_assignment=assignment)


@cache
def open_tpu() -> Tpu:
    """Open the TPU for this process.

    Raises:
        MissingDependencyError: There is none.
    """
    require_tpu()
    import tensorflow as tf

    name = os.environ.get("TPU_NAME", "local")
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
    tf.config.experimental_connect_to_cluster(resolver)
    return Tpu(resolver, tf.tpu.experimental.initialize_tpu_system(resolver))
