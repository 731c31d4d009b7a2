"""Plans of a search, from the results of the rounds before; nothing is run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from paring.selection.pareto import SOURCE, Gate, Measured
from paring_pipelines.pipeline.recipes import Recipe, load_recipes
from paring_pipelines.search.plan import Planner
from paring_pipelines.search.results import Done, Result, Round, is_better, ranking

TRAIN_COUNT = 1250
"""1000 are left of them when a fifth is kept to judge by."""


def _result(
    name: str, drop: float = 0.0, speedup: float = 2.0, size: int = 100, outcome: str = "passed"
) -> Result:
    figures = Measured(name, drop, 1.0, speedup, 0.99 * speedup, 1.01 * speedup, size, 1000)
    return Result(outcome, (), figures)


_SOURCE = Result("passed", (), Measured(SOURCE, 0.0, 2.0, 1.0, 0.9, 1.1, 400, 1000))


@pytest.fixture
def recipes(tmp_path: Path) -> Callable[..., list[Recipe]]:
    """Makes recipes: `int8` and `mixed` plain, the others named for the step that trains."""

    def make(*names: str) -> list[Recipe]:
        int8 = '{ step = "convert_tflite", quantization = "int8" }'
        lines = []
        for name in names:
            if name == "mixed":
                lines.append('[recipes.mixed]\nsteps = [{ step = "convert_mixed" }]')
                continue
            trained = "" if name == "int8" else f'{{ step = "{name.rstrip("0123456789")}" }}, '
            lines.append(f"[recipes.{name}]\nsteps = [{trained}{int8}]")
        file = tmp_path / "recipes.toml"
        file.write_text("\n".join(lines))
        return load_recipes(file)

    return make


class Search:
    """Plays a search: each round that is planned gets its results at once."""

    def __init__(
        self,
        recipes: Sequence[Recipe],
        results: Mapping[str, Result] | None = None,
        affordable: float = float("inf"),
    ) -> None:
        self.planner = Planner(recipes, Gate(), train_count=TRAIN_COUNT)
        self.results = results or {}
        self.affordable = affordable
        self.done: list[Done] = []
        self.stopped = ""

    def _costs(self, rounds: Sequence[Round]) -> float:
        """A recipe costs 1 on the whole data, and its share of that on a part."""
        return sum(
            len(item.recipes) * (item.train_limit / 1000 if item.train_limit else 1)
            for item in rounds
        )

    def _fits(self, rounds: Sequence[Round]) -> bool:
        spent = self._costs([item.round for item in self.done])
        return spent + self._costs(rounds) <= self.affordable

    def play(self, most: int = 100) -> list[Round]:
        while len(self.done) < most:
            coming = self.planner.next(self.done, self._fits)
            if isinstance(coming, str):
                self.stopped = coming
                break
            result = {
                recipe.name: self.results.get(recipe.name, _result(recipe.name))
                for recipe in coming.recipes
            }
            self.done.append(Done(coming, {SOURCE: _SOURCE, **result}, 1.0))
        return [item.round for item in self.done]


def _names(rounds: Sequence[Round]) -> list[list[str]]:
    return [[recipe.name for recipe in item.recipes] for item in rounds]


def test_what_trains_nothing_comes_first_even_without_time(
    recipes: Callable[..., list[Recipe]],
) -> None:
    search = Search(recipes("prune", "int8"), affordable=0)
    rounds = search.play()
    assert _names(rounds) == [["int8"]]
    assert (rounds[0].stage, rounds[0].train_limit) == ("post-training", 0)
    assert "the time is up" in search.stopped
    assert "prune" in search.stopped


def test_without_such_a_recipe_the_source_is_measured_first(
    recipes: Callable[..., list[Recipe]],
) -> None:
    rounds = Search(recipes("prune")).play(2)
    assert _names(rounds) == [[], ["prune"]]


def test_two_that_train_go_to_the_whole_data_in_the_order_of_expected_gain(
    recipes: Callable[..., list[Recipe]],
) -> None:
    rounds = Search(recipes("int8", "prune", "quantize")).play(3)
    assert _names(rounds[1:]) == [["quantize"], ["prune"]]
    assert [item.stage for item in rounds[1:]] == ["whole", "whole"]


def test_the_field_is_halved_while_its_part_of_the_examples_doubles(
    recipes: Callable[..., list[Recipe]],
) -> None:
    names = ("prune1", "prune2", "prune3", "cluster1", "cluster2", "quantize1", "quantize2")
    drops = {name: _result(name, drop=0.001 * place) for place, name in enumerate(names)}
    rounds = Search(recipes("int8", *names, "quantize3"), drops).play(5)
    assert [item.stage for item in rounds[1:]] == ["screening", "screening", "screening", "whole"][
        : len(rounds) - 1
    ]
    assert [item.train_limit for item in rounds[1:4]] == [125, 250, 500]
    assert [len(item.recipes) for item in rounds[1:4]] == [8, 4, 2]
    # quantize3 has no drop of its own here, prune1 one of 0 as well.
    assert set(_names(rounds)[3]) == {"prune1", "quantize3"}
    assert len(rounds[4].recipes) == 1


def test_a_part_of_too_few_examples_is_left_out(recipes: Callable[..., list[Recipe]]) -> None:
    names = [f"prune{number}" for number in range(1, 5)]
    planner = Planner(recipes(*names), Gate(), train_count=300)
    done = [Done(Round("post-training", (), ""), {SOURCE: _SOURCE}, 1.0)]
    coming = planner.next(done, lambda rounds: True)
    assert isinstance(coming, Round)
    assert (coming.stage, coming.train_limit) == ("screening", 120)
    planner = Planner(recipes(*names), Gate(), train_count=200)
    coming = planner.next(done, lambda rounds: True)
    assert isinstance(coming, Round)
    assert coming.stage == "whole"


def test_what_does_not_fit_the_model_is_not_screened_further_but_stays_in_the_table(
    recipes: Callable[..., list[Recipe]],
) -> None:
    odd = {
        "prune": _result("prune", outcome="unsupported"),
        "cluster": _result("cluster", drop=0.001),
    }
    rounds = Search(recipes("prune", "cluster", "quantize"), odd).play(4)
    assert _names(rounds)[1:] == [["quantize", "prune", "cluster"], ["quantize"], ["prune"]]
    assert rounds[3].stage == "whole"


def test_a_field_is_cut_to_the_time_and_the_best_bets_stay(
    recipes: Callable[..., list[Recipe]],
) -> None:
    # Screening four costs 4/4 + 2/2 + 1 = 3, screening three 3/2 + 1 = 2.5.
    names = ("cluster", "prune1", "prune2", "quantize")
    drops = {name: _result(name, drop=0.001) for name in names[:3]}
    search = Search(recipes(*names), drops, affordable=2.6)
    rounds = search.play()
    assert _names(rounds) == [[], ["quantize", "prune1", "prune2"], ["quantize"]]
    assert "the time is up" in search.stopped


def test_without_time_to_screen_the_best_bets_go_to_the_whole_data(
    recipes: Callable[..., list[Recipe]],
) -> None:
    rounds = Search(recipes("cluster", "prune", "quantize"), affordable=2).play()
    assert _names(rounds) == [[], ["quantize"], ["prune"]]


def test_no_round_is_planned_that_the_time_does_not_hold(
    recipes: Callable[..., list[Recipe]],
) -> None:
    field = recipes("int8", "cluster", "prune1", "prune2", "quantize")
    for affordable in range(1, 30):
        search = Search(field, affordable=affordable)
        search.play()
        assert search._costs([item.round for item in search.done]) <= affordable
        assert "the time is up" in search.stopped or affordable > 15


def test_the_best_chain_is_narrowed_and_what_does_better_gets_the_whole_data(
    recipes: Callable[..., list[Recipe]],
) -> None:
    results = {
        "prune": _result("prune", drop=0.004),
        "quantize": _result("quantize", drop=0.02, outcome="rejected"),
        "prune-v2": _result("prune-v2", drop=0.001),
    }
    results |= {f"prune-v{n}": _result(f"prune-v{n}", drop=0.005) for n in (1, *range(3, 10))}
    results |= {f"quantize-v{n}": results["quantize"] for n in range(1, 10)}
    search = Search(recipes("prune", "quantize"), results)
    rounds = search.play()
    stages = [item.stage for item in rounds]
    assert (
        stages
        == ["post-training", "whole", "whole"] + ["narrowing"] * 3 + ["whole"] + ["narrowing"] * 3
    )
    assert _names(rounds)[3] == ["prune", "prune-v1", "prune-v2", "prune-v3"]
    assert _names(rounds)[4] == ["prune-v4", "prune-v5", "prune-v6"]
    assert _names(rounds)[6] == ["prune-v2"]
    assert {item.base for item in rounds[7:]} == {"quantize"}
    assert {item.train_limit for item in rounds if item.stage == "narrowing"} == {500}
    assert search.stopped == "nothing is left to try"


def test_a_chain_with_nothing_better_is_not_tried_again_on_the_whole_data(
    recipes: Callable[..., list[Recipe]],
) -> None:
    same = {
        name: _result(name, drop=0.001)
        for name in ("mixed", *(f"mixed-v{n}" for n in range(1, 10)))
    }
    rounds = Search(recipes("mixed"), same).play()
    assert [item.stage for item in rounds] == ["post-training"] + ["narrowing"] * 3


def test_a_variant_that_is_faster_by_chance_alone_is_not_tried_on_the_whole_data(
    recipes: Callable[..., list[Recipe]],
) -> None:
    results = {"prune": _result("prune", drop=0.002, speedup=2.0)}
    results |= {f"prune-v{n}": _result(f"prune-v{n}", 0.002, 6.0) for n in range(1, 10)}
    rounds = Search(recipes("prune"), results).play()
    assert [item.stage for item in rounds][1:] == ["whole", *["narrowing"] * 3]


def test_calibration_is_not_varied_where_no_accuracy_was_lost(
    recipes: Callable[..., list[Recipe]],
) -> None:
    search = Search(recipes("int8"), {"int8": _result("int8", drop=0.0)})
    assert [item.stage for item in search.play()] == ["post-training"]
    assert search.stopped == "nothing is left to try"


def test_what_was_screened_out_gets_its_turn_at_the_end(
    recipes: Callable[..., list[Recipe]],
) -> None:
    drops = {"prune": _result("prune", drop=0.002), "cluster": _result("cluster", drop=0.001)}
    rounds = Search(recipes("prune", "cluster", "quantize"), drops).play()
    first = [item.recipes[0].name for item in rounds[1:]]
    whole = [item.recipes[0].name for item in rounds if item.stage == "whole"]
    assert [item for item in whole if "-v" not in item] == ["quantize", "cluster", "prune"]
    assert rounds[first.index("cluster") + 1].why == "there is time left for it"
    assert rounds[first.index("cluster")].stage == "narrowing"


def test_the_same_past_gives_the_same_plan(recipes: Callable[..., list[Recipe]]) -> None:
    field = recipes("int8", "cluster", "prune", "quantize")
    assert Search(field).play() == Search(field).play()


def _order(results: Sequence[Result], gate: Gate) -> list[str]:
    return ranking({result.measured.id: result for result in results}, _SOURCE, gate)


def test_results_are_ordered_as_the_gate_and_the_objective_have_it() -> None:
    result = [
        _result("unsupported", outcome="unsupported"),
        _result("failed", outcome="failed"),
        _result("far", drop=0.05, speedup=9, outcome="rejected"),
        _result("near", drop=0.02, outcome="rejected"),
        _result("slow", speedup=1.5, size=50),
        _result("fast", drop=0.004, speedup=4),
        _result("exact", drop=0.001, speedup=4.05),
    ]
    tail = ["near", "far", "failed", "unsupported"]
    assert _order(result, Gate()) == ["exact", "fast", "slow", *tail]
    assert _order(result, Gate(objective="size")) == ["slow", "exact", "fast", *tail]
    assert _order(result, Gate(objective="memory")) == ["slow", "exact", "fast", *tail]


def test_a_budget_that_is_missed_by_less_is_better() -> None:
    gate = Gate(max_size_mb=0.001)
    large = _result("large", size=5000, outcome="rejected")
    larger = _result("larger", size=9000, speedup=9, outcome="rejected")
    assert _order([larger, large], gate) == ["large", "larger"]


def test_better_is_more_than_noise() -> None:
    def better(result: Result, other: Result) -> bool:
        return is_better(result, other, source=_SOURCE, gate=Gate())

    base = _result("base", drop=0.004, speedup=4.0)
    assert not better(_result("a", drop=0.004, speedup=4.01), base)
    assert not better(_result("a", drop=0.004, size=99), base)
    assert better(_result("a", drop=0.003, speedup=3.99), base)
    assert better(_result("a", drop=0.009, speedup=8.0), base)
    assert not better(_result("a", drop=0.02, speedup=8.0, outcome="rejected"), base)
    far = _result("far", drop=0.05, outcome="rejected")
    assert better(base, far)
    assert better(_result("near", drop=0.02, outcome="rejected"), far)
    assert not better(far, far)
