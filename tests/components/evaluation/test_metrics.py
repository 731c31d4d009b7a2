"""Wording of a metric's scores and drops."""

from pathlib import Path

import pytest

from paring.artifacts import content_digest
from paring.errors import ParameterError
from paring.evaluation.metrics import NAMES, Metric, check_name, function_digest

ACCURACY = Metric.named("top_1")
RMSE = Metric.named("rmse")
AUC = Metric.named("auc")
OWN = Metric("my.metrics:dice")
OWN_ERROR = Metric("my.metrics:chamfer", higher_is_better=False)


@pytest.mark.parametrize("name", [*NAMES, "metrics:dice", "my.own_metrics:f1"])
def test_a_metric_or_a_function_may_be_named(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("top1", "did you mean 'top_1'"),
        ("accuracy", "token_accuracy"),
        ("", "MODULE:FUNCTION"),
        ("metrics:", "MODULE:FUNCTION"),
        ("metrics.py:dice", "my_metrics:dice"),
        ("metrics.py:dice()", "my_metrics.py in the working directory"),
        ("../metrics:dice", "MODULE:FUNCTION"),
    ],
)
def test_another_name_gets_the_nearest_or_the_form(name: str, remedy: str) -> None:
    with pytest.raises(ParameterError, match="metric:") as caught:
        check_name(name)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "label", "score", "shown"),
    [
        (ACCURACY, "accuracy", 0.9751, "97.5%"),
        (Metric.named("top_5"), "top-5 accuracy", 1.0, "100.0%"),
        (AUC, "AUC", 0.98765, "0.9877"),
        (RMSE, "RMSE", 54.1987, "54.20"),
        (RMSE, "RMSE", 12345.678, "12,346"),
        (RMSE, "RMSE", 0.0, "0"),
        (RMSE, "RMSE", 1.2344e-9, "1.234e-09"),
        (OWN, "dice", 0.87654, "0.8765"),
        (Metric.named("value_agreement"), "agreement", 0.998, "99.8%"),
    ],
)
def test_a_score_is_shown_in_its_unit(metric: Metric, label: str, score: float, shown: str) -> None:
    assert (metric.label, metric.shown(score)) == (label, shown)


@pytest.mark.parametrize(
    ("metric", "source", "candidate", "drop", "change"),
    [
        (ACCURACY, 0.98, 0.957, 0.023, "\N{MINUS SIGN}2.3"),
        (ACCURACY, 0.98, 0.98, 0.0, "\N{PLUS-MINUS SIGN}0.0"),
        (AUC, 0.95, 0.96, -0.01, "+1.0"),
        (RMSE, 50.0, 51.55, 0.031, "+3.1%"),
        (RMSE, 50.0, 49.0, -0.02, "\N{MINUS SIGN}2.0%"),
        (OWN, 0.9, 0.85, 0.05, "\N{MINUS SIGN}0.05"),
        (OWN_ERROR, 2.0, 2.2, 0.1, "+10.0%"),
    ],
)
def test_scores_drop_and_errors_grow(
    metric: Metric, source: float, candidate: float, drop: float, change: str
) -> None:
    assert metric.drop(source, candidate) == pytest.approx(drop)
    assert metric.change(drop) == change
    assert metric.limit(source, drop) == pytest.approx(candidate)


@pytest.mark.parametrize(
    ("metric", "objection", "gate"),
    [
        (ACCURACY, "drops accuracy by 5.0 points, the gate allows 1.0", "accuracy drop of at most"),
        (AUC, "drops AUC by 5.0 points, the gate allows 1.0", "AUC drop of at most 1 point"),
        (RMSE, "RMSE grows by 5.0%, the gate allows 1.0%", "RMSE growth of at most 1%"),
        (OWN, "drops dice by 0.050, the gate allows 0.010", "dice drop of at most 0.01"),
        (OWN_ERROR, "chamfer grows by 5.0%, the gate allows 1.0%", "chamfer growth of at most 1%"),
        (
            Metric.named("token_agreement"),
            "differs from the source on 5.0% of the tokens, the gate allows 1.0%",
            "disagreement with the source of at most 1%",
        ),
        (
            Metric.named("value_agreement"),
            "misses 5.0% of the variance of the source's outputs, the gate allows 1.0%",
            "variance of the source missed of at most 1%",
        ),
    ],
)
def test_the_gate_speaks_of_the_metric(metric: Metric, objection: str, gate: str) -> None:
    assert metric.objection(0.05, 0.01).startswith(objection)
    assert metric.gate(0.01).startswith(gate)
    assert metric.labelled is ("no labels" not in metric.objection(0.05, 0.01))


@pytest.mark.parametrize(
    ("metric", "drop", "verdict"),
    [
        (ACCURACY, 0.005, "with 0.5 points less accuracy"),
        (ACCURACY, 0.0004, "at the same accuracy"),
        (RMSE, 0.008, "with 0.8% more RMSE"),
        (RMSE, -0.008, "with 0.8% less RMSE"),
        (OWN, -0.02, "with 0.02 more dice"),
        (Metric.named("agreement"), 0.005, "and agrees with it on 99.5% of the examples"),
        (Metric.named("value_agreement"), 0.005, "and gives 99.5% of the variance of its outputs"),
    ],
)
def test_the_verdict_ends_in_what_it_cost(metric: Metric, drop: float, verdict: str) -> None:
    assert metric.verdict(drop, 0.995) == verdict


def test_what_is_better_by_nothing_is_not_said_to_be() -> None:
    assert ACCURACY.advantage(0.01) == "1.0 points more accurate"
    assert RMSE.advantage(0.02) == "2.0% less RMSE"
    assert OWN.advantage(0.02) == "0.02 more dice"
    assert Metric.named("agreement").advantage(0.01) == "1.0 points closer to the source"
    for metric in (ACCURACY, RMSE, OWN):
        assert metric.advantage(0.0) == ""


def test_a_functions_file_is_found_in_the_working_directory_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "never_imported.py"
    file.write_text("raise RuntimeError('this was run')\n")
    monkeypatch.chdir(tmp_path)
    first = function_digest("never_imported:dice")
    assert first == content_digest(file)
    file.write_text("raise RuntimeError('this too')\n")
    assert function_digest("never_imported:dice") != first


@pytest.mark.parametrize("name", ["no_such_module:dice", "no_such.module:dice", "numpy.absent:f"])
def test_a_module_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ParameterError, match=f"no module {name.partition(':')[0]}"):
        function_digest(name)
