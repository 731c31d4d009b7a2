"""Metrics by a user's function: import, calls, and checks of the results."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.errors import ParameterError
from paring.system.user_modules import import_function

Function = Callable[[Any, Any], Any]


def load_function(name: str) -> Function:
    """Return the metric that MODULE:FUNCTION names; see `import_function`."""
    return import_function(
        "metric",
        name,
        remedy="write a function(predictions, labels) that returns a value for each example",
    )


def higher_is_better(function: Function) -> bool:
    """Return whether more is better, which the attribute `lower_is_better` negates."""
    return not getattr(function, "lower_is_better", False)


def call_function(
    function: Function, name: str, *, predictions: Any, labels: Any, count: int
) -> NDArray[np.float64]:
    """Return the function's score of each of `count` examples, float64 [count].

    Args:
        function: From `load_function`.
        name: Name of the function in messages.
        predictions: The model's output [count, ...], or of a model with several
            outputs a dict of them by name.
        labels: The same of the labels.
        count: Examples in the batch.

    Raises:
        ParameterError: It fails, or returns something else.
    """
    try:
        returned = function(predictions, labels)
    except Exception as error:
        # The function is the user's, and may raise anything.
        raise ParameterError(
            f"metric: {name} failed on a batch of {count} examples",
            received=f"{type(error).__name__}: {error}",
            remedy="try it on a batch of predictions and labels by itself",
        ) from error
    try:
        values = np.asarray(returned, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _wrong(name, count, type(returned).__name__) from error
    if values.shape != (count,):
        raise _wrong(name, count, f"shape {list(values.shape)}")
    if not np.isfinite(values).all():
        raise _wrong(name, count, "NaN or infinity")
    return values


def _wrong(name: str, count: int, received: str) -> ParameterError:
    return ParameterError(
        f"metric: {name} must return one finite number for each of the {count} examples",
        received=received,
        remedy="return an array of shape [batch], as np.abs(predictions - labels).mean(axis=1) is",
    )
