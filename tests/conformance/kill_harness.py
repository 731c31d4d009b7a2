"""Kills and stops those that submit, at random points, while training goes on.

A process of its own with one thread, which forks: what submits starts in milliseconds,
with everything imported, and can be killed hundreds of times in a minute. Meanwhile the
examples and the package change, claims of some outputs hold what nobody of ours wrote,
some processes have no hard links, and some are stopped for longer than their leases and
then go on. At the end every process ends, and the printed results are compared.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance.no_links import LINKS, refuse

from paring.errors import ClusterError
from paring_pipelines.kubeflow.client import Kubeflow
from paring_pipelines.kubeflow.connection import Connection
from paring_pipelines.kubeflow.leases import LeaseExpiredError
from paring_pipelines.kubeflow.metrics import WatchMetrics
from paring_pipelines.kubeflow.outputs import find_outputs
from paring_pipelines.kubeflow.package import read_package
from paring_pipelines.kubeflow.sources import source_digest
from paring_pipelines.kubeflow.submit import Plan, submit, submit_claimed
from paring_pipelines.kubeflow.types import Run
from paring_pipelines.kubeflow.watch import Watched, Watcher

MARKER = "_SUCCESS"
LEASE = 4.2
"""Of a claim, in time-outs."""

STOPPED = 5.5
"""How long a process is stopped, in time-outs: longer than its claim and its lock last."""

ODD = (b"", b"{", b"[]", b"\xff", b'{"until": "soon"}', b'{"until": 0}')
"""What claims hold that nobody of ours wrote."""


@dataclass
class Harness:
    """Processes that are run and killed.

    Attributes:
        url: Where Kubeflow is.
        package: The compiled pipeline.
        folder: Gets the outputs of training, those that `submit` is given, and the claims.
        timeout: Seconds that a client waits for an answer.
        seed: Decides when what is killed.
        outputs: Folders that `watch` finds.
        models: Folders that `submit` is given.
        odd: Claims with odd content.
        kills: How many processes were killed at work.
        ended: How many ended by themselves.
        stopped: Processes that are stopped, and when they go on.
        stops: How many were stopped at work.
        changes: How often the examples or the package changed.
    """

    url: str
    package: Path
    folder: Path
    timeout: float
    seed: int
    outputs: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    odd: list[Path] = field(default_factory=list)
    kills: int = 0
    ended: int = 0
    stopped: dict[int, float] = field(default_factory=dict)
    stops: int = 0
    changes: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._plan = Plan(read_package(self.package))
        self._submitted_plan = self._plan
        self._examples = self.folder / "examples.npz"
        self._examples.write_bytes(b"arrays")
        # `submit` names a run for its examples: other examples would be another run.
        self._submitted_examples = self.folder / "submitted.npz"
        self._submitted_examples.write_bytes(b"arrays")
        self.found_again = self.folder / "found-again.txt"
        self.printed = self.folder / "printed.txt"
        for file in (self.found_again, self.printed):
            file.touch()
        # What is killed ends at no more than this, at first; then at what was seen.
        self._longest = 0.2

    def run(self, kills: int) -> None:
        """Kill `kills` processes, then wait until all have ended."""
        while self.kills < kills:
            for _ in range(self._random.choice([0, 1, 1, 2])):
                self._train()
            self._change()
            self._go_on()
            drawn = self._random.random()
            if self.models and drawn < 0.2:
                work = self._submit
            elif self.models and drawn < 0.25:
                self._submit_at_once()
                continue
            else:
                work = self._watch
            signal_ = signal.SIGSTOP if self._random.random() < 0.08 else signal.SIGKILL
            self._start(work, self._random.uniform(0, self._longest), signal_)
        self._go_on(wait=True)
        for claim in self.odd:
            claim.unlink()
        for work in (
            self._watch,
            *(lambda item=model: self._submit(item) for model in self.models),
        ):
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
        if kind is self.outputs and self._random.random() < 0.05:
            self._claim_oddly(str(place))

    def _claim_oddly(self, place: str) -> None:
        (output,) = find_outputs(place, marker=MARKER, settle=0.0, now=time.time()).finished
        claim = self.folder / "claims" / output.key / "claim-1"
        claim.parent.mkdir(parents=True)
        claim.write_bytes(self._random.choice(ODD))
        self.odd.append(claim)

    def _change(self) -> None:
        """Now and then: other examples, or another package, for all that follows."""
        drawn = self._random.random()
        if drawn > 0.1:
            return
        self.changes += 1
        if drawn < 0.05:
            staged = self._examples.with_suffix(".new")
            staged.write_bytes(f"arrays {self.changes}".encode())
            staged.replace(self._examples)
        else:
            self._plan = Plan(self._plan.package, pipeline_root=f"s3://root/{self.changes}")

    def _start(
        self,
        work: Callable[[], bool],
        signalled_after: float | None = None,
        signal_: signal.Signals = signal.SIGKILL,
    ) -> bool:
        """Do `work` in a process of its own; whether it says that nothing is left."""
        start = time.monotonic()
        child = self._fork(work)
        if signalled_after is not None:
            time.sleep(signalled_after)
            os.kill(child, signal_)
        code = self._awaited(child)
        if code is not None:
            longest = 0.8 * self._longest + 0.2 * 1.5 * (time.monotonic() - start)
            # Whatever the machine is busy with, the test ends in a few minutes.
            self._longest = min(longest, self.timeout)
        return code == 0

    def _awaited(self, child: int) -> int | None:
        """Wait until a child has ended or is stopped; its exit code where it ended."""
        _, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            self.stops += 1
            self.stopped[child] = time.monotonic() + STOPPED * self.timeout
            return None
        if os.WIFSIGNALED(status):
            self.kills += 1
            return None
        code = os.waitstatus_to_exitcode(status)
        if code == 2:
            raise RuntimeError("what was to be killed broke")
        self.ended += 1
        return code

    def _fork(self, work: Callable[[], bool]) -> int:
        """Start `work` in a process of its own, one in four without hard links."""
        without_links = self._random.random() < 0.25
        child = os.fork()
        if child == 0:
            # Whatever happens, this is not the harness.
            try:
                if without_links:
                    refuse(LINKS)
                os._exit(0 if work() else 1)
            except (ClusterError, LeaseExpiredError):
                os._exit(1)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(2)
        return child

    def _go_on(self, *, wait: bool = False) -> None:
        """Let those go on that were stopped for long enough; with `wait`, all of them."""
        for child, until in list(self.stopped.items()):
            if wait:
                time.sleep(max(0.0, until - time.monotonic()))
            elif time.monotonic() < until:
                continue
            del self.stopped[child]
            os.kill(child, signal.SIGCONT)
            self._awaited(child)

    def _submit_at_once(self) -> None:
        """Six that submit the same, without claims, at the same moment."""
        model = self._random.choice(self.models)
        children = [self._fork(lambda: self._submit_plainly(model)) for _ in range(6)]
        for child in children:
            self._awaited(child)

    def _client(self) -> Kubeflow:
        return Kubeflow(Connection(self.url, timeout=self.timeout, first_wait=0.02))

    def _watch(self) -> bool:
        watched = Watched(
            str(self.folder / "watched"),
            str(self._examples),
            str(self.folder / "claims"),
            MARKER,
            lease=LEASE * self.timeout,
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
            _append(self.found_again, str(facts["output"]))
        if "run" in facts:
            _append(self.printed, str(facts["run"]))

    def _submit(self, model: str = "") -> bool:
        model = model or self.models[os.getpid() % len(self.models)]
        digest = source_digest(model, str(self._submitted_examples))
        state = str(self.folder / "submit-claims")
        made = submit_claimed(
            self._client(),
            self._submitted_plan,
            model=model,
            examples=str(self._submitted_examples),
            digest=digest,
            state=state,
        )
        return self._print(made.first)

    def _submit_plainly(self, model: str) -> bool:
        digest = source_digest(model, str(self._submitted_examples))
        examples = str(self._submitted_examples)
        made = submit(
            self._client(), self._submitted_plan, model=model, examples=examples, digest=digest
        )
        return self._print(made.first)

    def _print(self, run: Run) -> bool:
        _append(self.printed, run.id)
        return True


def _append(file: Path, line: str) -> None:
    with file.open("a") as stream:
        stream.write(f"{line}\n")


def main() -> None:
    """Run by JSON from standard input, and tell by JSON on standard output."""
    given = json.load(sys.stdin)
    harness = Harness(
        given["url"], Path(given["package"]), Path(given["folder"]), given["timeout"], given["seed"]
    )
    try:
        harness.run(given["kills"])
    finally:
        for child in harness.stopped:
            os.kill(child, signal.SIGKILL)
    json.dump(
        {
            "outputs": harness.outputs,
            "models": harness.models,
            "kills": harness.kills,
            "ended": harness.ended,
            "stops": harness.stops,
            "changes": harness.changes,
            "odd": len(harness.odd),
            "printed": harness.printed.read_text().split(),
            "found_again": len(set(harness.found_again.read_text().splitlines())),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
