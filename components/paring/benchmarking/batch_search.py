"""Bounded search for the batch size, threads and instances of the highest throughput.

Hill climbing over a lattice: from the best setting so far each move doubles or halves
one or two of the three, and is repeated while throughput rises; where no move helps any
more, the batch is refined by bisection. A setting that does not fit rules out those with
larger batches or more instances, which are not tried.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

# Two measurements of one setting differ by as much.
_GAIN = 1.03
_REFINEMENTS = 3


@dataclass(frozen=True)
class Setting:
    """Setting in which a model is run.

    Attributes:
        batch_size: Examples in one call.
        threads: Threads for one call.
        instances: Processes side by side.
    """

    batch_size: int
    threads: int = 1
    instances: int = 1


@dataclass(frozen=True)
class Trial:
    """Measured values of one setting.

    Attributes:
        setting: The setting.
        p50_ms, p99_ms: Percentiles of one call's latency; None where it did not run.
        throughput: Examples a second of all instances.
        peak_memory_bytes: Of all instances, in sum.
        peak_device_memory_bytes: The same on GPUs or TPUs; None on the CPU.
        why_not: Why it does not fit; "" where it does.
    """

    setting: Setting
    p50_ms: float | None = None
    p99_ms: float | None = None
    throughput: float = 0.0
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Bounds:
    """Bounds of a search's settings.

    Attributes:
        min_batch, max_batch: Of the batch size; equal for a model of a fixed batch.
        max_instances: Of the instances.
        cores: Of threads times instances.
    """

    min_batch: int
    max_batch: int
    max_instances: int
    cores: int

    def hold(self, setting: Setting) -> bool:
        """Return whether `setting` is within these bounds."""
        return (
            self.min_batch <= setting.batch_size <= self.max_batch
            and setting.threads >= 1
            and 1 <= setting.instances <= self.max_instances
            and setting.threads * setting.instances <= self.cores
        )


@dataclass(frozen=True)
class _Move:
    """Factors for batch, threads and instances."""

    batch_size: float = 1
    threads: float = 1
    instances: float = 1

    def of(self, setting: Setting) -> Setting:
        return Setting(
            int(setting.batch_size * self.batch_size),
            int(setting.threads * self.threads),
            int(setting.instances * self.instances),
        )


_MOVES = (
    _Move(batch_size=2),
    # On a busy machine one measurement may be slow by chance.
    _Move(batch_size=4),
    _Move(instances=2),
    _Move(threads=2),
    _Move(threads=0.5, instances=2),
    _Move(threads=2, instances=0.5),
    _Move(batch_size=0.5, instances=2),
    _Move(batch_size=0.5, threads=2),
    _Move(batch_size=0.5),
)


class Search:
    """State of one search.

    Args:
        attempt: Tries a setting.
        bounds: What is not exceeded.
        max_trials: How many settings are tried at most.
        may_go_on: Says whether there is time for another one.

    Attributes:
        trials: All that were tried, in order, by their setting.
        ended: Why the search ended.
    """

    def __init__(
        self,
        attempt: Callable[[Setting], Trial],
        bounds: Bounds,
        *,
        max_trials: int,
        may_go_on: Callable[[], bool],
    ) -> None:
        self._attempt = attempt
        self._bounds = bounds
        self._max_trials = max_trials
        self._may_go_on = may_go_on
        self.trials: dict[Setting, Trial] = {}
        self.ended = "no neighbouring setting was faster"

    def run(self) -> list[Trial]:
        """Search; the trials that fit, the best first.

        It is the last that was faster by 3% than the one before; the others, some of
        which may be faster by less, follow by their throughput.
        """
        best = self._first()
        if best is not None and not best.why_not:
            best = self._refine(self._climb(best))
        fitting = [trial for trial in self.trials.values() if not trial.why_not]
        return sorted(fitting, key=lambda trial: (trial is not best, -trial.throughput))

    def _first(self) -> Trial | None:
        """Return the smallest batch in one process, with the fewest threads that let it fit."""
        setting = Setting(self._bounds.min_batch)
        while (trial := self._try(setting)) is not None and trial.why_not:
            setting = replace(setting, threads=2 * setting.threads)
        return trial

    def _climb(self, best: Trial) -> Trial:
        improved = True
        while improved:
            improved = False
            for move in _MOVES:
                while (result := self._better(move.of(best.setting), best)) is not None:
                    best, improved = result, True
        return best

    def _refine(self, best: Trial) -> Trial:
        low = best.setting.batch_size
        high = 2 * low
        for _ in range(_REFINEMENTS):
            middle = (low + high) // 2
            if middle in (low, high):
                break
            result = self._better(replace(best.setting, batch_size=middle), best)
            if result is None:
                high = middle
            else:
                best, low = result, middle
        return best

    def _better(self, setting: Setting, than: Trial) -> Trial | None:
        trial = self._try(setting)
        if trial is None or trial.why_not or trial.throughput < _GAIN * than.throughput:
            return None
        return trial

    def _try(self, setting: Setting) -> Trial | None:
        """Return the trial of a setting; None where it is out of bounds or not worth trying."""
        if setting in self.trials:
            return self.trials[setting]
        if not self._bounds.hold(setting) or any(
            _rules_out(trial, setting) for trial in self.trials.values()
        ):
            return None
        if len(self.trials) >= self._max_trials:
            self.ended = "max_trials were tried"
            return None
        # The first one is tried in any case, or there would be nothing to say.
        if self.trials and not self._may_go_on():
            self.ended = "budget_seconds were over"
            return None
        self.trials[setting] = self._attempt(setting)
        return self.trials[setting]


def _rules_out(trial: Trial, setting: Setting) -> bool:
    """Return whether `setting` needs no less than a trial's setting that did not fit."""
    tried = trial.setting
    return bool(
        trial.why_not
        and setting.threads == tried.threads
        and setting.batch_size >= tried.batch_size
        and setting.instances >= tried.instances
    )
