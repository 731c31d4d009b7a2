"""Predicted times: from what was seen, and rather too long than too short."""

from collections.abc import Sequence

import pytest

from paring_pipelines.pipeline.optimize import Sample, build
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.search.cost import Work, predict, work_of


def _predict(work: Work, known: Sequence[tuple[Work, float]], forward: float = 0.001) -> float:
    return predict([work], known, forward)


def test_work_that_was_done_takes_as_long_as_it_took_at_most_times() -> None:
    known = [(Work("evaluate", False, 0), 2.0), (Work("evaluate", False, 0), 3.0)]
    assert _predict(Work("evaluate", False, 0), known) == 3.0
    assert predict([Work("evaluate", False, 0)] * 4, known, 0.001) == 12.0
    one_bad_moment = [*known, *known, (Work("evaluate", False, 0), 60.0)]
    assert _predict(Work("evaluate", False, 0), one_bad_moment) == 3.0


def test_training_is_judged_by_the_model_before_anything_was_trained() -> None:
    known = [(Work("benchmark", False, 0), 20.0)]
    assert _predict(Work("prune", False, 1000), known, forward=0.01) == pytest.approx(30.0)


def test_with_one_amount_more_is_in_proportion_and_less_takes_as_long() -> None:
    known = [(Work("prune", False, 1000), 10.0)]
    assert _predict(Work("prune", False, 3000), known) == pytest.approx(30.0)
    assert _predict(Work("prune", False, 500), known) == pytest.approx(10.0)


def test_with_two_amounts_the_start_counts_once() -> None:
    known = [(Work("prune", False, 1000), 6.0), (Work("prune", False, 2000), 8.0)]
    assert _predict(Work("prune", False, 4000), known) == pytest.approx(12.0)
    assert _predict(Work("prune", False, 1500), known) == pytest.approx(7.0)


def test_a_step_not_seen_is_taken_for_the_slowest_of_its_kind() -> None:
    known = [
        (Work("prune", False, 1000), 10.0),
        (Work("cluster", False, 1000), 20.0),
        (Work("benchmark", False, 0), 50.0),
    ]
    assert _predict(Work("quantize", False, 1000), known) == pytest.approx(20.0)
    assert _predict(Work("benchmark", True, 0), known) == 50.0
    assert _predict(Work("convert_tflite", False, 0), known) == 50.0


def test_epochs_and_the_part_of_the_examples_make_the_amount() -> None:
    recipes = [recipe for recipe in load_recipes() if recipe.name == "prune-int8"]
    dag = build(recipes, Settings(), Sample(500, 100))
    assert work_of(dag.nodes["prune-prune-int8"], 500, True) == Work("prune", False, 1000)
    assert work_of(dag.nodes["benchmark-source"], 500, True) == Work("benchmark", True, 0)
    assert "report" not in dag.nodes
    imported = dag.nodes["import_examples"].parameters
    assert (imported["eval_from"], imported["train_limit"]) == ("train", 500)
