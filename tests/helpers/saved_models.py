"""SavedModels of tf_keras for tests in which only the signature matters."""

from pathlib import Path
from typing import Any


def save_signature(network: Any, folder: Path) -> None:
    """Save a network as `network.save(folder)` does, but without the traced calls of its layers.

    The signature, the variables and Keras's metadata are the same. Keras rebuilds layers of its
    own from their configuration, and nothing else reads the calls, of which it traces four for
    each layer: 24 s of CPU time for two recurrent layers, instead of one or two.

    Args:
        network: A `tf_keras.Model` without layers of its own classes, none of them stateful.
        folder: Must not exist yet.
    """
    from tf_keras.src.saving.legacy.saving_utils import trace_model_call

    network.save(
        folder,
        save_format="tf",
        include_optimizer=False,
        save_traces=False,
        signatures=trace_model_call(network),
    )
