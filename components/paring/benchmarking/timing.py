"""Options of measurements that time two models alternately."""

from dataclasses import dataclass
from typing import Any

_MIN_WINDOW_SECONDS = 0.02


@dataclass(frozen=True)
class TimingOptions:
    """Options with which a candidate and its source are timed.

    Attributes:
        threads: Threads for one call.
        rounds: Number of times that both models are loaded and timed, at most.
        windows: Pairs of windows in a round.
        min_seconds: Time that all rounds spend in timed windows, at least; a window lasts
            20 ms or more.
        seed: Seed of the order of the sides, and of the resampling.
        precision: Relative half-width of the speed-up's interval at which no further round
            follows; 0 for all rounds.
    """

    threads: int
    rounds: int
    windows: int
    min_seconds: float
    seed: int
    precision: float = 0.0

    @property
    def window_seconds(self) -> float:
        """Time that a window lasts, at least."""
        return max(_MIN_WINDOW_SECONDS, self.min_seconds / (2 * self.rounds * self.windows))

    def spec_fields(self) -> dict[str, Any]:
        """Return the fields of a `paring.benchmarking.measure.Spec` that state these options."""
        return {
            "threads": self.threads,
            "rounds": self.rounds,
            "precision": self.precision,
            "windows": self.windows,
            "window_seconds": self.window_seconds,
            "seed": self.seed,
        }
