"""What Kubeflow's page of a task shows of an artifact, besides its metadata.

Kubeflow draws artifacts of the types system.Markdown and system.HTML, which must be
the file itself, while Paring's artifacts are folders. So beside an output stands one
of those types for each of its views, under the output's name with the view's suffix.
"""

import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paring import figures
from paring.artifacts import Artifact, BenchmarkMetrics, Report, Selection
from paring.errors import ArtifactTypeError
from paring.metrics import Metric

HTML, MARKDOWN = "_html", "_markdown"
"""The suffixes, which name the types too."""


@dataclass(frozen=True)
class View:
    """One way to show an artifact.

    Attributes:
        suffix: `HTML` or `MARKDOWN`.
        content: Gives the file's text for an artifact that could be made.
    """

    suffix: str
    content: Callable[[Any], str]

    def text(self, artifact: Artifact) -> str:
        """What the file holds; of an artifact that could not be made, the reason.

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
    """The views of artifacts of the type `kind`."""
    return next((found for shown, found in _VIEWS.items() if issubclass(kind, shown)), ())


def _report_page(report: Report) -> str:
    return report.file.read_text(encoding="utf-8")


def _benchmark_table(metrics: BenchmarkMetrics) -> str:
    """The figures of the candidate beside the source's, and the machine."""
    found = _read(metrics.file, "source", "environment", "batch_size")
    source, machine = found["source"], found["environment"]
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
        f" batch size {found['batch_size']}.",
    ]
    return "\n\n".join(parts) + "\n"


def _selection_table(selection: Selection) -> str:
    """The verdict, the gate, and every candidate with what was decided about it."""
    found = _read(selection.file, "verdict", "gate", "objective", "candidates")
    gate, metric = found["gate"], _metric(found)
    headings = ("candidate", "outcome", metric.label, "change", "median", "speed-up", "size")
    rows = [
        (
            f"`{row['id']}`",
            f"**{row['outcome']}**" if row["outcome"] == "selected" else row["outcome"],
            figures.NONE if row["score"] is None else metric.shown(row["score"]),
            figures.NONE if row["drop"] is None else metric.change(row["drop"]),
            figures.ms(row["p50_ms"]),
            figures.times(row["speedup"]),
            figures.size(row["size_bytes"]),
            figures.size(row["peak_memory_bytes"]),
            _plain(figures.typeset("; ".join([*row["reasons"], *row["notes"]]))),
        )
        for row in found["candidates"]
    ]
    limits = [
        text.format(gate[name])
        for name, text in (
            ("max_accuracy_drop", "a loss of {} by " + metric.label),
            ("max_latency_ms", "{} ms"),
            ("max_size_mb", "{} MB"),
            ("max_memory_mb", "{} MB of memory"),
        )
        if gate[name] is not None
    ]
    parts = [
        f"**{_plain(figures.typeset(found['verdict']))}**",
        f"The gate lets pass {_plain(', '.join(limits))} at most; the best by"
        f" {found['objective']} is selected. The change is {metric.change_unit}.",
        _table((*headings, "memory", "why"), rows),
    ]
    return "\n\n".join(parts) + "\n"


def _selection_chart(selection: Selection) -> str:
    """A page with latency against the metric, which Markdown can't draw."""
    # Imported late: other containers need neither.
    import jinja2
    from markupsafe import Markup

    from paring.charts import pareto_chart

    found = _read(selection.file, "verdict", "gate", "selected", "candidates")
    folder = Path(figures.__file__).with_name("templates")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("selection.html.j2").render(
        selected=found["selected"],
        verdict=figures.typeset(found["verdict"]),
        metric=_metric(found).label,
        chart=Markup(pareto_chart(found["candidates"], found["gate"])),
    )


_VIEWS: Mapping[type[Artifact], tuple[View, ...]] = {
    Report: (View(HTML, _report_page),),
    BenchmarkMetrics: (View(MARKDOWN, _benchmark_table),),
    Selection: (View(MARKDOWN, _selection_table), View(HTML, _selection_chart)),
}


def _metric(found: Mapping[str, Any]) -> Metric:
    return Metric(found["gate"]["metric"], found["gate"]["higher_is_better"])


def _read(file: Path, *keys: str) -> dict[str, Any]:
    """The object in a JSON file, which must have `keys`."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {key: content[key] for key in keys}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactTypeError(
            f"{file} can't be read",
            received=f"{type(error).__name__}: {error}",
            remedy="make the artifact anew",
        ) from error


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown and HTML take as it is, on one line, in a table too."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
