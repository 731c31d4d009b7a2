"""The charts of a report."""

import re

import pytest
from tests.helpers.selections import candidate_row, selection_result

from paring.evaluation.metrics import Metric
from paring.reporting.charts import Bar, Box, bar_chart, pareto_chart, place
from paring.selection.candidates import Outcome
from paring.selection.pareto import Gate


@pytest.mark.parametrize(("metric", "higher", "worse"), [("rmse", False, 2.5), ("auc", True, 1.5)])
def test_the_worse_score_is_drawn_lower(metric: str, higher: bool, worse: float) -> None:
    shared = {"size_bytes": 9, "metric": Metric(metric, higher)}
    rows = [
        candidate_row("source", p50_ms=1.0, score=2.0, **shared),
        candidate_row("worse", p50_ms=2.0, score=worse, **shared),
    ]
    text = pareto_chart(selection_result(rows, Gate(max_accuracy_drop=0.5)))
    # The bubbles alone are filled with that; SVG's y goes down.
    bubbles = re.findall(r'y="([\d.]+)" style="fill: var\(--surface\)', text)
    source, other = (float(y) for y in bubbles)
    assert source < other


def test_labels_of_crowded_bubbles_do_not_overlap() -> None:
    bounds = Box(0, 0, 780, 380)
    taken = [Box(380 + i, 180, 400 + i, 200) for i in range(14)]
    labels: list[Box] = []
    for i in range(14):
        box, _ = place(
            (390.0 + i, 190.0), 10.0, size=(90.0, 14.0), bounds=bounds, taken=[*taken, *labels]
        )
        labels.append(box)
    for index, box in enumerate(labels):
        assert box.within(bounds)
        assert all(box.overlap(other) == 0 for other in [*labels[:index], *taken])


def test_a_bubble_far_below_the_gate_is_drawn_at_the_edge_with_its_figure() -> None:
    rejected = {"outcome": Outcome.REJECTED, "pareto": False}
    rows = [
        candidate_row("source", p50_ms=1.0, size_bytes=100, score=0.98),
        candidate_row("broken", p50_ms=1.0, size_bytes=100, score=0.1, **rejected),
    ]
    text = pareto_chart(selection_result(rows))
    assert "broken (10.0%)" in text
    assert ">20<" not in text


def test_charts_take_their_colours_from_the_page() -> None:
    text = bar_chart("size", "Size", [Bar("a", 1.0, "1 MB", strong=True), Bar("b", 0.5, "0.5 MB")])
    assert set(re.findall(r"#[0-9a-f]{6}", text)) == set()
    assert "var(--accent)" in text
    assert "<title" in text
