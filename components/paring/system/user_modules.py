"""Import of modules that users write."""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paring.errors import ParameterError, nearest


@contextmanager
def working_directory_first() -> Iterator[None]:
    """Import modules of the working directory before all others."""
    here = str(Path.cwd())
    # In front, as `python -m` has it; taken out again, since other modules than
    # the user's own are none of its business.
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def import_function(parameter: str, name: str, *, remedy: str) -> Callable[..., Any]:
    """Return the function that MODULE:FUNCTION names, which runs the user's module.

    The module is looked for in the working directory first.

    Args:
        parameter: The parameter that names the function, for errors.
        name: MODULE:FUNCTION.
        remedy: Function to write, where the module has no such one.

    Raises:
        ParameterError: There is no such module or function, or the module fails as it is
            imported.
    """
    module_name, _, function_name = name.partition(":")
    try:
        with working_directory_first():
            module = importlib.import_module(module_name)
    except Exception as error:
        # The module is the user's, and may raise anything.
        raise ParameterError(
            f"{parameter}: module {module_name} can't be imported",
            received=f"{type(error).__name__}: {error}",
            remedy=f"give a module in {Path.cwd()} or one that is installed",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = sorted(
            item for item, value in vars(module).items() if callable(value) and item[0] != "_"
        )
        raise ParameterError(
            f"{parameter}: module {module_name} has no function {function_name!r}",
            received=module.__file__ or module_name,
            remedy=f"{nearest(function_name, names)}; or {remedy}" if names else remedy,
        )
    result: Callable[..., Any] = function
    return result
