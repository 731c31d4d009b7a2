"""Output of the command line about a run."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from tests.helpers.selections import candidate_row, selection_result

from paring.artifacts import (
    Artifact,
    BenchmarkMetrics,
    EvaluationMetrics,
    SelectedModel,
    Selection,
    TFLiteModel,
)
from paring.errors import OutputError
from paring.reporting import columns
from paring.reporting.columns import COLUMNS, Column
from paring.selection.candidates import CandidateRow, Outcome
from paring_pipelines.cli.console import NodeProgress, show_outcome
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.runners.base import NodeEvent
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


def test_a_figure_that_no_candidate_has_takes_no_column() -> None:
    row = candidate_row("int8", score=0.97, size_bytes=1_000_000)
    assert "on gpu" not in _shown(row)
    assert "on gpu" in _shown(replace(row, peak_device_memory_bytes=1_000))


def test_a_new_column_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    energy = Column("Energy", lambda row: f"{len(row.id)} joules")
    monkeypatch.setattr(columns, "COLUMNS", (*COLUMNS, energy))
    shown = _shown(candidate_row("source"), candidate_row("int8"))
    assert all(text in shown for text in ("energy", "6 joules", "4 joules"))


def test_progress_shows_each_node_of_a_graph_and_counts_the_candidates(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes.toml"
    # Their nodes are named like those that measure.
    recipes.write_text(
        "".join(
            f'[recipes.benchmark-{number}]\nsteps = [{{ step = "convert_tflite" }}]\n'
            for number in range(2)
        )
    )
    dag = build(load_recipes(recipes), Settings())
    stream = io.StringIO()
    shown = NodeProgress(Console(file=stream, width=200))
    progress = shown.progress()
    progress.planned(dag)
    node = dag.nodes["convert_tflite-benchmark-0"]
    made = TFLiteModel(tmp_path, size_bytes=1234)
    for event in (NodeEvent(node), NodeEvent(node, 1.5, (made,))):
        progress.observed(event)
    failed = OutputError("the disk is full")
    for event in (
        NodeEvent(dag.nodes["select"]),
        NodeEvent(dag.nodes["select"], 0.1, error=failed),
    ):
        progress.observed(event)
    shown.close()
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert f"3 candidates, {len(dag.nodes)} nodes" in lines
    assert (
        f"\N{CHECK MARK} 1/{len(dag.nodes)} convert_tflite-benchmark-0 1.5 s 1,234 bytes" in lines
    )
    assert f"\N{BALLOT X} 2/{len(dag.nodes)} select 0.1 s failed" in lines


@pytest.mark.parametrize(
    ("outputs", "note"),
    [
        (
            (
                EvaluationMetrics(
                    Path(), metric="top_1", score=0.975, accuracy=0.975, agreement=0.5
                ),
            ),
            "accuracy 97.5%, agreement 50.00%",
        ),
        (
            (EvaluationMetrics(Path(), metric="agreement", score=0.5, agreement=0.5),),
            "agreement 50.0%",
        ),
        (
            (BenchmarkMetrics(Path(), p50_ms=1.25, speedup=2.0, size_bytes=1000),),
            "p50 1.250 ms, 2.00 times as fast, 1,000 bytes",
        ),
        (
            (Selection(Path(), selected="int8"), SelectedModel(Path(), size_bytes=7)),
            "int8, 7 bytes",
        ),
        ((TFLiteModel(Path()),), ""),
    ],
)
def test_a_nodes_line_has_what_is_worth_a_glance(outputs: tuple[Artifact, ...], note: str) -> None:
    stream = io.StringIO()
    shown = NodeProgress(Console(file=stream, width=200))
    node = build([], Settings()).nodes["select"]
    for event in (NodeEvent(node), NodeEvent(node, 1.5, outputs)):
        shown.progress().observed(event)
    assert stream.getvalue().partition(" 1.5 s")[2].strip() == note
