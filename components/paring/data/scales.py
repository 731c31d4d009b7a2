"""Detection of inputs whose channels' scales are too unlike for one range of integers.

Integers have one scale for all channels of a tensor. Where a table's columns are thousandths
and thousands, that rounds whole columns to zero before any normalization sees them.
"""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A channel that gets fewer of the steps has lost what it says.
_FEWEST_STEPS = 8
INT8_STEPS = 2**8 - 1
INT16_STEPS = 2**16 - 1
MEASURED_CALLS = 200
"""Calls that scales are measured on, at most."""


class Scales:
    """Range of each channel of a tensor, over the values that were added."""

    def __init__(self) -> None:
        self._lows: Any = np.inf
        self._highs: Any = -np.inf

    def add(self, values: NDArray[Any]) -> None:
        """Count in values of shape [..., channels]."""
        if values.ndim < 2 or not values.size:
            return
        rows = values.reshape(-1, values.shape[-1]).astype(np.float64)
        self._lows = np.minimum(self._lows, rows.min(axis=0))
        self._highs = np.maximum(self._highs, rows.max(axis=0))

    def unlike(self, steps: int = INT8_STEPS) -> bool:
        """Return whether `steps` integers for all channels leave one of them hardly a step.

        Channels that are constant have nothing to lose.
        """
        if np.ndim(self._lows) == 0:
            return False
        widths = self._highs - self._lows
        # Zero is one of the integers.
        whole = max(self._highs.max(), 0.0) - min(self._lows.min(), 0.0)
        varies = widths > 0
        return bool(np.any(widths[varies] * steps < _FEWEST_STEPS * whole))


def unlike_inputs(
    batches: Iterable[Mapping[str, NDArray[Any]]], steps: int = INT8_STEPS
) -> list[str]:
    """Return the names of the float inputs whose channels have unlike scales.

    Args:
        batches: The inputs of one call of a model after another, by name.
        steps: How many integers there are.
    """
    seen: dict[str, Scales] = {}
    for features in islice(batches, MEASURED_CALLS):
        for name, values in features.items():
            if values.dtype.kind == "f":
                seen.setdefault(name, Scales()).add(values)
    return [name for name, scales in seen.items() if scales.unlike(steps)]
