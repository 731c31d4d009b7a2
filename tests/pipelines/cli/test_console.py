"""Output of the command line about a run."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from tests.helpers.selections import candidate_row, selection_result

from paring.reporting import columns
from paring.reporting.columns import COLUMNS, Column
from paring.selection.candidates import CandidateRow, Outcome
from paring_pipelines.cli.console import show_outcome
from paring_pipelines.runners.session import PublishedRun


def _shown(*rows: CandidateRow) -> str:
    stream = io.StringIO()
    run = PublishedRun(
        selection_result(rows), Path("model"), Path("page"), ["import_model"], 9, 0.5
    )
    show_outcome(Console(file=stream, width=300), run, 1.0)
    return stream.getvalue()


def test_each_candidate_is_a_row_with_its_figures_and_the_reasons() -> None:
    shown = _shown(
        candidate_row("source", score=0.98, drop=0.0, p50_ms=3.0, size_bytes=4_000_000),
        candidate_row(
            "int8",
            outcome=Outcome.SELECTED,
            reasons=("the only one that passes",),
            score=0.97,
            drop=0.01,
            speedup=2.5,
            p50_ms=1.2,
            size_bytes=1_000_000,
            gzip_bytes=900_000,
        ),
    )
    (row,) = (line for line in shown.splitlines() if "97.0%" in line)
    cells = [cell.strip() for cell in row.split("\N{BOX DRAWINGS LIGHT VERTICAL}")[1:-1]]
    assert cells[:4] == ["int8", "selected", "97.0%", "\N{MINUS SIGN}1.0"]
    assert {"2.5\N{MULTIPLICATION SIGN}", "1.20 ms", "1.00 MB", "900 KB"} <= set(cells)
    assert "int8: the only one that passes" in shown
    assert "1 of 9 nodes were cached: import_model" in shown


def test_a_new_column_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    energy = Column("Energy", lambda row: f"{len(row.id)} joules")
    monkeypatch.setattr(columns, "COLUMNS", (*COLUMNS, energy))
    shown = _shown(candidate_row("source"), candidate_row("int8"))
    assert all(text in shown for text in ("energy", "6 joules", "4 joules"))
