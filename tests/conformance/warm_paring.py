"""Forks where everything is imported already, and runs `paring` there.

A fresh process takes seconds to import TensorFlow, before it does anything. Each command
has a process of its own here too, with its own exit code and output; but it is a fork of
this one, which has imported the libraries and done nothing with them. So commands share no
more than what an import leaves behind.
"""

import gc
import importlib
import json
import os
import sys
from pathlib import Path

from paring.benchmarking import process
from paring.models.quiet import quiet_tensorflow
from paring_pipelines.cli.main import main

LIBRARIES = ("apache_beam", "tensorflow_model_optimization", "tf_keras")
"""What several steps load besides TensorFlow."""


def serve(output: Path) -> None:
    """Fork for each line of arguments from standard input, and tell each exit code.

    Args:
        output: The file that gets what a command shows.
    """
    # Among the tests' other helpers; `forked_paring` puts their folder on the path.
    from warm_measuring import ShortSubprocess

    quiet_tensorflow()
    process.subprocess = ShortSubprocess  # type: ignore[attr-defined]
    process.can_fork = lambda spec: False
    for library in LIBRARIES:
        importlib.import_module(library)
    # So that what a fork collects is its own, and memory stays shared.
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            with output.open("wb") as shown, Path(os.devnull).open("rb") as nothing:
                os.dup2(nothing.fileno(), 0)
                os.dup2(shown.fileno(), 1)
                os.dup2(shown.fileno(), 2)
            main(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
