"""Sums without rounding: against Python's fractions, and whatever the order of examples."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.helpers.scored_outputs import CASES, COUNT

from paring.errors import UnsupportedError
from paring.evaluation.scoring import Plan, Tally, make_plan
from paring.evaluation.scoring.exact_sums import ExactSums, exact_products
from paring.evaluation.scoring.function import load_function

Array = NDArray[Any]

DOUBLES = st.floats(min_value=-1e300, max_value=1e300)
FACTORS = st.just(0.0) | st.floats(1e-120, 1e100) | st.floats(-1e100, -1e-120)
SEEDS = st.integers(0, 2**32 - 1)


def exact(sums: ExactSums) -> list[Fraction]:
    numbers, exponent = sums.integers()
    return [number * Fraction(2) ** exponent for number in numbers]


def sums_of(terms: Array) -> ExactSums:
    result = ExactSums(*terms.shape[1:])
    result.add(terms)
    return result


@given(st.lists(DOUBLES, max_size=60), st.integers(0, 60))
@example([5e-324, 1e300, -1e300], 1)
@example([2.0**32, -1.0, 2.0**-1074], 2)
def test_sums_of_parts_are_those_of_fractions(terms: list[float], cut: int) -> None:
    total = sums_of(np.array(terms[:cut]))
    total.merge(sums_of(np.array(terms[cut:])))
    wanted = sum(map(Fraction, terms), Fraction(0))
    assert exact(total) == [wanted]
    assert abs(float(total.values()) - float(wanted)) <= np.spacing(abs(float(wanted)))


@given(SEEDS, st.integers(1, 70), st.integers(1, 5))
@settings(max_examples=40)
def test_groups_and_parts_of_an_array_keep_each_sum(seed: int, count: int, groups: int) -> None:
    generator = np.random.default_rng(seed)
    terms = np.ldexp(generator.normal(size=(2, count)), generator.integers(-90, 90, (2, count)))
    places = generator.integers(0, groups, count)
    cut = generator.integers(0, count + 1)
    parts = [ExactSums.of(item) for item in np.split(terms, [cut], axis=1)]
    grouped = ExactSums.concatenate(parts).grouped(places, groups)
    wanted = [
        sum(map(Fraction, row[places == group].tolist()), Fraction(0))
        for row in terms
        for group in range(groups)
    ]
    assert exact(grouped) == wanted


def test_terms_beyond_a_block_and_carries_beyond_a_digit_are_added() -> None:
    terms = np.full((70_000, 3), 2.0**32 - 1)
    assert exact(sums_of(terms)) == [70_000 * Fraction(2**32 - 1)] * 3
    wide = np.arange(2 * 40_000, dtype=float).reshape(2, -1) / 3
    assert sums_of(wide).values().tolist() == wide.sum(axis=0).tolist()


@given(FACTORS, FACTORS)
def test_products_are_exact(value: float, factor: float) -> None:
    parts = exact_products(np.array([value]), np.array([factor]))
    assert sum(Fraction(float(part[0])) for part in parts) == Fraction(value) * Fraction(factor)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_what_no_sum_can_hold_is_an_error(value: float) -> None:
    with pytest.raises(UnsupportedError, match="1 numbers that are NaN or infinite"):
        ExactSums().add(np.array([1.0, value]))


def summary_of(plan: Plan, case: str, weights: Array | None, parts: list[Array]) -> dict[str, Any]:
    """The summary of examples in these parts, merged in pairs as often as it takes."""
    source, candidate, labels, _ = CASES[case]
    function = load_function(plan.function) if plan.function else None
    tallies = []
    for rows in filter(len, parts):
        tally = Tally(plan)
        tally.add(
            {"y": source[rows]},
            {"y": candidate[rows]},
            labels={} if labels is None else {"y": labels[rows]},
            function=function,
            weights=None if weights is None else weights[rows],
        )
        tallies.append(tally)
    while len(tallies) > 1:
        merged = Tally(plan)
        for tally in tallies[:2]:
            merged.merge(tally)
        tallies = [*tallies[2:], merged]
    return tallies[0].summary()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES)
@given(SEEDS, st.lists(st.integers(0, COUNT), max_size=12))
@settings(max_examples=8, deadline=None)
def test_any_order_and_any_parts_give_the_same_bits(
    case: str, weighted: bool, seed: int, cuts: list[int]
) -> None:
    _, _, labels, metric = CASES[case]
    plan = make_plan(metric, top_k=2, gated="", outputs={"y": labels})
    weights = np.random.default_rng(0).exponential(size=COUNT) * 7 if weighted else None
    order = np.random.default_rng(seed).permutation(COUNT)
    result = summary_of(plan, case, weights, np.split(order, sorted(cuts)))
    assert result == summary_of(plan, case, weights, [np.arange(COUNT)])


def test_the_agreement_of_values_far_from_zero_keeps_its_precision() -> None:
    """By fractions; with sums of rounded squares nothing of it was right."""
    generator = np.random.default_rng(1)
    source = 1e9 + generator.normal(size=(50, 2))
    candidate = source + 0.1 * generator.normal(size=(50, 2))
    weights = generator.exponential(size=50)
    tally = Tally(make_plan("auto", top_k=5, gated="", outputs={"y": None}))
    tally.add({"y": source}, {"y": candidate}, labels={}, weights=weights)
    shares = [Fraction(item) for item in weights.tolist()]
    spread = Fraction(0)
    for column in source.T.tolist():
        values = [Fraction(item) for item in column]
        mean = sum(w * item for w, item in zip(shares, values, strict=True)) / sum(shares)
        spread += sum(w * (item - mean) ** 2 for w, item in zip(shares, values, strict=True))
    lost = float(weights @ np.square(candidate - source).sum(axis=1))
    assert tally.summary()["agreement"] == pytest.approx(1 - lost / float(spread), rel=1e-12)
