"""Steps that end in other ways than by a result, for the server of `step_server`."""

import ctypes
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from paring.artifacts import Model, PrunedModel
from paring.errors import UnsupportedError
from paring.step import Input, Output, step
from paring.system import logs


class OddError(Exception):
    """It can't be sent to another process."""

    def __init__(self, item: int, two: int) -> None:
        super().__init__(f"{item} and {two}")


@step
def end_oddly(model: Input[Model], made: Output[PrunedModel], *, way: str = "") -> None:
    """End in the way that is requested."""
    (made.path / "process").write_text(str(os.getpid()))
    if way == "crash":
        ctypes.string_at(0)
    if way == "sleep":
        child = subprocess.Popen(["sleep", "301"], start_new_session=True)
        (made.path.parent / "started").write_text(f"{os.getpid()} {child.pid}")
        time.sleep(3000)
    if way == "meet":
        # Until the same step runs in another folder beside this one.
        (made.path.parent / "here").touch()
        while len(list(made.path.parent.parent.glob("*/here"))) < 2:
            time.sleep(0.02)
    if way == "hoard":
        held = []
        while True:
            held.append(b"x" * (8 << 20))
    if way == "quit":
        sys.exit("enough")
    if way == "vanish":
        os._exit(7)
    if way == "unsupported":
        raise UnsupportedError("this can't be done", received="a model", remedy="take another")
    if way == "odd":
        raise OddError(1, 2)
    if way == "orphan":
        child = subprocess.Popen(["sleep", "3002"], start_new_session=True)
        (made.path / "orphan").write_text(str(child.pid))
    if way == "speak":
        logs.event("something happened", number=float("nan"))
        logging.getLogger("paring.spoken").warning("a %s", "warning")
    facts = [Path.cwd(), os.environ.get("PARING_TEST_FACT", ""), tempfile.gettempdir()]
    (made.path / "facts").write_text("\n".join(map(str, facts)))


STEPS = {"end_oddly": end_oddly}
