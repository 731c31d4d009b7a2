"""Calls of a SavedModel's signature that XLA compiles for the shapes of each batch."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from paring.errors import UnsupportedError
from paring.models.tpu import has_tpu, open_tpu
from paring.models.xla import refusal_in

Call = Callable[[Mapping[str, Any]], dict[str, Any]]
"""From the tensors of a batch to those of the outputs, both by name."""


@cache
def accelerator_strategy() -> Any:
    """Return TensorFlow's strategy for one core of the TPU, or without one for the first device.

    It is the same one for the whole process, as the TPU is.

    Raises:
        MissingDependencyError: The TPU can't be opened.
    """
    if has_tpu():
        return open_tpu().one_core()
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return tf.distribute.OneDeviceStrategy(devices[0].name)


def compiled_call(call: Call, strategy: Any, model: Path) -> Call:
    """Return a function that runs `call` as one program, compiled when a shape first comes.

    Args:
        call: Calls a signature of a model that was loaded in the strategy's scope.
        strategy: From `accelerator_strategy`.
        model: The SavedModel's folder, for messages.
    """
    import tensorflow as tf

    # TPUStrategy compiles what it runs by itself.
    jit = None if isinstance(strategy, tf.distribute.TPUStrategy) else True
    compiled = tf.function(call, jit_compile=jit)
    program = tf.function(lambda tensors: strategy.run(compiled, args=(tensors,)))

    def run(tensors: Mapping[str, Any]) -> dict[str, Any]:
        try:
            outputs = program(dict(tensors))
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            refusal = refusal_in(error)
            if refusal is None:
                raise
            raise UnsupportedError(
                f"XLA can't compile {model}",
                received=str(refusal),
                remedy="move this operator out of the model, as into the preparation of its"
                " inputs, or run it on a processor or a GPU without XLA",
            ) from error
        return {
            name: strategy.experimental_local_results(value)[0] for name, value in outputs.items()
        }

    return run
