"""Explanations claim no difference in speed that the measurements do not hold."""

import numpy as np
import pytest

from paring.selection.pareto import SOURCE, Measured, speed_ratio
from paring.selection.reasons import why, why_not


def measured(name: str, speedup: float, low: float, high: float, **more: int) -> Measured:
    return Measured(
        name,
        drop=0.0,
        p50_ms=10 / speedup,
        speedup=speedup,
        speedup_low=low,
        speedup_high=high,
        size_bytes=more.get("size_bytes", 1000),
        peak_memory_bytes=more.get("peak_memory_bytes", 1000),
    )


REFERENCE = measured(SOURCE, 1.0, 0.95, 1.05)


def test_a_ratio_to_the_source_has_the_speedups_own_interval() -> None:
    result = speed_ratio(measured("one", 5.7, 4.1, 7.9), REFERENCE)
    assert result is not None
    assert (result.estimate, result.low, result.high) == pytest.approx((5.7, 4.1, 7.9))
    assert result.is_certain
    assert result.inverse.estimate == pytest.approx(1 / 5.7)
    assert (result.inverse.low, result.inverse.high) == pytest.approx((1 / 7.9, 1 / 4.1))


def test_the_interval_of_two_benchmarks_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(2000):
        pair = []
        for true, error in ((4.0, 0.2), (3.0, 0.05)):
            centre = true * np.exp(generator.normal(0, error))
            low, high = (centre * np.exp(sign * 1.96 * error) for sign in (-1, 1))
            pair.append(measured("c", float(centre), float(low), float(high)))
        result = speed_ratio(*pair)
        assert result is not None
        covered.append(result.low <= 4 / 3 <= result.high)
    assert 0.93 < np.mean(covered) < 0.97


def test_what_was_not_measured_has_no_ratio() -> None:
    assert speed_ratio(Measured("one", speedup=2.0), REFERENCE) is None


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ((2.0, 1.5, 2.6), "5.0x faster (3.5 to 7.2)"),
        ((6.0, 4.0, 9.0), "perhaps faster (1.7x, 1.0 to 2.6)"),
        ((9.9, 7.0, 13.0), "as fast within the noise"),
        # Its interval holds 1, but it was measured as it was.
        ((1.2, 0.8, 1.8), "8.3x faster (5.2 to 13.2)"),
    ],
)
def test_a_difference_is_told_with_its_interval_and_its_doubt(
    item: tuple[float, float, float], text: str
) -> None:
    best = measured("best", 10.0, 8.0, 12.5)
    result = why_not(measured("one", *item), best, source=REFERENCE, objective="latency")
    assert result == f"passes, but best is {text} and not larger"


def test_a_few_per_cent_have_an_interval_too() -> None:
    best = measured("best", 2.14, 2.13, 2.15, size_bytes=500)
    result = why_not(measured("one", 2.0, 1.99, 2.01), best, source=REFERENCE, objective="size")
    assert result == "passes, but best is 2.0x smaller and 7.0% faster (6.3% to 7.7%)"


def test_the_fastest_is_so_only_if_no_interval_overlaps() -> None:
    best, slow = measured("best", 10.0, 8.0, 12.5), measured("slow", 2.0, 1.8, 2.2)
    assert (
        why(best, [best, slow], source=REFERENCE, objective="latency")
        == "the fastest of the 2 that pass"
    )
    unsure = measured("unsure", 6.0, 3.0, 12.0)
    assert why(best, [best, slow, unsure], source=REFERENCE, objective="latency") == (
        "measured as the fastest of the 3 that pass, but unsure may be as fast:"
        " the intervals overlap"
    )


def test_memory_within_the_noise_is_no_difference() -> None:
    best = measured("best", 2.0, 1.9, 2.1, peak_memory_bytes=600, size_bytes=500)
    near = measured("near", 2.0, 1.9, 2.1, peak_memory_bytes=620)
    assert why_not(near, best, source=REFERENCE, objective="memory") == (
        "passes, but best is as light in memory and 2.0x smaller"
    )
    far = measured("far", 2.0, 1.9, 2.1, peak_memory_bytes=900)
    assert "1.5x lighter in memory" in why_not(far, best, source=REFERENCE, objective="memory")
