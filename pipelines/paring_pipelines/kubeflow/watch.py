"""One run for each finished output of training: `paring watch`.

A watcher keeps nothing in memory that matters. It can be killed at any point, and several
can watch the same prefix:

- what is finished and has no run is claimed by an atomic create, see `leases`;
- the run's name follows from the output and the plan, stands in the claim, and is looked
  for before a run is started, see `idempotency`;
- what was claimed and has no run, because its watcher was killed, is taken up again when
  the claim has expired. By then a request that the dead watcher had sent has either been
  carried out, and is found by the name in its claim, or won't be;
- the run of an output is what was recorded first. A watcher that was stopped for longer
  than its lease finds that record, and deletes the run that it started too late.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from paring.errors import ClusterError, ParameterError, ParingError
from paring_pipelines.kubeflow.errors import LockHeldError
from paring_pipelines.kubeflow.idempotency import Made
from paring_pipelines.kubeflow.leases import Claims, Progress, Standing
from paring_pipelines.kubeflow.metrics import WatchMetrics
from paring_pipelines.kubeflow.outputs import Output, find_outputs
from paring_pipelines.kubeflow.sources import source_digest
from paring_pipelines.kubeflow.submit import Plan, submit
from paring_pipelines.kubeflow.types import Run

if TYPE_CHECKING:
    from paring_pipelines.kubeflow.client import Kubeflow

Tell = Callable[..., None]
"""Takes an event's name, and its facts by name."""

_FAILURES_IN_A_ROW = 3
"""After so many Kubeflow itself is taken to be away until the next look."""


@dataclass(frozen=True)
class Watched:
    """Source and settings of a watch.

    Attributes:
        source: The prefix, a path or URI.
        examples: Where the examples of each run lie.
        state: Where claims are kept; not below `source`.
        marker: The name of the file that ends an output; "" for TFX's Pusher layout.
        settle: Seconds without a change, see `find_outputs`.
        lease: Seconds after which the claim of a watcher that was killed runs out.
    """

    source: str
    examples: str
    state: str
    marker: str = ""
    settle: float = 60.0
    lease: float = 300.0


class Watcher:
    """Watcher that searches a prefix for new outputs repeatedly.

    Raises:
        ParameterError: The lease is too short for the time-out of requests.
    """

    def __init__(
        self,
        kubeflow: "Kubeflow",
        plan: Plan,
        watched: Watched,
        metrics: WatchMetrics,
        tell: Tell,
    ) -> None:
        # One request, and as long again until it is not carried out any more.
        margin = 2 * kubeflow.settings.timeout
        if watched.lease <= 2 * margin:
            raise ParameterError(
                "--lease: this is too short",
                received=watched.lease,
                remedy=f"give more than four times --timeout, so more than {2 * margin:g}",
            )
        if f"{watched.state}/".startswith(f"{watched.source.rstrip('/')}/"):
            raise ParameterError(
                "--state: this lies below --source",
                received=watched.state,
                remedy="give a place of its own",
            )
        self._kubeflow = kubeflow
        self._plan = plan
        self._watched = watched
        self._metrics = metrics
        self._tell = tell
        self._claims = Claims(watched.state, watched.lease, margin)

    def look(self) -> ParingError | None:
        """Submit what is finished and has no run; the first thing that went wrong, if any.

        What goes wrong with one output does not keep the others.

        Raises:
            ParingError: The prefix or the claims can't be read.
        """
        watched, metrics = self._watched, self._metrics
        result = find_outputs(
            watched.source, marker=watched.marker, settle=watched.settle, now=time.time()
        )
        standings = self._claims.standings()
        waiting = [item for item in result.finished if not standings.get(item.key, Standing()).done]
        metrics.finished.set(len(result.finished))
        self._measure(waiting)
        problem: ParingError | None = None
        left: list[Output] = []
        in_a_row = 0
        for output in waiting:
            if in_a_row == _FAILURES_IN_A_ROW:
                left.append(output)
                continue
            try:
                if not self._take(output, standings.get(output.key, Standing())):
                    left.append(output)
                in_a_row = 0
            except ParingError as error:
                metrics.failures.inc()
                self._tell("failed", output=output.uri, error=str(error))
                problem = problem or error
                in_a_row += isinstance(error, ClusterError)
                left.append(output)
        self._measure(left)
        metrics.last_look.set_to_current_time()
        self._tell(
            "looked",
            finished=len(result.finished),
            waiting=len(left),
            unsettled=len(result.unsettled),
        )
        return problem

    def go_on(self, interval: float, looked: Callable[[], None]) -> NoReturn:
        """Look, again and again, whatever goes wrong after the first time.

        Args:
            interval: Seconds between two looks.
            looked: Called after each.

        Raises:
            ParingError: The first look found that nothing can be read.
        """
        self.look()
        looked()
        while True:
            time.sleep(interval)
            # What has been measured is written after a look that failed too.
            for act in (self.look, looked):
                try:
                    act()
                except ParingError as error:
                    # What could be read or written before may be so again.
                    self._metrics.failures.inc()
                    self._tell("failed", error=str(error))

    def _take(self, output: Output, standing: Standing) -> bool:
        """See that `output` has its run; False where another watcher is at it."""
        digest = ""

        def name() -> str:
            nonlocal digest
            digest = source_digest(output.uri, self._watched.examples)
            return self._plan.run_name(digest)

        claim = self._claims.claim(output.key, name, standing)
        if claim is None:
            return False
        try:
            self._claims.hold(claim, lambda progress: self._submit(output, digest, progress))
        except LockHeldError:
            # Submitted by hand in this moment, or by a watcher that was killed at it.
            return False
        return True

    def _submit(self, output: Output, digest: str, progress: Progress) -> None:
        made = self._find_earlier(progress) or submit(
            self._kubeflow,
            self._plan,
            model=output.uri,
            examples=self._watched.examples,
            digest=digest,
            wait=0.0,
            may_create=progress.begin,
        )
        run = made.first
        submitted = run.created.timestamp() if run.created else time.time()
        lag = max(0.0, submitted - output.completed)
        facts: dict[str, Any] = {
            "output": output.uri,
            "run": run.id,
            "name": run.name,
            "lag_seconds": round(lag, 3),
        }
        kept = self._claims.finish(output.key, facts)
        if kept["run"] != run.id:
            # This watcher was stopped for longer than its lease, and another took over.
            if made.new:
                self._kubeflow.remove_run(run)
            self._tell("was submitted before", **kept)
            return
        self._metrics.submissions.inc()
        self._metrics.lag.observe(lag)
        self._tell("submitted" if made.new else "was submitted before", **facts)

    def _find_earlier(self, progress: Progress) -> Made[Run] | None:
        """Return the run that the holder of an earlier claim started, under whatever name.

        The examples or the package may have changed since, and the name with them.
        """
        for name in progress.claim.earlier:
            if name == progress.claim.run:
                # Looked for in any case, before it is started.
                continue
            result = self._kubeflow.runs_named(name)
            run = self._kubeflow.settled_run(name, wait=0.0) if result else None
            if run is not None:
                return Made(run, False)
            progress.absent.add(name)
        return None

    def _measure(self, waiting: list[Output]) -> None:
        self._metrics.waiting.set(len(waiting))
        oldest = min((output.completed for output in waiting), default=None)
        self._metrics.oldest.set(0.0 if oldest is None else max(0.0, time.time() - oldest))
