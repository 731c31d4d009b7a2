"""Kills those that submit, at random points, while training goes on; then lets them end.

A process of its own with one thread, which forks: what submits starts in milliseconds,
with everything imported, and can be killed hundreds of times in a minute.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from paring.errors import ClusterError
from paring_pipelines.cluster.client import Kubeflow
from paring_pipelines.cluster.connection import Connection
from paring_pipelines.cluster.lag import WatchMetrics
from paring_pipelines.cluster.package import read_package
from paring_pipelines.cluster.sources import source_digest
from paring_pipelines.cluster.submit import Plan, submit_claimed
from paring_pipelines.cluster.watch import Watched, Watcher

MARKER = "_SUCCESS"


@dataclass
class Harness:
    """What is run and killed.

    Attributes:
        url: Where Kubeflow is.
        package: The compiled pipeline.
        folder: Gets the outputs of training, those that `submit` is given, and the claims.
        timeout: Seconds that a client waits for an answer.
        seed: Decides when what is killed.
        outputs: Folders that `watch` finds.
        models: Folders that `submit` is given.
        kills: How many processes were killed at work.
        ended: How many came to their end.
    """

    url: str
    package: Path
    folder: Path
    timeout: float
    seed: int
    outputs: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    kills: int = 0
    ended: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._plan = Plan(read_package(self.package))
        self._examples = self.folder / "examples.npz"
        self._examples.write_bytes(b"arrays")
        self.found_again = self.folder / "found-again.txt"
        self.found_again.touch()
        # What is killed ends at no more than this, at first; then at what was seen.
        self._longest = 0.2

    def run(self, kills: int) -> None:
        """Kill so many, then let everything come to its end."""
        while self.kills < kills:
            for _ in range(self._random.choice([0, 1, 1, 2])):
                self._train()
            work = self._submit if self.models and self._random.random() < 0.2 else self._watch
            self._start(work, self._random.uniform(0, self._longest))
        for work in (self._watch, *(lambda one=one: self._submit(one) for one in self.models)):
            while not self._start(work):
                time.sleep(self.timeout / 2)

    def _train(self) -> None:
        """Finish an output: what is in it first, and the marker at the end."""
        kind = self.models if self._random.random() < 0.2 else self.outputs
        name = "submitted" if kind is self.models else "watched"
        place = self.folder / name / f"{len(kind):04}"
        place.mkdir(parents=True)
        (place / "saved_model.pb").write_text(str(place))
        (place / MARKER).touch()
        kind.append(str(place))

    def _start(self, work: Callable[[], bool], killed_after: float | None = None) -> bool:
        """Do `work` in a process of its own; whether it says that nothing is left."""
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            # Whatever happens, this is not the harness.
            try:
                os._exit(0 if work() else 1)
            except ClusterError:
                os._exit(1)
            finally:
                os._exit(2)
        if killed_after is not None:
            time.sleep(killed_after)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            self.kills += 1
            return False
        if os.waitstatus_to_exitcode(status) == 2:
            raise RuntimeError("what was to be killed broke")
        self.ended += 1
        self._longest = 0.8 * self._longest + 0.2 * 1.5 * (time.monotonic() - start)
        return os.waitstatus_to_exitcode(status) == 0

    def _client(self) -> Kubeflow:
        return Kubeflow(Connection(self.url, timeout=self.timeout, first_wait=0.02))

    def _watch(self) -> bool:
        watched = Watched(
            str(self.folder / "watched"),
            str(self._examples),
            str(self.folder / "claims"),
            MARKER,
            lease=4.2 * self.timeout,
        )
        metrics = WatchMetrics()
        watcher = Watcher(self._client(), self._plan, watched, metrics, self._note)
        problem = watcher.look()
        return (
            problem is None
            and metrics.registry.get_sample_value("paring_watch_waiting_outputs") == 0
        )

    def _note(self, what: str, /, **facts: object) -> None:
        if what == "was submitted before":
            with self.found_again.open("a") as file:
                file.write(f"{facts['output']}\n")

    def _submit(self, model: str = "") -> bool:
        model = model or self.models[os.getpid() % len(self.models)]
        digest = source_digest(model, str(self._examples))
        state = str(self.folder / "submit-claims")
        submit_claimed(self._client(), self._plan, model, str(self._examples), digest, state)
        return True


def main() -> None:
    """Run by JSON from standard input, and tell by JSON on standard output."""
    given = json.load(sys.stdin)
    harness = Harness(
        given["url"], Path(given["package"]), Path(given["folder"]), given["timeout"], given["seed"]
    )
    harness.run(given["kills"])
    json.dump(
        {
            "outputs": harness.outputs,
            "models": harness.models,
            "kills": harness.kills,
            "ended": harness.ended,
            "found_again": len(set(harness.found_again.read_text().splitlines())),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
