"""Metrics by a user's function: import, calls, and checks of the results."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.errors import ParameterError
from paring.system.user_modules import working_directory_first

Function = Callable[[Any, Any], Any]


def load_function(name: str) -> Function:
    """Return the function that MODULE:FUNCTION names, which runs the user's module.

    The module is looked for in the working directory first.

    Raises:
        ParameterError: There is no such module or function, or the module
            fails as it is imported.
    """
    module_name, _, function_name = name.partition(":")
    try:
        with working_directory_first():
            module = importlib.import_module(module_name)
    except Exception as error:
        # The module is the user's, and may raise anything.
        raise ParameterError(
            f"metric: module {module_name} can't be imported",
            received=f"{type(error).__name__}: {error}",
            remedy=f"give a module in {Path.cwd()} or one that is installed",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = sorted(
            one for one, value in vars(module).items() if callable(value) and one[0] != "_"
        )
        raise ParameterError(
            f"metric: module {module_name} has no function {function_name}",
            received=f"{module.__file__ or module_name} with {', '.join(names) or 'no functions'}",
            remedy="give a function(predictions, labels) that returns a value for each example",
        )
    found: Function = function
    return found


def higher_is_better(function: Function) -> bool:
    """Return whether more is better, which the attribute `lower_is_better` negates."""
    return not getattr(function, "lower_is_better", False)


def call_function(
    function: Function, name: str, predictions: Any, labels: Any, count: int
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
