"""The choice among tried forms, with stated speeds and differences."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from paring.benchmarking.statistics import Interval
from paring.converters.savedmodel.serving_forms import GraphVariant
from paring.converters.savedmodel.serving_trials import (
    Choice,
    TrialOutcome,
    choose,
    with_fixed_batch,
)
from paring.errors import StepFailedError, UnsupportedError
from paring.graphs.graph import load_function
from paring.graphs.serving_graph import export_again
from paring.models.saved_model import SavedModel

CHANGES: dict[str, dict[str, Any]] = {
    "inference graph": {},
    "bfloat16": {"precision": "bfloat16"},
    "float16": {"precision": "float16"},
    "xla": {"compiled": True},
}
TOLERANCES: dict[Any, float] = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.01}


@dataclass
class Given:
    """A judge that knows how fast each form is, and how far from the source.

    Attributes:
        speeds: By the form in words; the source has 1.
        differences: The same; 0 where it says nothing.
        beside_source: Speeds that a direct comparison with the source finds instead.
    """

    speeds: dict[str, float]
    differences: dict[str, float] = field(default_factory=dict)
    beside_source: dict[str, float] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)

    def build(self, form: GraphVariant, folder: Path) -> None:
        folder.mkdir()
        (folder / "form").write_text(str(form))

    def difference(self, folder: Path) -> float:
        return self.differences.get(self._form(folder), 0.0)

    def speedup(self, base: Path, folder: Path) -> Interval:
        sides = self._form(base), self._form(folder)
        self.asked.append(sides)
        ratio = self.speeds[sides[1]] / self.speeds[sides[0]]
        if sides[0] == "source" and self.asked.count(sides) and len(self.asked) > len(CHANGES):
            ratio = self.beside_source.get(sides[1], ratio)
        return Interval(ratio, ratio * 0.95, ratio * 1.05)

    def _form(self, folder: Path) -> str:
        file = folder / "form"
        return file.read_text() if file.is_file() else "source"


def chosen(
    judge: Given, folder: Path, *, timed: bool = True
) -> tuple[Choice, dict[str, TrialOutcome]]:
    source, scratch = folder / "source", folder / "scratch"
    scratch.mkdir()
    choice = choose(
        CHANGES,
        judge.build,
        judge,
        source=source,
        scratch=scratch,
        tolerances=TOLERANCES,
        timed=timed,
    )
    return choice, {outcome.tried: outcome for outcome in choice.outcomes}


GRAPH = "inference graph"
SPEEDS = {
    "source": 1.0,
    GRAPH: 1.5,
    f"{GRAPH}, bfloat16": 1.8,
    f"{GRAPH}, float16": 2.5,
    f"{GRAPH}, float16, xla": 2.0,
    f"{GRAPH}, bfloat16, xla": 1.5,
    f"{GRAPH}, xla": 1.2,
}


def test_each_change_is_measured_beside_the_best_so_far(tmp_path: Path) -> None:
    judge = Given(SPEEDS)
    choice, outcomes = chosen(judge, tmp_path)
    assert choice.form == GraphVariant("float16")
    assert judge.asked == [
        ("source", GRAPH),
        (GRAPH, f"{GRAPH}, bfloat16"),
        (f"{GRAPH}, bfloat16", f"{GRAPH}, float16"),
        (f"{GRAPH}, float16", f"{GRAPH}, float16, xla"),
        # What the result is, beside what it was.
        ("source", f"{GRAPH}, float16"),
    ]
    assert choice.speedup == Interval(2.5, 2.375, 2.625)
    applied = {name for name, item in outcomes.items() if item.applied}
    assert applied == {GRAPH, "float16"}
    assert outcomes["bfloat16"].reason == "float16 is faster"
    assert outcomes["xla"].reason == "not faster: 0.80 (0.76 to 0.84)"
    assert choice.folder.joinpath("form").read_text() == f"{GRAPH}, float16"


def test_what_differs_too_much_is_not_even_measured(tmp_path: Path) -> None:
    judge = Given(SPEEDS, {GRAPH: 0.5, f"{GRAPH}, float16": float("inf")})
    choice, outcomes = chosen(judge, tmp_path)
    assert choice.form == GraphVariant("bfloat16")
    assert outcomes[GRAPH].reason == "differs by 0.5, more than 0.0001"
    assert "without limit, as where values overflow in float16" in outcomes["float16"].reason
    # What JSON has no number for.
    assert outcomes["float16"].difference is None
    assert {side for pair in judge.asked for side in pair}.isdisjoint({GRAPH, f"{GRAPH}, float16"})


def test_without_timing_each_accurate_change_is_kept_and_nothing_is_measured(
    tmp_path: Path,
) -> None:
    judge = Given({}, {f"{GRAPH}, float16": 0.5})
    choice, outcomes = chosen(judge, tmp_path, timed=False)
    assert choice.form == GraphVariant("bfloat16", compiled=True)
    assert choice.speedup is None
    assert judge.asked == []
    assert outcomes["float16"].reason == "differs by 0.5, more than 0.01"
    assert [name for name, item in outcomes.items() if item.applied] == [GRAPH, "bfloat16", "xla"]


def test_without_timing_a_later_half_precision_replaces_an_earlier_one(tmp_path: Path) -> None:
    choice, outcomes = chosen(Given({}), tmp_path, timed=False)
    assert choice.form == GraphVariant("float16", compiled=True)
    assert outcomes["bfloat16"].reason == "float16 replaces it"


def test_an_interval_that_holds_1_is_not_enough(tmp_path: Path) -> None:
    choice, outcomes = chosen(Given(dict.fromkeys(SPEEDS, 1.04) | {"source": 1.0}), tmp_path)
    assert outcomes[GRAPH].reason == "not faster: 1.04 (0.99 to 1.09)"
    assert choice.form is None


def test_the_source_is_kept_where_nothing_helps(tmp_path: Path) -> None:
    choice, outcomes = chosen(Given(dict.fromkeys(SPEEDS, 1.0)), tmp_path)
    assert choice.form is None
    assert (choice.folder, choice.speedup) == (tmp_path / "source", None)
    assert not [outcome for outcome in outcomes.values() if outcome.applied]


def test_changes_are_taken_back_until_the_result_is_faster_than_the_source(tmp_path: Path) -> None:
    judge = Given(SPEEDS, beside_source={f"{GRAPH}, float16": 0.9, f"{GRAPH}, bfloat16": 1.3})
    choice, outcomes = chosen(judge, tmp_path)
    assert choice.form == GraphVariant("bfloat16")
    assert choice.speedup is not None
    assert choice.speedup.estimate == 1.3
    assert outcomes["float16"].reason == "not faster: 0.90 (0.85 to 0.95), beside the source"
    assert outcomes["bfloat16"].applied


def test_what_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    class Failing(Given):
        def build(self, form: GraphVariant, folder: Path) -> None:
            if form.precision == "bfloat16":
                raise UnsupportedError("no such form", received="a loop")
            super().build(form, folder)

        def difference(self, folder: Path) -> float:
            if "float16" in self._form(folder):
                raise UnsupportedError("UnimplementedError: no kernel")
            return 0.0

        def speedup(self, base: Path, folder: Path) -> Interval:
            if "xla" in self._form(folder):
                raise StepFailedError("it took longer than 3 s")
            return super().speedup(base, folder)

    choice, outcomes = chosen(Failing(SPEEDS), tmp_path)
    assert choice.form == GraphVariant()
    assert outcomes["bfloat16"].reason == "can't be built or run: no such form (a loop)"
    assert outcomes["float16"].reason == "can't be built or run: UnimplementedError: no kernel"
    assert outcomes["xla"].reason == "not measured: it took longer than 3 s"


@dataclass
class Constant:
    """A judge that finds the same of all."""

    ratio: Interval
    far: float = 0.0

    def difference(self, folder: Path) -> float:
        return self.far

    def speedup(self, base: Path, folder: Path) -> Interval:
        return self.ratio


def test_the_source_gets_a_fixed_batch_unless_that_costs_something(
    lookup: Path, tmp_path: Path
) -> None:
    function, source = load_function(SavedModel(lookup)), Choice(lookup)
    even, slower = Interval(0.99, 0.97, 1.01), Interval(0.9, 0.85, 0.95)

    def build(folder: Path) -> None:
        export_again(function, folder, SavedModel(lookup), fixed_batch=3)

    made = with_fixed_batch(build, source, Constant(even), folder=tmp_path / "even", limit=1e-4)
    assert (made.folder, made.form, made.speedup) == (tmp_path / "even", None, even)
    signature = SavedModel(made.folder).signature("serving_batch_3")
    assert signature.inputs["x"].shape == (3,)
    assert signature.outputs["y"].shape == (3,)
    untimed = with_fixed_batch(
        build, source, Constant(slower), folder=tmp_path / "untimed", limit=1e-4, timed=False
    )
    assert untimed.speedup is None
    for judge in (Constant(slower), Constant(even, 0.1)):
        folder = tmp_path / f"{judge.far}"
        with pytest.raises(UnsupportedError, match="at no cost"):
            with_fixed_batch(build, source, judge, folder=folder, limit=1e-4)
