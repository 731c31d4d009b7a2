"""Views of artifacts on Kubeflow's page of a task."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from paring.adapters.kfp_views import HTML, MARKDOWN, views
from paring.artifacts import BenchmarkMetrics, Failure, Model, Report, Selection
from paring.errors import ArtifactTypeError


def _text(suffix: str, artifact: Any) -> str:
    (view,) = [item for item in views(type(artifact)) if item.suffix == suffix]
    return view.text(artifact)


def _rows(text: str) -> list[list[str]]:
    """The cells of all tables, without their headings' underlines."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if set(row) != {"---"}]


@pytest.fixture
def selection(family: Any) -> Selection:
    """Selection of the source, a faster, a rejected, and an unsupported candidate."""
    family.add("int8", accuracy=0.975, p50_ms=2.0, speedup=5.0, size_bytes=250_000)
    family.add("poor", accuracy=0.6, p50_ms=1.9, speedup=5.2, size_bytes=250_000)
    family.add("odd", failure=Failure("unsupported", "prune", "<b>Rescaling</b> |\nand others"))
    family.select(max_size_mb=4.0)
    return Selection.load(family.root / "selection")


def test_only_what_is_looked_at_has_views() -> None:
    assert [view.suffix for view in views(BenchmarkMetrics)] == [MARKDOWN]
    assert [view.suffix for view in views(Selection)] == [MARKDOWN, HTML]
    assert [view.suffix for view in views(Report)] == [HTML]
    assert views(Model) == ()


def test_a_benchmark_is_a_table_of_the_candidate_beside_the_source(family: Any) -> None:
    family.add("int8", p50_ms=2.0, speedup=5.0, size_bytes=250_000)
    text = _text(MARKDOWN, BenchmarkMetrics.load(family.path("benchmarks", "int8")))
    assert text.startswith("**5.0× the source's speed**, 95% interval 5.0× to 5.0×\n")
    rows = _rows(text)
    assert rows[0] == ["", "candidate", "source"]
    assert ["median of one call", "2.00 ms", "10.0 ms"] in rows
    assert ["size", "250 KB"] in rows
    assert ["cold load", "–"] in rows
    machine = "On Example CPU: cores 2, threads 2, accelerators Example GPU, batch size 1."
    assert machine in text


def test_a_selection_is_the_verdict_the_gate_and_every_candidate(selection: Selection) -> None:
    text = _text(MARKDOWN, selection)
    assert text.startswith(
        "**int8 is 5.00× faster (4.98 to 5.02) and 4.0× smaller than the source,"
    )
    assert "a loss of 0.01 by accuracy, 4.0 MB at most; the best by latency is selected" in text
    rows = _rows(text)
    assert {len(row) for row in rows} == {10}
    by_id = {row[0]: row for row in rows}
    assert by_id["`int8`"][1:6] == ["**selected**", "97.5%", "−0.5", "5.0×", "2.00 ms"]
    assert by_id["`int8`"][8] == "250 KB"
    assert by_id["`poor`"][1] == "rejected"
    assert "drops accuracy" in by_id["`poor`"][9]
    # Neither a tag, nor a cell or a line of its own.
    assert by_id["`odd`"][1:4] == ["unsupported", "–", "–"]
    assert by_id["`odd`"][9] == r"&lt;b&gt;Rescaling&lt;/b&gt; \| and others"


def test_a_selections_chart_is_a_page_of_its_own(selection: Selection) -> None:
    page = _text(HTML, selection)
    HTMLParser().feed(page)
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 1
    assert "int8 is 5.00× faster" in page
    # All colours that the chart names are given.
    assert set(re.findall(r"var\((--[a-z-]+)\)", page)) <= set(re.findall(r"(--[a-z-]+):", page))
    assert not re.search(r"(src|href)=\"http", page)


def test_what_could_not_be_made_shows_the_reason(tmp_path: Path) -> None:
    failure = Failure("unsupported", "prune", "<b>this layer</b>")
    metrics = BenchmarkMetrics(tmp_path, failure=failure)
    assert _text(MARKDOWN, metrics) == ("**unsupported** in prune: &lt;b&gt;this layer&lt;/b&gt;\n")
    page = _text(HTML, Report(tmp_path, failure=failure))
    assert page == "<!doctype html><pre>&lt;b&gt;this layer&lt;/b&gt;</pre>\n"


@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "benchmark.json").write_text(content)
    with pytest.raises(ArtifactTypeError, match=r"benchmark\.json can't be read"):
        _text(MARKDOWN, BenchmarkMetrics(tmp_path))


def test_the_text_is_the_same_for_the_same_artifact(selection: Selection) -> None:
    assert json.loads(selection.file.read_text())["selected"] == "int8"
    assert _text(HTML, selection) == _text(HTML, selection)
