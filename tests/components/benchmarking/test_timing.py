"""Options of measurements that time two models alternately."""

import pytest

from paring.benchmarking.measure import Spec
from paring.benchmarking.timing import TimingOptions


@pytest.mark.parametrize(
    ("rounds", "windows", "min_seconds", "seconds"),
    [
        # 3 s in 2 sides of 8 rounds of 4 windows.
        (8, 4, 3.0, 3.0 / 64),
        (2, 1, 0.0, 0.02),
        (1000, 1000, 3600.0, 0.02),
    ],
)
def test_windows_share_the_time_of_all_rounds_of_both_sides(
    rounds: int, windows: int, min_seconds: float, seconds: float
) -> None:
    options = TimingOptions(1, rounds=rounds, windows=windows, min_seconds=min_seconds, seed=0)
    assert options.window_seconds == pytest.approx(seconds)


def test_a_spec_states_all_options() -> None:
    options = TimingOptions(3, rounds=5, windows=2, min_seconds=4.0, seed=7, precision=0.25)
    spec = Spec(
        "latency",
        source="s",
        candidate="c",
        inputs="i",
        names=[],
        folder="f",
        **options.spec_fields(),
    )
    assert (spec.threads, spec.rounds, spec.windows, spec.seed) == (3, 5, 2, 7)
    assert (spec.precision, spec.window_seconds) == (0.25, pytest.approx(0.2))
