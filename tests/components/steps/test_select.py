"""Outputs of `select`: the record of a family, and the copied model."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paring.artifacts import (
    EvaluationMetrics,
    Failure,
    Findings,
    SelectedModel,
    Selection,
    Servable,
)
from paring.errors import ArtifactTypeError, ModelError, ParameterError, StepFailedError
from paring.execution import Call, execute
from paring.steps.select import select

KEYS = {
    *("id", "recipe", "artifact", "outcome", "reasons", "notes", "pareto"),
    *("accuracy", "accuracy_drop", "agreement"),
    *("metric", "higher_is_better", "score", "drop", "other_outputs"),
    *("p50_ms", "p90_ms", "p99_ms", "speedup", "speedup_low", "speedup_high", "throughput"),
    *("peak_memory_bytes", "peak_device_memory_bytes"),
    *("size_bytes", "size_ratio", "gzip_bytes", "load_ms", "first_ms"),
}


def test_the_fastest_that_passes_is_selected_and_copied(family: Any) -> None:
    family.add("int8", accuracy=0.975, p50_ms=2.0, speedup=5.0, size_bytes=250_000)
    family.add("fp16", p50_ms=4.0, speedup=2.5, size_bytes=500_000)
    result = family.select(recipes=json.dumps({"int8": "convert_tflite(quantization=int8)"}))

    assert result["selected"] == "int8"
    assert result["rows"]["int8"]["outcome"] == "selected"
    assert result["rows"]["int8"]["recipe"] == "convert_tflite(quantization=int8)"
    assert result["rows"]["int8"]["size_ratio"] == 4.0
    assert result["rows"]["int8"]["accuracy_drop"] == pytest.approx(0.005)
    assert result["rows"]["fp16"]["reasons"] == [
        "passes, but int8 is 2.00x faster (1.98 to 2.02) and 2.0x smaller"
    ]
    assert result["verdict"] == (
        "int8 is 5.00x faster (4.98 to 5.02) and 4.0x smaller than the source,"
        " with 0.5 points less accuracy."
    )
    selected = SelectedModel.load(family.root / "selected")
    assert selected.candidate == "int8"
    assert (selected.serving_dir / "model.bin").read_text() == "the bytes of int8"
    assert selected.size_bytes == len("the bytes of int8")
    selection = Selection.load(family.root / "selection")
    assert (selection.selected, selection.candidates, selection.passed) == ("int8", 3, 3)


def test_every_row_has_every_key_and_the_path_of_its_artifact(family: Any) -> None:
    family.add("broken", failure=Failure("failed", "quantize", "it broke"))
    result = family.select()
    for row in result["candidates"]:
        assert set(row) == KEYS
        assert row["artifact"] == str(family.path("candidates", row["id"]))
    assert result["source"]["artifact"] == str(family.path("candidates", "source"))
    assert result["source"]["digest"].startswith("sha256:")


def test_the_source_comes_first_then_the_order_of_the_objective(family: Any) -> None:
    family.add("a-slow", speedup=2.0, size_bytes=100_000)
    family.add("b-broken", failure=Failure("failed", "prune", "it broke"))
    family.add("c-fast", speedup=4.0, size_bytes=200_000)
    by_latency = [row["id"] for row in family.select()["candidates"]]
    by_size = [row["id"] for row in family.select(objective="size")["candidates"]]
    assert by_latency == ["source", "c-fast", "a-slow", "b-broken"]
    assert by_size == ["source", "a-slow", "c-fast", "b-broken"]


def test_a_rejected_candidate_says_by_how_much_it_misses(family: Any) -> None:
    family.add("int8", accuracy=0.957, speedup=5.0)
    row = family.select()["rows"]["int8"]
    assert row["outcome"] == "rejected"
    assert row["reasons"] == ["drops accuracy by 2.3 points, the gate allows 1.0"]
    assert row["pareto"] is False


def test_without_labels_disagreement_is_the_drop(new_family: Callable[[], Any]) -> None:
    family = new_family()
    family.add("source", accuracy=None)
    family.add("near", accuracy=None, agreement=0.995, speedup=2.0)
    family.add("far", accuracy=None, agreement=0.9, speedup=4.0)
    result = family.select()
    assert result["gate"]["metric"] == "agreement"
    assert result["selected"] == "near"
    assert result["rows"]["near"]["accuracy_drop"] == pytest.approx(0.005)
    assert result["rows"]["far"]["reasons"] == [
        "differs from the source on 10.0% of the examples, the gate allows 1.0% "
        "(there are no labels)"
    ]
    assert "agrees with it on 99.5%" in result["verdict"]


def test_an_error_may_grow_by_the_share_that_the_gate_allows(new_family: Callable[[], Any]) -> None:
    family = new_family()
    of_values = {"accuracy": None, "metric": "rmse", "higher_is_better": False}
    family.add("source", **of_values, score=50.0, drop=0.0)
    family.add("near", **of_values, score=50.4, drop=0.008, agreement=0.98, speedup=2.0)
    family.add("far", **of_values, score=51.55, drop=0.031, speedup=4.0)
    result = family.select()
    assert (result["gate"]["metric"], result["gate"]["higher_is_better"]) == ("rmse", False)
    assert result["source"]["score"] == 50
    assert result["rows"]["far"]["reasons"] == ["RMSE grows by 3.1%, the gate allows 1.0%"]
    row = result["rows"]["near"]
    assert (row["metric"], row["score"], row["drop"]) == ("rmse", 50.4, 0.008)
    # There is no class that could be right.
    assert row["accuracy"] is row["accuracy_drop"] is None
    assert result["verdict"] == (
        "near is 2.00x faster (1.98 to 2.02) than the source, with 0.8% more RMSE."
    )


def test_of_ties_the_one_with_the_smaller_error_says_so(new_family: Callable[[], Any]) -> None:
    family = new_family()
    of_values = {"accuracy": None, "metric": "mae", "higher_is_better": False, "speedup": 3.0}
    family.add("source", **(of_values | {"speedup": 1.0}), score=10.0, drop=0.0)
    family.add("one", **of_values, score=9.9, drop=-0.01)
    family.add("other", **of_values, score=10.0, drop=0.0)
    result = family.select()
    assert result["selected"] == "one"
    assert "1.0% less MAE" in result["rows"]["other"]["reasons"][0]
    assert result["verdict"].endswith("with 1.0% less MAE.")


def test_the_users_metric_is_told_by_its_functions_name(new_family: Callable[[], Any]) -> None:
    family = new_family()
    own = {"metric": "my_metrics:psnr"}
    family.add("source", **own, score=31.25, drop=0.0)
    family.add("near", **own, score=31.245, drop=0.005, speedup=2.0)
    family.add("far", **own, score=30.0, drop=1.25, speedup=4.0)
    result = family.select()
    assert result["rows"]["far"]["reasons"] == ["drops psnr by 1.250, the gate allows 0.010"]
    assert result["verdict"].endswith("with 0.005 less psnr.")


def test_every_output_is_held_to_the_gate(family: Any) -> None:
    def box(score: float, drop: float) -> dict[str, Any]:
        figures = {"metric": "rmse", "higher_is_better": False, "score": score, "drop": drop}
        return {"box": figures | {"source_score": 10.0}}

    family.add("near", speedup=2.0, other_outputs=box(10.05, 0.005))
    family.add("far", speedup=4.0, accuracy=0.9, other_outputs=box(15.0, 0.5))
    result = family.select()
    assert result["selected"] == "near"
    assert result["rows"]["far"]["reasons"] == [
        "drops accuracy by 8.0 points, the gate allows 1.0",
        "output box: RMSE grows by 50.0%, the gate allows 1.0%",
    ]
    answer = {"metric": "rmse", "higher_is_better": False, "score": 10.05, "drop": 0.005}
    assert result["rows"]["near"]["other_outputs"] == {"box": answer}


def test_figures_of_other_outputs_that_are_cut_off_are_refused(family: Any) -> None:
    other = {"metric": "rmse", "higher_is_better": False, "score": 1.0, "drop": 0.0}
    family.add("int8", other_outputs={"box": other})
    file = family.path("evaluations", "int8") / "evaluation.json"
    file.write_text(file.read_text()[:20])
    EvaluationMetrics.load(file.parent).save()
    with pytest.raises(ArtifactTypeError, match="can't be read"):
        family.select()


def test_a_drop_of_nan_does_not_pass_the_gate(family: Any) -> None:
    family.add("int8", speedup=4.0)
    record = family.path("evaluations", "int8") / "paring.json"
    content = json.loads(record.read_text())
    content["facts"]["drop"] = float("nan")
    record.write_text(json.dumps(content))
    result = family.select()
    assert result["selected"] == "source"
    assert result["rows"]["int8"]["reasons"] == ["its accuracy was not measured"]


@pytest.mark.parametrize("drop", [float("nan"), float("inf"), "0.0", None])
def test_a_drop_of_another_output_that_is_no_number_is_refused(family: Any, drop: object) -> None:
    figures = {"metric": "rmse", "higher_is_better": False, "score": 1.0, "drop": drop}
    family.add("int8", speedup=4.0, other_outputs={"box": figures})
    with pytest.raises(ArtifactTypeError, match="can't be read"):
        family.select()


@pytest.mark.parametrize("metric", ["mae", ""])
def test_evaluations_by_other_metrics_are_refused(family: Any, metric: str) -> None:
    family.add("int8", metric=metric or "top_1", score=0.9, drop=0.0)
    path = family.path("evaluations", "int8")
    record = json.loads((path / "paring.json").read_text())
    record["facts"]["metric"] = metric
    (path / "paring.json").write_text(json.dumps(record))
    with pytest.raises(ParameterError, match="'int8' was not evaluated by the source's metric"):
        family.select()


@pytest.mark.parametrize("outcome", ["unsupported", "failed"])
def test_what_could_not_be_made_is_a_row_with_its_reason(family: Any, outcome: str) -> None:
    family.add("broken", failure=Failure(outcome, "prune", "Rescaling can't be pruned"))
    row = family.select()["rows"]["broken"]
    assert row["outcome"] == outcome
    assert row["reasons"] == ["Rescaling can't be pruned"]
    assert row["p50_ms"] is row["accuracy"] is row["size_bytes"] is None


def test_nothing_beats_the_source_is_an_explained_result(family: Any) -> None:
    family.add("copy", speedup=1.02, spread=0.05)
    result = family.select()
    assert result["selected"] == "source"
    assert result["verdict"].startswith("Nothing beats the source")
    assert result["rows"]["copy"]["outcome"] == "passed"
    assert result["rows"]["copy"]["reasons"] == [
        "passes, but its speed-up is 1.02 (95% interval 0.97 to 1.07); "
        "the source is as fast within the noise and not larger"
    ]
    assert (family.root / "selected/Format-Serving/model.bin").read_text() == "the bytes of source"


def test_nothing_meets_the_budgets_keeps_the_source_and_says_which(family: Any) -> None:
    family.add("int8", speedup=5.0, p50_ms=2.0)
    result = family.select(max_latency_ms=1.0)
    assert result["selected"] == "source"
    assert result["verdict"].startswith("Nothing meets")
    assert result["rows"]["source"]["outcome"] == "selected"
    assert result["rows"]["source"]["reasons"] == [
        "its p50 latency is 10.0 ms, the budget is 1.0 ms",
        "nothing meets the gate and the budgets, so the source is kept",
    ]
    assert Selection.load(family.root / "selection").passed == 0


def test_a_source_that_misses_a_budget_gives_way_to_a_candidate_that_meets_it(family: Any) -> None:
    family.add("small", speedup=0.8, size_bytes=100_000)
    result = family.select(max_size_mb=0.5)
    assert result["selected"] == "small"
    assert result["rows"]["source"]["outcome"] == "rejected"
    assert "1.25x slower (1.22 to 1.28) and 10.0x smaller" in result["verdict"]


def test_the_same_inputs_give_the_same_bytes(family: Any) -> None:
    family.add("int8", speedup=5.0)
    family.select()
    first = (family.root / "selection/selection.json").read_bytes()
    family.select()
    assert (family.root / "selection/selection.json").read_bytes() == first


row = st.fixed_dictionaries(
    {
        "accuracy": st.sampled_from([0.9, 0.965, 0.97, 0.98, 0.99]),
        "speedup": st.sampled_from([0.5, 1.01, 2.0, 2.1, 5.0]),
        "size_bytes": st.sampled_from([250_000, 400_000, 1_000_000]),
        "peak_memory_bytes": st.sampled_from([100_000_000, 405_000_000]),
    }
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(row, max_size=4), st.sampled_from(["latency", "size", "memory"]))
def test_exactly_one_is_selected_and_it_passes_or_is_the_source(
    new_family: Callable[[], Any], rows: list[dict[str, Any]], objective: str
) -> None:
    family = new_family()
    family.add("source")
    for index, figures in enumerate(rows):
        family.add(f"c{index}", p50_ms=10.0 / figures["speedup"], **figures)
    result = family.select(objective=objective, max_size_mb=0.5)
    (chosen,) = [row for row in result["candidates"] if row["outcome"] == "selected"]
    assert chosen["id"] == result["selected"]
    meets = chosen["accuracy_drop"] <= 0.01 + 1e-9 and chosen["size_bytes"] <= 500_000
    passing = [r for r in result["candidates"] if r["outcome"] in ("passed", "selected")]
    assert meets or (chosen["id"] == "source" and passing == [chosen])
    assert all(row["reasons"] for row in result["candidates"])


def test_a_family_without_the_source_is_refused(new_family: Callable[[], Any]) -> None:
    family = new_family()
    family.add("int8")
    with pytest.raises(ParameterError, match="source model is missing"):
        family.select()


def test_families_with_different_ids_are_refused(family: Any) -> None:
    family.add("int8")
    inputs = family.inputs
    del inputs["benchmarks"]["int8"]
    outputs = {name: family.root / name for name in ("selection", "selected")}
    with pytest.raises(ParameterError, match="benchmarks: 'int8' is missing"):
        execute(select, Call(inputs, outputs))
    assert not outputs["selection"].exists()


def test_a_source_that_could_not_be_measured_is_an_error(new_family: Callable[[], Any]) -> None:
    family = new_family()
    family.add("source", failure=Failure("failed", "benchmark", "it ran out of time"))
    with pytest.raises(StepFailedError, match="it ran out of time"):
        family.select()


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ("{", "this is not JSON"),
        ("[]", "must map ids to texts"),
        ('{"source": 1}', "must map ids to texts"),
        ('{"sauce": "x"}', "did you mean 'source'"),
    ],
)
def test_recipes_that_can_not_be_read_are_refused(family: Any, recipes: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        family.select(recipes=recipes)


@pytest.mark.parametrize("name", ["max_accuracy_drop", "max_latency_ms", "max_size_mb"])
def test_a_negative_limit_is_refused(family: Any, name: str) -> None:
    with pytest.raises(ParameterError, match=name):
        family.select(**{name: -1.0})


def test_a_chosen_candidate_without_a_served_form_is_refused(family: Any) -> None:
    served = family.path("candidates", "source") / "Format-Serving"
    (served / "model.bin").unlink()
    served.rmdir()
    Servable.load(served.parent).save()
    with pytest.raises(ModelError, match="no served form"):
        family.select()


def test_what_is_told_of_a_search_is_kept(family: Any) -> None:
    result = {"budget_minutes": 10.0, "rounds": [{"stage": "whole"}]}
    assert family.select(search=json.dumps(result))["search"] == result
    assert "search" not in family.select()


@pytest.mark.parametrize(("search", "message"), [("{", "not JSON"), ("[]", "object")])
def test_a_search_that_can_not_be_read_is_refused(family: Any, search: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        family.select(search=search)


def test_a_selection_names_the_weights_that_its_evaluations_have(family: Any) -> None:
    assert family.select()["gate"]["sample_weights"] is None
    family.add("int8", speedup=5.0)
    for name in ("source", "int8"):
        evaluation = EvaluationMetrics.load(family.path("evaluations", name))
        evaluation.sample_weights = "importance"
        evaluation.save()
    assert family.select()["gate"]["sample_weights"] == "importance"
    assert Selection.load(family.root / "selection").sample_weights == "importance"


def test_evaluations_with_different_weights_are_refused(family: Any) -> None:
    family.add("int8", speedup=5.0)
    evaluation = EvaluationMetrics.load(family.path("evaluations", "int8"))
    evaluation.sample_weights = "importance"
    evaluation.save()
    with pytest.raises(ParameterError, match=r"'int8'[\s\S]*importance, the source with none"):
        family.select()


def test_evaluations_of_different_examples_are_refused(family: Any) -> None:
    family.add("int8", speedup=4.0)
    evaluation = EvaluationMetrics.load(family.path("evaluations", "int8"))
    evaluation.count = 359
    evaluation.save()
    with pytest.raises(ParameterError, match="'int8' was not judged on the source's examples"):
        family.select()


@pytest.mark.parametrize("kind", ["benchmarks", "evaluations"])
def test_figures_of_another_model_than_the_candidate_are_refused(family: Any, kind: str) -> None:
    family.add("int8", speedup=4.0)
    family.add("fp16", speedup=2.0)
    for name in ("int8", "fp16"):
        measured = Findings.load(family.path(kind, name))
        candidate = Servable.load(family.path("candidates", name))
        measured.lineage = {"step": "measure", "inputs": {"candidate": candidate.described()}}
        measured.save()
    assert family.select()["selected"] == "int8"
    paths = [family.path(kind, name) for name in ("int8", "fp16")]
    paths[0].rename(family.root / "other")
    paths[1].rename(paths[0])
    (family.root / "other").rename(paths[1])
    with pytest.raises(ParameterError, match="of another model than the candidate"):
        family.select()
