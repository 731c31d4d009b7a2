"""Views of artifacts for Kubeflow's page of a task, in Markdown and HTML.

Kubeflow draws artifacts of the types system.Markdown and system.HTML, which must be
the file itself, while Paring's artifacts are folders. So beside an output stands one
of those types for each of its views, under the output's name with the view's suffix.
"""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from paring.artifacts import Artifact, BenchmarkMetrics, Report, Selection
from paring.artifacts.reading import read_object
from paring.reporting import figures
from paring.reporting.columns import brief_columns, change, score
from paring.selection.candidates import SelectionResult

HTML, MARKDOWN = "_html", "_markdown"
"""The suffixes, which name the types too."""


@dataclass(frozen=True)
class View:
    """View of an artifact as text.

    Attributes:
        suffix: `HTML` or `MARKDOWN`.
        content: Gives the file's text for an artifact that could be made.
    """

    suffix: str
    content: Callable[[Any], str]

    def text(self, artifact: Artifact) -> str:
        """Return the text of the view; for an artifact that could not be built, the reason.

        Raises:
            ArtifactTypeError: The artifact's own file can't be read.
        """
        failure = artifact.failure
        if failure is None:
            return self.content(artifact)
        if self.suffix == HTML:
            return f"<!doctype html><pre>{html.escape(failure.reason)}</pre>\n"
        return f"**{failure.outcome}** in {failure.step}: {_plain(failure.reason)}\n"


def views(kind: type[Artifact]) -> tuple[View, ...]:
    """Return the views of artifacts of the type `kind`."""
    return next((result for shown, result in _VIEWS.items() if issubclass(kind, shown)), ())


def _report_page(report: Report) -> str:
    return report.file.read_text(encoding="utf-8")


def _benchmark_table(metrics: BenchmarkMetrics) -> str:
    """Return the figures of the candidate beside the source's, and the machine."""
    result = read_object(metrics.file, "source", "environment", "batch_size")
    source, machine = result["source"], result["environment"]
    compared = [
        ("median of one call", figures.ms(metrics.p50_ms), figures.ms(source["p50_ms"])),
        ("90th percentile", figures.ms(metrics.p90_ms), figures.ms(source["p90_ms"])),
        ("99th percentile", figures.ms(metrics.p99_ms), figures.ms(source["p99_ms"])),
        (
            "examples a second",
            figures.scaled(metrics.throughput),
            figures.scaled(source["throughput"]),
        ),
    ]
    alone = [
        ("peak memory", figures.size(metrics.peak_memory_bytes)),
        ("peak memory on GPU", figures.size(metrics.peak_device_memory_bytes)),
        ("size", figures.size(metrics.size_bytes)),
        ("size after gzip", figures.size(metrics.gzip_bytes)),
        ("cold load", figures.ms(metrics.load_ms)),
        ("first inference", figures.ms(metrics.first_ms)),
    ]
    low, high = figures.times(metrics.speedup_low), figures.times(metrics.speedup_high)
    parts = [
        f"**{figures.times(metrics.speedup)} the source's speed**, 95% interval {low} to {high}",
        _table(("", "candidate", "source"), compared),
        _table(("candidate alone", ""), alone),
        f"On {_plain(machine['cpu'])}: cores {machine['cores']}, threads {machine['threads']},"
        f" accelerators {_plain(', '.join(machine['accelerators'])) or 'none'},"
        f" batch size {result['batch_size']}.",
    ]
    return "\n\n".join(parts) + "\n"


def _selection_table(selection: Selection) -> str:
    """Return the verdict, the gate, and every candidate with what was decided about it."""
    result = SelectionResult.read(selection.file)
    gate, metric = result.gate, result.metric
    columns = [column for column in brief_columns() if not column.under]
    headings = (
        "candidate",
        "outcome",
        metric.label,
        "change",
        *(column.heading for column in columns),
    )
    rows = [
        (
            f"`{row.id}`",
            f"**{row.outcome}**" if row.is_selected else str(row.outcome),
            score(row),
            change(row),
            *(column.text(row) for column in columns),
            _plain(figures.typeset("; ".join([*row.reasons, *row.notes]))),
        )
        for row in result.candidates
    ]
    limits = [f"a loss of {gate.max_accuracy_drop} by {metric.label}"] + [
        text.format(limit)
        for limit, text in (
            (gate.max_latency_ms, "{} ms"),
            (gate.max_size_mb, "{} MB"),
            (gate.max_memory_mb, "{} MB of memory"),
        )
        if limit
    ]
    parts = [
        f"**{_plain(figures.typeset(result.verdict))}**",
        f"The gate lets pass {_plain(', '.join(limits))} at most; the best by"
        f" {gate.objective} is selected. The change is {metric.change_unit}.",
        _table((*headings, "why"), rows),
    ]
    return "\n\n".join(parts) + "\n"


def _selection_chart(selection: Selection) -> str:
    """Return a page with latency against the metric, which Markdown can't draw."""
    # Imported late: other containers need neither.
    import jinja2
    from markupsafe import Markup

    from paring.reporting.charts import pareto_chart

    result = SelectionResult.read(selection.file)
    folder = resources.files("paring.reporting") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(folder)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("selection.html.j2").render(
        selected=result.selected,
        verdict=figures.typeset(result.verdict),
        metric=result.metric.label,
        chart=Markup(pareto_chart(result)),
    )


_VIEWS: Mapping[type[Artifact], tuple[View, ...]] = {
    Report: (View(HTML, _report_page),),
    BenchmarkMetrics: (View(MARKDOWN, _benchmark_table),),
    Selection: (View(MARKDOWN, _selection_table), View(HTML, _selection_chart)),
}


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Return the text escaped for Markdown and HTML, on one line, for tables too."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
