"""The TPU of this host: whether there is one, and how TensorFlow opens it.

One process at a time holds a TPU, from the import of TensorFlow until it ends. So the processes
that Paring starts have none, but for one that measures.
"""

import logging
import os
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

from paring.errors import UnsupportedError
from paring.system.children import TPU_LIBRARY
from paring.system.tpu import LOCAL, NAME, has_chips, has_library, require_tpu

_log = logging.getLogger(__name__)


def has_tpu() -> bool:
    """Return whether this process may open a TPU: of this host, or one that a variable names."""
    if os.environ.get(TPU_LIBRARY) == "0" or not has_library():
        return False
    name = os.environ.get(NAME, "")
    if has_chips() or name not in ("", LOCAL):
        return True
    if name:
        _log.warning("%s=%s, and there is no TPU here: computing without one", NAME, name)
    return False


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
    name = require_tpu()
    import tensorflow as tf

    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
    tf.config.experimental_connect_to_cluster(resolver)
    return Tpu(resolver, tf.tpu.experimental.initialize_tpu_system(resolver))
