"""Calls of a signature that was cut in parts, one part after another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.artifacts import Servable
from paring.models.arguments import by_name
from paring.models.numeric_parts import INTERFACE, POSTPROCESS, PREPROCESS, Interface
from paring.models.saved_model import SavedModel
from paring.models.signature_loading import load_signatures

# The same kernels on the same values; TensorFlow may fuse operators, and sum batches of other
# sizes in another order.
_TOLERANCE = 1e-5


class PartCalls:
    """The loaded parts of a signature.

    Args:
        parts: The folder with the text work and `interface.json`; see
            `paring.graphs.numeric_core`.
        core: A SavedModel with the core's signature, which was checked when it was opened; None
            for the text work alone.
        trusted: Whether the text work may hold operators that touch anything else.

    Attributes:
        interface: The tensors between the parts.
        loaded: What `tf.saved_model.load` returns of each part.
        functions: The function of each part's signature.

    Raises:
        ModelError: A part is missing or broken.
        UntrustedModelError: The text work holds operators that may touch files, processes or the
            network.
    """

    def __init__(self, parts: Path, core: Path | None = None, *, trusted: bool = False) -> None:
        self.interface = Interface.read(parts / INTERFACE)
        models = [SavedModel.open(Servable(parts / PREPROCESS, trusted=trusted))]
        if core is not None:
            models.append(SavedModel(core, self.interface.signature))
        if self.interface.post_outputs:
            models.append(SavedModel.open(Servable(parts / POSTPROCESS, trusted=trusted)))
        self.loaded = [load_signatures(item) for item in models]
        self.functions = [
            loaded.signatures[item.key] for loaded, item in zip(self.loaded, models, strict=True)
        ]
        self._calls = [by_name(function) for function in self.functions]

    def preprocess(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the first part gives: the core's inputs, and what goes past the core.

        Args:
            tensors: By the names of the source's inputs.
        """
        return self._calls[0](tensors)

    def core_inputs(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the core's inputs among what the first part gives."""
        return {item.name: given[item.name] for item in self.interface.core_inputs}

    def postprocess(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of the source's signature.

        Args:
            known: What the first part and the core give.
        """
        interface, last = self.interface, {}
        if interface.post_outputs:
            last = self._calls[-1]({name: known[name] for name in interface.post_inputs})
        return {
            name: last[name] if name in interface.post_outputs else known[source]
            for name, source in interface.outputs.items()
        }

    def whole(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Call all parts; tensors and results by the names of the source's signature."""
        given = self.preprocess(tensors)
        return self.postprocess({**given, **self._calls[1](self.core_inputs(given))})


def equal_outputs(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Return whether outputs are equal, of floats up to the order in which sums are taken."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if left.dtype.kind not in "fc":
        return bool(np.array_equal(left, right))
    return bool(np.allclose(left, right, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True))
