"""Parameters that are varied; draws are valid and repeatable."""

from pathlib import Path
from typing import Annotated

import pytest
from annotated_types import Ge

from paring.artifacts import Model
from paring.catalog import STEPS
from paring.step import Input, Output, Search, step
from paring_pipelines.pipeline.optimize import Sample, build
from paring_pipelines.pipeline.recipes import DEFAULT_FILE, Link, Recipe, load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.search.space import draw, space, trains


def _recipe(tmp_path: Path, steps: str) -> Recipe:
    file = tmp_path / "recipes.toml"
    file.write_text(f"[recipes.base]\nsteps = [{steps}]")
    return load_recipes(file)[0]


PRUNED = '{ step = "prune" }, { step = "convert_tflite", quantization = "int8" }'


RANGES = [
    (item.name, name, spec)
    for item in STEPS.values()
    for name, spec in item.parameters.items()
    if spec.search is not None
]


def test_every_range_is_within_the_bounds_of_its_parameter() -> None:
    assert {owner for owner, _, _ in RANGES} == {
        *("prune", "cluster", "quantize", "prune_channels", "convert_mixed")
    }
    for owner, name, spec in RANGES:
        assert spec.search is not None
        assert spec.search.low < spec.search.high
        for bound in (spec.search.low, spec.search.high):
            assert spec.parse(f"{owner}: {name}", bound) == bound


def test_a_range_beside_a_parameter_is_all_that_a_search_needs() -> None:
    @step
    def soften(
        model: Input[Model],
        softened: Output[Model],
        *,
        strength: Annotated[float, Ge(0), Search(0.1, 0.9)] = 0.5,
        rounds: int = 1,
    ) -> None:
        """Stand for a new step."""

    assert soften.parameters["strength"].parse("strength", "0.95") == 0.95
    base = Recipe("base", (Link(soften, soften.parse_parameters({"strength": 0.95})),))
    assert space(base) == {"0.strength": Search(0.1, 0.95)}
    (variant,) = draw(base, [(base, 0)], ["base"], count=1, seed=0)
    assert 0.1 <= float(variant.links[0].parameters["strength"]) < 0.95
    assert variant.links[0].parameters["rounds"] == 1


def test_text_has_no_range() -> None:
    def wrong(
        model: Input[Model],
        made: Output[Model],
        *,
        mode: Annotated[str, Search(0, 1)] = "a",
    ) -> None:
        """Stand for a wrong declaration."""

    with pytest.raises(TypeError, match="wrong: mode is no number to search"):
        step(wrong)


def test_only_recipes_with_epochs_train() -> None:
    result = {recipe.name: trains(recipe) for recipe in load_recipes(DEFAULT_FILE)}
    assert result["tflite-int8"] is False
    assert result["prune-int8"] is result["qat-int8"] is True


def test_conversion_is_varied_only_where_nothing_trains(tmp_path: Path) -> None:
    varied = {"0.sparsity", "0.epochs", "0.learning_rate"}
    assert set(space(_recipe(tmp_path, PRUNED))) == varied
    mixed = '{ step = "convert_mixed" }'
    assert set(space(_recipe(tmp_path, '{ step = "prune" }, ' + mixed))) == varied
    assert set(space(_recipe(tmp_path, mixed))) == {"0.max_difference"}
    assert space(_recipe(tmp_path, '{ step = "convert_tflite", quantization = "fp16" }')) == {}


def test_a_value_outside_of_its_range_widens_it(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, '{ step = "prune", sparsity = 0.95, epochs = 20 }')
    result = space(recipe)
    assert (result["0.sparsity"].low, result["0.sparsity"].high) == (0.2, 0.95)
    assert (result["0.epochs"].low, result["0.epochs"].high) == (1, 20)
    assert len(draw(recipe, [(recipe, 0)], ["base"], count=3, seed=0)) == 3


def test_a_value_of_zero_is_drawn_around_too(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, '{ step = "convert_mixed", max_difference = 0.0 }')
    assert len(draw(recipe, [(recipe, 0)], ["base"], count=3, seed=0)) == 3


def test_variants_keep_the_chain_and_differ_from_all_before(tmp_path: Path) -> None:
    base = _recipe(tmp_path, PRUNED)
    drawn = draw(base, [(base, 0)], ["base", "base-v1"], count=4, seed=0)
    assert [item.name for item in drawn] == ["base-v2", "base-v3", "base-v4", "base-v5"]
    assert len({str(item) for item in (base, *drawn)}) == 5
    for item in drawn:
        assert [link.step.name for link in item.links] == ["prune", "convert_tflite"]
        assert item.links[1] == base.links[1]
        assert 0.2 <= item.links[0].parameters["sparsity"] <= 0.9
        assert item.links[0].parameters["seed"] == base.links[0].parameters["seed"]


def test_variants_go_through_the_pipeline_like_recipes(tmp_path: Path) -> None:
    base = _recipe(tmp_path, PRUNED)
    drawn = draw(base, [], ["base"], count=3, seed=0)
    dag = build([base, *drawn], Settings(), Sample(500, 100))
    for item in drawn:
        assert dag.nodes[f"prune-{item.name}"].parameters == item.links[0].parameters
    assert set(dag.nodes["select"].inputs["candidates"]) == {
        *("source", "base", "base-v1", "base-v2", "base-v3"),
    }


def test_the_same_seed_and_past_draw_the_same(tmp_path: Path) -> None:
    base = _recipe(tmp_path, PRUNED)
    first = draw(base, [(base, 0)], ["base"], count=3, seed=0)
    assert first == draw(base, [(base, 0)], ["base"], count=3, seed=0)
    assert first != draw(base, [(base, 0)], ["base"], count=3, seed=1)
    tried = [(base, 0), *((item, 1) for item in first)]
    taken = ["base", *(item.name for item in first)]
    assert draw(base, tried, taken, count=3, seed=0) == draw(base, tried, taken, count=3, seed=0)


def test_draws_gather_where_results_were_good(tmp_path: Path) -> None:
    base = _recipe(tmp_path, PRUNED)
    many = draw(base, [], ["base"], count=18, seed=0)
    many.sort(key=lambda item: abs(float(item.links[0].parameters["sparsity"]) - 0.3))
    tried = [(item, rank) for rank, item in enumerate(many)]
    later = draw(base, tried, [item.name for item in many], count=10, seed=0)

    def distance(recipe: list[Recipe]) -> float:
        return sum(abs(float(item.links[0].parameters["sparsity"]) - 0.3) for item in recipe) / len(
            recipe
        )

    assert distance(later) < distance(many)


def test_a_space_that_is_used_up_gives_fewer() -> None:
    @step
    def shrink(
        model: Input[Model],
        shrunk: Output[Model],
        *,
        ratio: Annotated[float, Search(0.1, 0.7, spacing=0.05)] = 0.3,
    ) -> None:
        """Stand for a step with one parameter to vary."""

    base = Recipe("base", (Link(shrink, shrink.parse_parameters({})),))
    # 13 ratios, one of which is the recipe's own.
    assert 6 < len(draw(base, [(base, 0)], ["base"], count=2000, seed=0)) <= 12
