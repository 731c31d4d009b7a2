"""Parameters that are varied; draws are valid and repeatable."""

from pathlib import Path

import pytest

from paring.errors import ParameterError
from paring_pipelines.pipeline.optimize import Sample, Settings, build
from paring_pipelines.pipeline.recipes import DEFAULT_FILE, Recipe, load_recipes
from paring_pipelines.search import space as module
from paring_pipelines.search.space import RANGES, Range, check_ranges, draw, space, trains


def _recipe(tmp_path: Path, steps: str) -> Recipe:
    file = tmp_path / "recipes.toml"
    file.write_text(f"[recipes.base]\nsteps = [{steps}]")
    return load_recipes(file)[0]


PRUNED = '{ step = "prune" }, { step = "convert_tflite", quantization = "int8" }'


def test_every_range_is_one_of_the_catalogs_parameters_and_within_its_bounds() -> None:
    check_ranges()
    assert len({(one.step, one.parameter) for one in RANGES}) == len(RANGES)
    assert all(one.low < one.high for one in RANGES)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (Range("prone", "sparsity", 0, 1), "no step 'prone'"),
        (Range("prune", "sparcity", 0.1, 0.5), "no parameter 'sparcity'"),
        (Range("prune", "sparsity", 0.1, 1.0), "sparsity"),
        (Range("prune", "epochs", 0, 3), "epochs"),
        (Range("convert_tflite", "quantization", 0, 1), "no range of numbers"),
    ],
)
def test_a_range_that_no_step_takes_is_refused(wrong: Range, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        check_ranges([wrong])


def test_only_recipes_with_epochs_train() -> None:
    found = {one.name: trains(one) for one in load_recipes(DEFAULT_FILE)}
    assert found["tflite-int8"] is False
    assert found["prune-int8"] is found["qat-int8"] is True


def test_conversion_is_varied_only_where_nothing_trains(tmp_path: Path) -> None:
    varied = {"0.sparsity", "0.epochs", "0.learning_rate"}
    assert set(space(_recipe(tmp_path, PRUNED))) == varied
    mixed = '{ step = "convert_mixed" }'
    assert set(space(_recipe(tmp_path, '{ step = "prune" }, ' + mixed))) == varied
    assert set(space(_recipe(tmp_path, mixed))) == {"0.max_difference"}
    assert space(_recipe(tmp_path, '{ step = "convert_tflite", quantization = "fp16" }')) == {}


def test_a_value_outside_of_its_range_widens_it(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, '{ step = "prune", sparsity = 0.95, epochs = 20 }')
    found = space(recipe)
    assert (found["0.sparsity"].low, found["0.sparsity"].high) == (0.2, 0.95)
    assert (found["0.epochs"].low, found["0.epochs"].high) == (1, 20)
    assert len(draw(recipe, [(recipe, 0)], ["base"], 3, 0)) == 3


def test_a_value_of_zero_is_drawn_around_too(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, '{ step = "convert_mixed", max_difference = 0.0 }')
    assert len(draw(recipe, [(recipe, 0)], ["base"], 3, 0)) == 3


def test_variants_keep_the_chain_and_differ_from_all_before(tmp_path: Path) -> None:
    base = _recipe(tmp_path, PRUNED)
    drawn = draw(base, [(base, 0)], ["base", "base-v1"], 4, 0)
    assert [one.name for one in drawn] == ["base-v2", "base-v3", "base-v4", "base-v5"]
    assert len({str(one) for one in (base, *drawn)}) == 5
    for one in drawn:
        assert [link.step.name for link in one.links] == ["prune", "convert_tflite"]
        assert one.links[1] == base.links[1]
        assert 0.2 <= one.links[0].parameters["sparsity"] <= 0.9
        assert one.links[0].parameters["seed"] == base.links[0].parameters["seed"]


def test_variants_go_through_the_pipeline_like_recipes(tmp_path: Path) -> None:
    base = _recipe(tmp_path, PRUNED)
    drawn = draw(base, [], ["base"], 3, 0)
    dag = build([base, *drawn], Settings(), Sample(500, 100))
    for one in drawn:
        assert dag.nodes[f"prune-{one.name}"].parameters == one.links[0].parameters
    assert set(dag.nodes["select"].inputs["candidates"]) == {
        *("source", "base", "base-v1", "base-v2", "base-v3"),
    }


def test_the_same_seed_and_past_draw_the_same(tmp_path: Path) -> None:
    base = _recipe(tmp_path, PRUNED)
    first = draw(base, [(base, 0)], ["base"], 3, 0)
    assert first == draw(base, [(base, 0)], ["base"], 3, 0)
    assert first != draw(base, [(base, 0)], ["base"], 3, 1)
    tried = [(base, 0), *((one, 1) for one in first)]
    taken = ["base", *(one.name for one in first)]
    assert draw(base, tried, taken, 3, 0) == draw(base, tried, taken, 3, 0)


def test_draws_gather_where_results_were_good(tmp_path: Path) -> None:
    base = _recipe(tmp_path, PRUNED)
    many = draw(base, [], ["base"], 18, 0)
    many.sort(key=lambda one: abs(float(one.links[0].parameters["sparsity"]) - 0.3))
    tried = [(one, rank) for rank, one in enumerate(many)]
    later = draw(base, tried, [one.name for one in many], 10, 0)

    def distance(found: list[Recipe]) -> float:
        return sum(abs(float(one.links[0].parameters["sparsity"]) - 0.3) for one in found) / len(
            found
        )

    assert distance(later) < distance(many)


def test_a_space_that_is_used_up_gives_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = _recipe(tmp_path, '{ step = "cluster", epochs = 1, learning_rate = 1e-4 }')
    small = {f"0.{name}" for name in ("clusters", "epochs", "learning_rate")}
    assert set(space(base)) == small
    pruned = _recipe(tmp_path, '{ step = "prune_channels" }')
    few = [one for one in RANGES if (one.step, one.parameter) == ("prune_channels", "ratio")]
    monkeypatch.setattr(module, "RANGES", tuple(few))
    # 13 ratios, one of which is the recipe's own.
    assert len(draw(pruned, [(pruned, 0)], ["base"], 2000, 0)) <= 12
