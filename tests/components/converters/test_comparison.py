"""Differences of outputs, and the conversions that are refused for them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from paring.converters.comparison import Compared, Form, compare, difference, largest_difference
from paring.errors import UnsupportedError


def test_class_scores_differ_by_the_share_of_other_classes() -> None:
    reference = {"digit": np.eye(4, 3, dtype=np.float32)}
    result = {"digit": np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0.1, 0, 0]], np.float32)}
    assert difference(reference, result) == 0.25


def test_other_outputs_differ_relative_to_their_spread() -> None:
    reference = {"price": np.array([[1.0], [3.0]])}
    assert difference(reference, {"price": np.array([[1.5], [3.5]])}) == 0.5
    assert difference(reference, {"price": np.array([[100.0], [0.0]])}) == 1.0
    assert difference(reference, {"price": np.array([[np.nan], [3.0]])}) == 1.0


def test_outputs_without_spread_differ_relative_to_their_size() -> None:
    single = {"price": np.array([[4.0]], np.float32)}
    assert difference(single, {"price": single["price"] + np.float32(1e-6)}) < 1e-6
    assert difference(single, {"price": np.array([[5.0]])}) == 0.25
    same = {"price": np.array([[4.0], [4.0000005]], np.float32)}
    assert difference(same, {"price": np.array([[4.0], [4.0]])}) < 1e-6
    nothing = {"price": np.zeros((2, 1))}
    assert difference(nothing, nothing) == 0
    assert difference(nothing, {"price": np.array([[0.0], [0.1]])}) == 1


def test_the_worst_output_counts() -> None:
    reference = {"one": np.array([[1.0], [3.0]]), "two": np.array([[1.0], [3.0]])}
    result = reference | {"two": np.array([[2.0], [4.0]])}
    assert difference(reference, result) == 1.0


@pytest.mark.parametrize(
    ("expected", "result", "difference"),
    [
        ([1.0, -4.0], [1.0, -4.2], 0.05),
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([1.0, 2.0], [1.0, np.nan], np.inf),
        ([np.inf, 2.0], [np.inf, 1.0], 0.5),
        ([0.0, 0.0], [0.0, 0.1], np.inf),
        ([3, 4], [3, 5], 0.5),
        ([True], [True], 0.0),
        ([], [], 0.0),
        ([1.0], [1], np.inf),
        ([1.0], [[1.0]], np.inf),
    ],
)
def test_differences_are_relative_to_the_largest_value(
    expected: list[Any], result: list[Any], difference: float
) -> None:
    sides = [{"y": np.array(expected)}], [{"y": np.array(result)}]
    assert largest_difference(*sides) == pytest.approx(difference)


def test_the_worst_output_and_call_count() -> None:
    item = {"y": np.array([1.0]), "z": np.array([1.0])}
    other = {"y": np.array([1.0]), "z": np.array([1.5])}
    assert largest_difference([item, item], [item, other]) == 0.5
    assert largest_difference([item], [{"y": np.array([1.0])}]) == np.inf


class Given:
    """A runtime that gives stated functions of its input `x` [batch, 4]."""

    name = "given"
    batch_size = None

    def __init__(self, **functions: Callable[[Any], Any]) -> None:
        self.functions = functions
        self.inputs: dict[str, Any] = {}
        self.closed = False

    def encode(self, features: Any) -> Any:
        return features

    def run(self, features: Any) -> dict[str, Any]:
        return {name: np.asarray(item(features["x"])) for name, item in self.functions.items()}

    def close(self) -> None:
        self.closed = True


GENERATOR = np.random.default_rng(0)
WEIGHTS = GENERATOR.normal(size=(4, 3)).astype(np.float32)
BATCHES = [{"x": GENERATOR.normal(size=(1, 4)).astype(np.float32)} for _ in range(32)]


def product(x: Any) -> Any:
    return x @ WEIGHTS


def noise(x: Any) -> Any:
    """Numbers that say nothing of `x`, and are the same each time."""
    return np.random.default_rng(int(abs(x[0, 0]) * 1e6)).normal(size=(len(x), 3))


def compared(source: Any, made: Any, form: Form, drawn: bool = True) -> Compared:
    item, other = Given(y=source), Given(y=made)
    try:
        return compare(
            lambda: item, lambda: other, BATCHES, form=form, drawn=drawn, what="the file"
        )
    finally:
        assert item.closed


@pytest.mark.parametrize("form", ["float", "half", "integer"])
def test_models_that_compute_the_same_pass(form: Form) -> None:
    assert compared(product, product, form) == Compared("32 examples", 0.0)
    assert compared(product, product, form, drawn=False).on == "random inputs"


@pytest.mark.parametrize("form", ["float", "half", "integer"])
def test_files_that_say_nothing_of_their_source_are_refused(form: Form) -> None:
    with pytest.raises(UnsupportedError, match="the file does not compute what its source does"):
        compared(product, noise, form)


def test_float_forms_are_held_to_a_tolerance() -> None:
    largest = max(np.abs(product(batch["x"])).max() for batch in BATCHES)
    assert compared(product, lambda x: product(x) + 5e-4 * largest, "float").difference == 0
    off = lambda x: product(x) + 5e-3 * largest  # noqa: E731
    with pytest.raises(UnsupportedError, match="100% of the values are off"):
        compared(product, off, "float")
    compared(product, off, "half")
    with pytest.raises(UnsupportedError, match="not finite"):
        compared(product, lambda x: product(x) + np.nan, "float")


def test_an_ordinary_poor_integer_file_is_left_to_the_gate() -> None:
    def poor(x: Any) -> Any:
        return product(x) + 2 * noise(x) + 10

    made = compared(product, poor, "integer")
    assert made.difference is not None
    assert made.difference > 0.3
    # A range so wide that int8 has one step for all that the source gives.
    assert compared(product, lambda x: np.zeros((len(x), 3)), "integer").difference is not None
    # A constant that is smaller than the step of int8.
    constant = lambda x: np.full((len(x), 3), 1e-3)  # noqa: E731
    stepped = lambda x: np.where(product(x) > 0, 8e-3, 0.0)  # noqa: E731
    assert compared(constant, stepped, "integer").difference is not None


def test_integers_that_only_rounding_makes_useless_are_left_to_the_gate() -> None:
    def made(only_rounded: bool) -> Compared:
        return compare(
            lambda: Given(y=product),
            lambda: Given(y=noise),
            BATCHES,
            form="integer",
            drawn=True,
            what="the file",
            only_rounded=lambda: only_rounded,
        )

    assert made(True).difference is not None
    with pytest.raises(UnsupportedError, match="correlation"):
        made(False)


@pytest.mark.parametrize("form", ["float", "half", "integer"])
def test_degenerate_sources_refuse_nothing(form: Form) -> None:
    def constant(x: Any) -> Any:
        return np.ones((len(x), 3), np.float32)

    def broken(x: Any) -> Any:
        return np.where(np.arange(3) < 2, product(x), np.nan)

    for source in (constant, broken, lambda x: np.full((len(x), 3), np.nan)):
        compared(source, source, form)
    # Tiny negative zeros and rounding of a constant are no difference.
    compared(constant, lambda x: constant(x) * (1 + 1e-6), form)


@pytest.mark.parametrize("form", ["float", "half", "integer"])
def test_what_the_source_itself_can_not_repeat_refuses_nothing(form: Form) -> None:
    drawn = np.random.default_rng(1)

    def random(x: Any) -> Any:
        return drawn.normal(size=(len(x), 3))

    def cancelling(x: Any) -> Any:
        # Rounding errors of the sum are larger than what is left of it.
        return ((product(x) + np.float32(1e9)) - np.float32(1e9)) * np.float32(1e-3)

    compared(random, random, form)
    compared(cancelling, lambda x: cancelling(x * np.float32(1 + 2e-7)), form)


def test_steps_that_rounding_tips_are_few() -> None:
    def classes(x: Any) -> Any:
        return product(x).argmax(axis=1)

    def mostly(x: Any) -> Any:
        return np.where(x[:, 0] > 1.5, 7, classes(x))

    compared(classes, mostly, "float")
    with pytest.raises(UnsupportedError, match="of the values are the same"):
        compared(classes, lambda x: classes(x) + 1, "float")
    # Numbers of classes have no ranks.
    compared(classes, lambda x: classes(x) + 1, "integer")


def test_outputs_without_pairs_are_not_compared() -> None:
    def boxes(x: Any) -> Any:
        return np.ones((1 + int(abs(x[0, 0]) > 1), 4))

    others = lambda x: boxes(x * 2)  # noqa: E731
    assert compared(boxes, others, "float").on.startswith("not compared")
    text = lambda x: np.array(["a"] * len(x), object)  # noqa: E731
    assert compared(text, text, "float") == Compared(
        "not compared: no output is a number of a known shape"
    )
    with pytest.raises(UnsupportedError, match="has other outputs"):
        compare(
            lambda: Given(y=product),
            lambda: Given(z=product),
            BATCHES,
            form="float",
            drawn=True,
            what="the file",
        )


def test_a_source_that_fails_on_random_numbers_is_not_compared() -> None:
    def picky(x: Any) -> Any:
        raise ValueError("x must be positive")

    made = compared(picky, product, "float", drawn=False)
    assert made == Compared(
        "not compared: the source fails on random inputs: ValueError: x must be positive"
    )
    with pytest.raises(ValueError, match="positive"):
        compared(picky, product, "float")


def test_integers_do_not_wrap_around() -> None:
    item, other = np.array([[0], [4]], np.uint8), np.array([[2], [2]], np.uint8)
    assert difference({"y": item}, {"y": other}) == 1.0
    assert difference({"y": item > 0}, {"y": item > 0}) == 0.0
