"""Calls of functions in child processes: `python -m paring.system.child_calls FOLDER`.

Libraries keep memory for as long as their process runs. That of a child ends with it.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from paring.errors import CrashError, StepFailedError, first_line
from paring.system.children import describe_exit, is_picklable, module_command, module_environment

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_CALL, _ANSWER = "call.pickle", "answer.pickle"


def call_in_child(
    function: Callable[_Parameters, _Result],
    /,
    *arguments: _Parameters.args,
    **options: _Parameters.kwargs,
) -> _Result:
    """Call a function in a fresh Python process, and return its result.

    The child is killed if this process is interrupted. What it writes to stderr is shown.

    Args:
        function: A function of a module.
        arguments: Its positional arguments. They and the result are pickled.
        options: Its keyword arguments.

    Raises:
        CrashError: The child has ended without a result.
        Exception: The exception that the function has raised, with the child's traceback as a note.
    """
    with tempfile.TemporaryDirectory(prefix="paring-call-") as folder:
        call, answer = Path(folder) / _CALL, Path(folder) / _ANSWER
        call.write_bytes(pickle.dumps((function, arguments, options)))
        child = subprocess.Popen(
            [*module_command("paring.system.child_calls"), folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=module_environment(),
            start_new_session=True,
        )
        try:
            code = child.wait()
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        if not answer.is_file():
            raise CrashError(
                f"the process of {function.__name__} has ended without a result",
                received=describe_exit(code),
                remedy="free memory; most often it ran out, or a library has ended the process:"
                " see what it has written above",
            )
        result, error = pickle.loads(answer.read_bytes())
    if error is not None:
        raise error
    value: _Result = result
    return value


def call_here(
    function: Callable[_Parameters, _Result],
    /,
    *arguments: _Parameters.args,
    **options: _Parameters.kwargs,
) -> _Result:
    """Call a function in this process; for use in place of `call_in_child`."""
    return function(*arguments, **options)


def main() -> None:
    """Call the function in the folder of the first argument, and write the answer there."""
    folder = Path(sys.argv[1])
    function, arguments, options = pickle.loads((folder / _CALL).read_bytes())
    try:
        answer = pickle.dumps((function(*arguments, **options), None))
    except Exception as error:
        sent = error if is_picklable(error) else StepFailedError(first_line(error))
        sent.add_note(traceback.format_exc())
        answer = pickle.dumps((None, sent))
    # Written beside and renamed: a child that is killed meanwhile has no answer.
    part = folder / f"{_ANSWER}.part"
    part.write_bytes(answer)
    part.rename(folder / _ANSWER)


if __name__ == "__main__":
    main()
