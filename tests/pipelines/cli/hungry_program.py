"""The `paring` command with one step, `fill`, which takes a stated amount of memory."""

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import paring.catalog
from paring.artifacts import Model, PrunedModel
from paring.errors import UnsupportedError
from paring.step import Input, Output, step

_MIB = 1 << 20
_AT_ONCE = 8


@step
def fill(
    model: Input[Model],
    filled: Output[PrunedModel],
    *,
    mib: int = 0,
    mib_per_second: int = 500,
    file_mib: int = 0,
    mode: str = "work",
) -> None:
    """Take memory, and say which process did."""
    (filled.path / "process").write_text(str(os.getpid()))
    Path(tempfile.mkdtemp(), "scratch").write_text("scratch")
    if mode == "unsupported":
        raise UnsupportedError("this layer can't be filled")
    if mode == "vanish":
        os._exit(1)
    if mode == "refused":
        raise MemoryError("no more")
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if mode == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if mode in ("child", "orphan"):
        hold = f"held = b'x' * {mib * _MIB}; import time; print(flush=True); time.sleep(300)"
        child = subprocess.Popen([sys.executable, "-c", hold], start_new_session=True)
        if mode == "child":
            child.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    if mode == "linger":
        # As TensorFlow does on a busy machine when the interpreter ends.
        atexit.register(time.sleep, 300)
    if mode in ("wait", "deaf", "linger"):
        (filled.path.parent / "started").write_text(str(os.getpid()))
        time.sleep(300)
    if file_mib:
        with (filled.path / "file").open("wb") as stream:
            for _ in range(file_mib):
                stream.write(bytes(_MIB))
        with (filled.path / "file").open("rb") as stream:
            while stream.read(_MIB):
                pass
    held = []
    for _ in range(0, mib, _AT_ONCE):
        held.append(b"x" * (_AT_ONCE * _MIB))
        time.sleep(_AT_ONCE / mib_per_second)


paring.catalog.STEPS = {"fill": fill}  # type: ignore[misc]

if __name__ == "__main__":
    from paring_pipelines.cli.main import main

    main()
