"""The candidates of a selection and `selection.json`."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.selections import TOP_1, candidate_row, selection_result

from paring.artifacts import BenchmarkMetrics
from paring.errors import ArtifactTypeError
from paring.evaluation.metrics import Metric
from paring.selection.candidates import CandidateRow, Outcome, OutputScore, SelectionResult
from paring.selection.pareto import Gate, Measured

WHOLE = candidate_row(
    "int8",
    outcome=Outcome.SELECTED,
    reasons=("the fastest",),
    notes=("one", "two"),
    score=0.97,
    drop=0.01,
    other_outputs={"box": OutputScore(Metric.named("rmse"), 3.5, 0.02)},
    p50_ms=1.5,
    speedup=2.0,
    speedup_low=1.9,
    speedup_high=2.1,
    size_bytes=100,
    peak_memory_bytes=2000,
)
RESULT = replace(
    selection_result(
        [candidate_row("source", score=0.98, drop=0.0, size_bytes=400), WHOLE],
        Gate(max_accuracy_drop=0.02, max_size_mb=0.5, objective="size"),
    ),
    search={"rounds": []},
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "selection.json"
    RESULT.write(file)
    assert SelectionResult.read(file) == RESULT
    assert (RESULT.winner, RESULT.source.id) == (WHOLE, "source")


def test_the_file_has_the_members_that_its_readers_know(tmp_path: Path) -> None:
    content = RESULT.to_json()
    assert content["objective"] == "size"
    assert content["gate"] == {
        "max_accuracy_drop": 0.02,
        **{"metric": "top_1", "higher_is_better": True},
        **{"max_latency_ms": None, "max_size_mb": 0.5, "max_memory_mb": None},
        "sample_weights": None,
    }
    assert content["source"] == {
        "digest": "sha256:aa",
        **{"artifact": "/models", "score": 0.98, "accuracy": None, "p50_ms": None},
        **{"peak_memory_bytes": None, "size_bytes": 400, "gzip_bytes": None},
    }
    (row,) = (candidate for candidate in content["candidates"] if candidate["id"] == "int8")
    box = {"metric": "rmse", "higher_is_better": False, "score": 3.5, "drop": 0.02}
    assert row["other_outputs"] == {"box": box}
    assert (row["outcome"], row["metric"], row["higher_is_better"]) == ("selected", "top_1", True)
    # Plain JSON, without classes of Python's.
    assert json.loads(json.dumps(content)) == content


def test_what_decides_is_that_of_the_row() -> None:
    assert WHOLE.measured == Measured(
        id="int8",
        drop=0.01,
        p50_ms=1.5,
        speedup=2.0,
        speedup_low=1.9,
        speedup_high=2.1,
        size_bytes=100,
        peak_memory_bytes=2000,
        metric=TOP_1,
        others=(("box", Metric.named("rmse"), 0.02),),
    )


def test_a_figure_of_a_benchmark_has_the_same_name_in_a_row() -> None:
    shared = {field.name for field in fields(CandidateRow)} & {
        field.name for field in fields(BenchmarkMetrics)
    }
    assert {"p50_ms", "speedup_low", "throughput", "peak_memory_bytes", "first_ms"} <= shared


def _without(content: dict[str, Any], *path: Any) -> dict[str, Any]:
    *outer, last = path
    inside: Any = content
    for key in outer:
        inside = inside[key]
    del inside[last]
    return content


@pytest.mark.parametrize(
    "path",
    [
        ("gate",),
        ("gate", "max_accuracy_drop"),
        ("objective",),
        ("source", "digest"),
        ("candidates", 0),
    ]
    + [("candidates", 1, name) for name in ("id", "p50_ms", "metric", "reasons")],
)
def test_a_file_that_lacks_something_is_named(tmp_path: Path, path: tuple[Any, ...]) -> None:
    file = tmp_path / "selection.json"
    file.write_text(json.dumps(_without(RESULT.to_json(), *path)))
    with pytest.raises(ArtifactTypeError, match=r"selection\.json can't be read"):
        SelectionResult.read(file)


def test_an_outcome_that_there_is_not_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "selection.json"
    content = RESULT.to_json()
    content["candidates"][0]["outcome"] = "perfect"
    file.write_text(json.dumps(content))
    with pytest.raises(ArtifactTypeError, match="perfect"):
        SelectionResult.read(file)
