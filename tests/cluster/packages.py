"""Default pipeline, compiled for each target and each kind of cluster."""

import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conformance.kfp_pods import tasks
from tests.conformance.kfp_runner import Task

from paring_pipelines.cli.main import main

K8S = Path(__file__).parents[2] / "k8s"

PLAIN = (K8S / "runtime.toml",)
GKE = (*PLAIN, K8S / "runtime.gke.toml")
RUNTIMES = {"plain": PLAIN, "gke": GKE}
"""Runtime files with plain labels, and with Google's."""

TARGETS = ("cpu-server", "mobile", "gpu", "tpu")


def compile_package(out: Path, *options: str) -> None:
    """Run `paring compile`.

    Raises:
        RuntimeError: The command failed.
    """
    try:
        main(["compile", "--out", str(out), *options])
    except SystemExit as ended:
        if ended.code:
            raise RuntimeError(f"paring compile ended with {ended.code}") from ended


@cache
def default_tasks(target: str, runtimes: Sequence[Path]) -> list[Task]:
    """Return the tasks of the default pipeline, with the optional ones behind `select`."""
    files = [word for file in runtimes for word in ("--runtime", str(file))]
    with TemporaryDirectory() as folder:
        out = Path(folder, "package.yaml")
        compile_package(out, "--target", target, "--tune-batch", *files)
        return list(tasks(out))


def step_of(task: Task) -> str:
    """Return the name of the step that a task runs."""
    (step,) = (two for item, two in itertools.pairwise(task.command) if item == "step")
    return step
