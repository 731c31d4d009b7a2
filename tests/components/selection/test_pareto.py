"""The gate, the front and the choice."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paring.evaluation.metrics import Metric, format_distinct
from paring.selection.pareto import Gate, Measured, choose, dominates, pareto_front

SOURCE = Measured("source", 0.0, 10.0, 1.0, 0.98, 1.02, 1_000_000, 400_000_000)
OBJECTIVES = ("latency", "size", "memory")


def like_source(name: str, **changed: object) -> Measured:
    return replace(SOURCE, id=name, **changed)  # type: ignore[arg-type]


@st.composite
def measurements(draw: st.DrawFn) -> list[Measured]:
    """The source and up to eight others, with ties as likely as not."""
    made = [SOURCE]
    for index in range(draw(st.integers(0, 8))):
        speedup = draw(st.sampled_from([0.5, 0.97, 1.0, 1.01, 1.5, 1.55, 3.0]))
        spread = draw(st.sampled_from([0.005, 0.05, 0.3]))
        made.append(
            Measured(
                f"c{index}",
                drop=draw(st.sampled_from([-0.01, 0.0, 0.005, 0.01, 0.02, 0.5, None])),
                p50_ms=10.0 / speedup,
                speedup=speedup,
                speedup_low=speedup - spread,
                speedup_high=speedup + spread,
                size_bytes=draw(st.sampled_from([250_000, 990_000, 1_000_000, 1_010_000])),
                peak_memory_bytes=draw(
                    st.sampled_from([100_000_000, 390_000_000, 401_000_000, None])
                ),
            )
        )
    return draw(st.permutations(made))


gates = st.builds(
    Gate,
    max_accuracy_drop=st.sampled_from([0.0, 0.01, 1.0]),
    max_latency_ms=st.sampled_from([0.0, 8.0, 1.0]),
    max_size_mb=st.sampled_from([0.0, 0.5]),
    max_memory_mb=st.sampled_from([0.0, 200.0]),
)


@given(measurements(), gates, st.sampled_from(OBJECTIVES))
def test_the_chosen_one_passes_and_nothing_that_passes_dominates_it(
    everyone: list[Measured], gate: Gate, objective: str
) -> None:
    passing = [candidate for candidate in everyone if not gate.objections(candidate)]
    chosen = choose(passing, SOURCE, objective)  # type: ignore[arg-type]
    if not passing:
        assert chosen is None
        return
    assert chosen in passing
    assert not any(dominates(item, chosen, SOURCE) for item in passing)


@given(measurements(), gates, st.sampled_from(OBJECTIVES))
def test_nothing_that_passes_is_clearly_better_than_the_chosen_one_in_every_raw_figure(
    everyone: list[Measured], gate: Gate, objective: str
) -> None:
    passing = [candidate for candidate in everyone if not gate.objections(candidate)]
    chosen = choose(passing, SOURCE, objective)  # type: ignore[arg-type]
    for item in passing:
        assert chosen is not None
        better = (
            (item.drop or 0.0) < (chosen.drop or 0.0)
            and (item.speedup_low or 0) > (chosen.speedup_high or 0)
            and (item.size_bytes or 0) < (chosen.size_bytes or 0)
            and (item.peak_memory_bytes or 1e12) < 0.8 * (chosen.peak_memory_bytes or 1e12)
        )
        assert not better


@given(measurements())
def test_everything_off_the_front_is_dominated_by_something_on_it(
    everyone: list[Measured],
) -> None:
    front = pareto_front(everyone, SOURCE)
    assert front
    for candidate in everyone:
        assert (candidate in front) != any(dominates(other, candidate, SOURCE) for other in front)


@given(measurements())
def test_dominance_is_a_strict_order(everyone: list[Measured]) -> None:
    for a in everyone:
        assert not dominates(a, a, SOURCE)
        for b in everyone:
            if not dominates(a, b, SOURCE):
                continue
            assert not dominates(b, a, SOURCE)
            for c in everyone:
                assert not dominates(b, c, SOURCE) or dominates(a, c, SOURCE)


@given(measurements(), st.sampled_from(OBJECTIVES), st.randoms())
def test_the_choice_does_not_depend_on_the_order(
    everyone: list[Measured], objective: str, random: object
) -> None:
    shuffled = list(everyone)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(everyone, SOURCE, objective) == choose(  # type: ignore[arg-type]
        shuffled,
        SOURCE,
        objective,  # type: ignore[arg-type]
    )


@given(measurements())
def test_a_candidate_replaces_the_source_only_if_faster_for_certain_or_as_fast_and_lighter(
    everyone: list[Measured],
) -> None:
    chosen = choose(everyone, SOURCE, "latency")
    assert chosen is not None
    if chosen.id == "source":
        return
    assert chosen.speedup_high is not None
    assert chosen.speedup_low is not None
    assert chosen.speedup_high >= 1
    if chosen.speedup_low <= 1:
        smaller = (chosen.size_bytes or 0) < 1_000_000
        assert smaller or (chosen.peak_memory_bytes or 0) < 0.95 * 400_000_000


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("memory", [385_000_000, 400_000_000, 415_000_000])
@pytest.mark.parametrize("drop", [-0.01, 0.0, 0.001])
def test_a_copy_of_the_source_never_wins_by_noise(objective: str, memory: int, drop: float) -> None:
    copy = like_source(
        "a-copy",
        drop=drop,
        speedup=1.03,
        speedup_low=0.99,
        speedup_high=1.07,
        peak_memory_bytes=memory,
    )
    assert choose([copy, SOURCE], SOURCE, objective) is SOURCE  # type: ignore[arg-type]


def test_the_source_does_not_dominate_what_is_slower_and_more_accurate() -> None:
    slow = {"speedup": 0.9, "speedup_low": 0.89, "speedup_high": 0.91}
    accurate = like_source("accurate", drop=-0.01, **slow)
    small = like_source("small", size_bytes=250_000)
    # Else it would be off the front by a source that is off the front itself.
    assert pareto_front([SOURCE, accurate, small], SOURCE) == [accurate, small]


def test_memory_that_differs_by_noise_keeps_nobody_on_the_front() -> None:
    fast = {"speedup": 3.0, "speedup_low": 2.9, "speedup_high": 3.1}
    best = like_source("best", size_bytes=100_000, peak_memory_bytes=53_500_000, **fast)
    larger = like_source("larger", size_bytes=200_000, peak_memory_bytes=53_300_000)
    lighter = like_source("lighter", size_bytes=200_000, peak_memory_bytes=40_000_000)
    assert pareto_front([SOURCE, best, larger, lighter], SOURCE) == [best, lighter]


def test_of_ties_of_about_one_size_the_source_is_kept() -> None:
    lighter = like_source(
        "lighter", drop=-0.01, size_bytes=1_010_000, peak_memory_bytes=100_000_000
    )
    assert choose([lighter, SOURCE], SOURCE, "latency") is SOURCE
    assert choose([lighter, SOURCE], SOURCE, "memory") is lighter


def test_what_is_only_more_accurate_is_not_taken_even_where_the_source_is_dominated() -> None:
    lighter = like_source("lighter", peak_memory_bytes=100_000_000)
    accurate = like_source("accurate", drop=-0.01, size_bytes=1_010_000)
    assert choose([SOURCE, lighter, accurate], SOURCE, "latency") is lighter


def test_latency_ties_go_to_the_smaller_one() -> None:
    fastest = like_source("fastest", drop=0.0, speedup=3.0, speedup_low=2.8, speedup_high=3.2)
    smaller = like_source(
        "smaller", speedup=2.9, speedup_low=2.7, speedup_high=3.1, size_bytes=500_000
    )
    slower = like_source(
        "slower", speedup=2.0, speedup_low=1.8, speedup_high=2.2, size_bytes=250_000
    )
    assert choose([SOURCE, fastest, smaller, slower], SOURCE, "latency") is smaller
    assert choose([SOURCE, fastest, smaller, slower], SOURCE, "size") is slower


def test_of_equal_sizes_noise_in_the_latency_does_not_decide() -> None:
    fast = like_source(
        "fast", drop=0.01, speedup=3.0, speedup_low=2.8, speedup_high=3.2, size_bytes=500_000
    )
    accurate = like_source(
        "accurate", drop=0.0, speedup=2.9, speedup_low=2.7, speedup_high=3.1, size_bytes=500_000
    )
    slow = like_source(
        "slow", drop=-0.01, speedup=2.0, speedup_low=1.8, speedup_high=2.2, size_bytes=500_000
    )
    assert choose([SOURCE, fast, accurate], SOURCE, "size") is accurate
    assert choose([SOURCE, fast, slow], SOURCE, "size") is fast


def test_a_tie_is_within_the_noise_and_within_a_few_per_cent() -> None:
    quick = {"speedup": 63.0, "speedup_low": 62.5, "speedup_high": 63.5}
    noisy = {"speedup_low": 17.0, "speedup_high": 68.0}
    fast = like_source("fast", drop=0.005, size_bytes=500_000, **quick)
    near = like_source("near", drop=0.0, size_bytes=500_000, speedup=61.0, **noisy)
    # Half as fast, as far as one can tell: no user would want it for its size.
    unsure = like_source("unsure", drop=0.0, size_bytes=500_000, speedup=34.0, **noisy)
    slower = like_source("slower", drop=0.0, speedup=61.0, speedup_low=60.0, speedup_high=62.0)
    assert choose([SOURCE, fast, near], SOURCE, "latency") is near
    assert choose([SOURCE, fast, unsure], SOURCE, "latency") is fast
    assert choose([SOURCE, fast, slower], SOURCE, "latency") is fast


def test_what_one_standard_error_explains_is_a_tie_on_a_noisy_machine() -> None:
    fast = like_source("fast", drop=0.006, speedup=22.4, speedup_low=18.2, speedup_high=27.7)
    accurate = like_source("accurate", drop=0.0, speedup=19.6, speedup_low=16.0, speedup_high=24.0)
    quiet = {"speedup_low": 21.8, "speedup_high": 23.0}
    sharp = like_source("sharp", drop=0.006, speedup=22.4, **quiet)
    clear = like_source("clear", drop=0.0, speedup=19.6, speedup_low=19.1, speedup_high=20.1)
    assert choose([SOURCE, fast, accurate], SOURCE, "latency") is accurate
    assert choose([SOURCE, sharp, clear], SOURCE, "latency") is sharp


def test_a_tie_ends_at_a_fifth_however_noisy_the_machine_is() -> None:
    wide = {"speedup_low": 8.0, "speedup_high": 60.0}
    fast = like_source("fast", drop=0.006, speedup=22.4, **wide)
    slow = like_source("slow", drop=0.0, speedup=18.0, **wide)
    assert choose([SOURCE, fast, slow], SOURCE, "latency") is fast


def test_among_ties_of_about_one_size_the_most_accurate_is_taken() -> None:
    fast = {"speedup": 3.0, "speedup_low": 2.8, "speedup_high": 3.2}
    smallest = like_source("smallest", drop=0.01, size_bytes=500_000, **fast)
    accurate = like_source("accurate", drop=-0.01, size_bytes=505_000, **fast)
    assert choose([SOURCE, smallest, accurate], SOURCE, "latency") is accurate
    assert choose([SOURCE, smallest, accurate], SOURCE, "size") is smallest


def test_a_slower_candidate_is_taken_where_the_source_misses_the_budgets() -> None:
    small = like_source("small", speedup=0.5, speedup_low=0.4, speedup_high=0.6, size_bytes=100_000)
    assert choose([small], SOURCE, "latency") is small
    assert choose([small, SOURCE], SOURCE, "latency") is SOURCE


def test_unmeasured_figures_never_win() -> None:
    unmeasured = Measured("unmeasured", drop=0.0)
    assert choose([unmeasured, SOURCE], SOURCE, "latency") is SOURCE
    assert choose([unmeasured, SOURCE], SOURCE, "memory") is SOURCE
    assert Gate().objections(unmeasured) == ["its latency was not measured"]


def test_a_drop_of_exactly_the_limit_passes_in_spite_of_binary_fractions() -> None:
    drop = 0.98 - 0.97
    assert drop > 0.01
    assert Gate(max_accuracy_drop=0.01).objections(like_source("c", drop=drop)) == []


def test_objections_give_the_figures() -> None:
    gate = Gate(max_accuracy_drop=0.01, max_latency_ms=5, max_size_mb=0.5, max_memory_mb=100)
    assert gate.objections(like_source("c", drop=0.023)) == [
        "drops accuracy by 2.3 points, the gate allows 1.0",
        "its p50 latency is 10.0 ms, the budget is 5.0 ms",
        "its size is 1.00 MB, the budget is 0.50 MB",
        "its peak memory is 400.0 MB, the budget is 100.0 MB",
    ]


def test_a_budget_on_what_was_not_measured_is_not_met() -> None:
    item = like_source("c", peak_memory_bytes=None)
    assert Gate().objections(item) == []
    assert Gate(max_memory_mb=100).objections(item) == [
        "its peak memory was not measured, the budget is 100 MB"
    ]


def test_without_labels_the_objection_speaks_of_agreement() -> None:
    item = like_source("c", drop=0.05, metric=Metric("agreement"))
    (objection,) = Gate().objections(item)
    assert "5.0% of the examples" in objection
    assert "no labels" in objection


@pytest.mark.parametrize(
    ("first", "second", "texts"),
    [
        (2.3, 1.0, ("2.3", "1.0")),
        (1.04, 1.0, ("1.04", "1.00")),
        (1.31, 0.01, ("1.310", "0.010")),
        (0.5, 0.0, ("0.50", "0.00")),
    ],
)
def test_figures_are_written_so_that_they_differ(
    first: float, second: float, texts: tuple[str, str]
) -> None:
    assert format_distinct(first, second) == texts
