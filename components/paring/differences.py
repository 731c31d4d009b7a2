"""How far the outputs of two models lie apart."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def difference(reference: Mapping[str, Any], found: Mapping[str, Any]) -> float:
    """How far two models' outputs lie apart, from 0 to 1; the worst output's.

    For class scores, [batch, classes], it is the share of examples with another
    class; for other outputs the root mean square of the difference over the
    standard deviation of the reference, at most 1.

    Args:
        reference: Arrays [batch, ...] by output.
        found: The other model's, of the same names and shapes.
    """
    return max(_difference(reference[name], found[name]) for name in reference)


def _difference(reference: NDArray[Any], found: NDArray[Any]) -> float:
    if np.isnan(found).any():
        return 1.0
    if reference.ndim == 2 and reference.shape[1] > 1:
        return float(np.mean(reference.argmax(axis=1) != found.argmax(axis=1)))
    spread = float(reference.std())
    error = float(np.sqrt(np.mean(np.square(reference - found))))
    return min(error / spread, 1.0) if spread else float(error > 0)


def largest_relative(reference: Mapping[str, Any], found: Mapping[str, Any]) -> float:
    """The largest absolute difference over the largest absolute value of the reference.

    Args:
        reference: Arrays by output.
        found: The other model's, of the same names and shapes.

    Returns:
        The worst output's; infinite where a value is NaN or has no counterpart.
    """
    return max(_largest_relative(reference[name], found[name]) for name in reference)


def _largest_relative(reference: NDArray[Any], found: NDArray[Any]) -> float:
    if reference.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    error = float(np.abs(reference - found).max(initial=0))
    largest = float(np.abs(reference).max(initial=0))
    return error / largest if largest else error
