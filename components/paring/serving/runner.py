"""Runner of a delivered model: text work, the numeric core in its runtime, and what follows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.artifacts import SERVING_DIR, Servable
from paring.errors import ModelError
from paring.models.numeric_parts import INTERFACE
from paring.runtimes import Runtime, open_runtime, run_rows

Outputs = dict[str, NDArray[Any]]
"""An array [batch, ...] for each output of the signature; text as objects."""


class Runner:
    """A delivered model, called as the source's signature is.

    Args:
        folder: See `load_runner`.
        threads: See there.
        trusted: See there.
    """

    def __init__(self, folder: Path, *, threads: int = 0, trusted: bool = False) -> None:
        served = folder / SERVING_DIR if (folder / SERVING_DIR).is_dir() else folder
        self._parts: Any = None
        signature = Servable.load(folder).signature
        if (served / INTERFACE).is_file():
            from paring.models.part_calls import PartCalls

            self._parts = PartCalls(served, trusted=trusted)
            signature = self._parts.interface.signature
        model = Servable(served, signature=signature, trusted=trusted, engine_trusted=trusted)
        self._runtime: Runtime = open_runtime(model, threads=threads)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the signature's inputs."""
        if self._parts is not None:
            return tuple(item.name for item in self._parts.interface.inputs)
        return tuple(self._runtime.inputs)

    def run(self, inputs: Mapping[str, Any]) -> Outputs:
        """Return the outputs for a batch.

        Args:
            inputs: For each input an array [batch, ...] in the signature's dtype; of text, also
                a list of bytes or str, such as serialized tf.Examples.

        Raises:
            ModelError: Names, dtypes or shapes are not the signature's.
        """
        if set(inputs) != set(self.input_names):
            raise ModelError(
                "the model takes other inputs",
                received=", ".join(sorted(inputs)) or "no inputs",
                remedy=f"give {', '.join(self.input_names)}",
            )
        if self._parts is None:
            return run_rows(self._runtime, {name: _array(item) for name, item in inputs.items()})
        import tensorflow as tf

        given = self._parts.preprocess({name: tf.constant(item) for name, item in inputs.items()})
        features = {name: item.numpy() for name, item in self._parts.core_inputs(given).items()}
        results = run_rows(self._runtime, features)
        known = {**given, **{name: tf.constant(array) for name, array in results.items()}}
        return {name: np.asarray(item) for name, item in self._parts.postprocess(known).items()}

    def close(self) -> None:
        """Let go of the model."""
        self._runtime.close()


def load_runner(folder: str | Path, *, threads: int = 0, trust_model: bool = False) -> Runner:
    """Load a model that Paring selected or pushed, whatever form it is in.

    A model with text work that is served as a TFLite, ONNX, OpenVINO or TensorRT file has that
    work beside it, and both are called in turn.

    Examples:
        >>> runner = paring.load_runner(paring.convert_tflite(network).path)
        >>> runner.input_names
        ('image',)

    Args:
        folder: A version's folder of a destination, or an artifact with `Format-Serving/`.
        threads: Threads for one call; 0 leaves the number to the runtime.
        trust_model: Whether code that the model holds may run.

    Returns:
        The loaded model; `run` takes and gives arrays by the names of the source's signature.

    Raises:
        ModelError: There is no model, or it is broken.
        UntrustedModelError: It holds code, and trust_model is off.
    """
    return Runner(Path(folder), threads=threads, trusted=trust_model)


def _array(item: Any) -> NDArray[Any]:
    array = np.asarray(item)
    if array.dtype.kind == "U":
        array = np.char.encode(array, "utf-8")
    return array.astype(object) if array.dtype.kind == "S" else array
