"""The columns of a selection's figures."""

from typing import Any

import pytest
from tests.helpers.selections import candidate_row

from paring.adapters.kfp_views import MARKDOWN, views
from paring.artifacts import Selection
from paring.execution import Call, execute
from paring.reporting import columns
from paring.reporting.columns import COLUMNS, Column, details, stacked_columns
from paring.steps.report import report


def test_a_column_is_shown_in_the_report_and_in_kubeflow(
    family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        columns, "COLUMNS", (*COLUMNS, Column("Energy", lambda row: f"{len(row.id)} joules"))
    )
    family.add("int8", accuracy=0.975, p50_ms=2.0, speedup=5.0, size_bytes=250_000)
    family.select()
    selection = family.root / "selection"
    inputs = {**family.inputs, "selection": selection}
    execute(report, Call(inputs, {"report": family.root / "report"}))
    (view,) = (item for item in views(Selection) if item.suffix == MARKDOWN)
    page = (family.root / "report" / "report.html").read_text()
    for text in (page, view.text(Selection.load(selection))):
        assert all(result in text for result in ("Energy", "4 joules", "6 joules"))


def test_each_column_stands_alone_or_under_one_that_does() -> None:
    alone = [item.heading for item, _ in stacked_columns()]
    below = [other for _, others in stacked_columns() for other in others]
    assert len(alone) + len(below) == len(COLUMNS)
    assert [item.heading for item in below] == [
        *("95% interval", "p90", "p99", "on GPU", "gzip", "first call")
    ]


def test_memory_on_a_gpu_stands_under_that_of_the_host() -> None:
    below = next(others for item, others in stacked_columns() if item.heading == "Peak memory")
    row = candidate_row("engine", peak_memory_bytes=3_000, peak_device_memory_bytes=412_000_000)
    assert details(below, row) == "412 MB"
    assert details(below, candidate_row("int8", peak_memory_bytes=3_000)) == ""


def test_what_was_not_measured_is_a_dash() -> None:
    assert {column.text(candidate_row("int8")) for column in COLUMNS} == {"\N{EN DASH}"}


def test_a_second_line_has_a_shared_unit_once() -> None:
    below = next(others for item, others in stacked_columns() if item.heading == "Latency p50")
    assert details(below, candidate_row("int8", p90_ms=1.5, p99_ms=2.25)) == "1.50, 2.25 ms"
    assert details(below, candidate_row("int8", p99_ms=2.25)) == "2.25 ms"
    assert details(below, candidate_row("int8")) == ""
