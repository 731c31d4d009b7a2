"""Report on a run and its selected model, as one self-contained HTML page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from paring.artifacts import (
    BenchmarkMetrics,
    EvaluationMetrics,
    ModelProfile,
    Report,
    RuntimeConfiguration,
    Selection,
    Servable,
    TFLiteModel,
    TPUReadiness,
    TRTEngine,
)
from paring.artifacts.reading import content_of, read_object
from paring.errors import ParameterError
from paring.lineage import chain, commands
from paring.reporting import figures
from paring.reporting.columns import change, details, score, stacked_columns
from paring.selection.candidates import CandidateRow, Outcome, SelectionResult
from paring.selection.pareto import SOURCE
from paring.step import Attempted, Input, Inputs, Output, step


@step(version="6", opens_models=False)
def report(
    selection: Input[Selection],
    profile: Input[ModelProfile | None],
    readiness: Attempted[TPUReadiness | None],
    configuration: Attempted[RuntimeConfiguration | None],
    benchmarks: Inputs[BenchmarkMetrics],
    evaluations: Inputs[EvaluationMetrics],
    candidates: Inputs[Servable],
    report: Output[Report],
    *,
    title: str = "",
    command: str = "",
) -> None:
    """Write the verdict, charts, table, source profile and lineage as one page.

    The page makes no requests: charts are inline SVG, styles inline CSS for light, dark
    and print. The same inputs give the same bytes.

    Examples:
        >>> report = paring.report(selection, None, None, None, benchmarks, evaluations, models)
        >>> (report.path / "report.html").read_text()[:15]
        '<!doctype html>'

    Args:
        selection: `selection.json` of `select`.
        profile: The source model's profile; its section is left out without it.
        readiness: Result of `check_tpu` for the source; its section is left out without it.
        configuration: Result of `tune_batch` for the selected model; its section is left
            out without it.
        benchmarks: The family that `select` was given.
        evaluations: The family that `select` was given.
        candidates: The family that `select` was given.
        report: The page, `report.html`.
        title: Title above the verdict.
        command: Command that reproduces the run; left out if empty.

    Raises:
        ParameterError: A family lacks a candidate of the selection.
        ArtifactTypeError: A JSON file of an input can't be read.
    """
    # Imported late: printing the Dag needs neither templates nor charts.
    import jinja2
    from markupsafe import Markup

    from paring.reporting.charts import pareto_chart

    chosen = SelectionResult.read(selection.file)
    rows = chosen.candidates
    families = (
        ("candidates", candidates),
        ("benchmarks", benchmarks),
        ("evaluations", evaluations),
    )
    for name, family in families:
        missing = [row.id for row in rows if row.id not in family]
        if missing:
            raise ParameterError(
                f"{name}: {missing[0]!r} of the selection is missing",
                received=", ".join(family) or "none",
                remedy="give the families that select was given",
            )
    winner = candidates[chosen.selected]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(resources.files("paring.reporting") / "templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= _FILTERS
    page = environment.get_template("report.html.j2").render(
        title=title,
        command=command,
        commands=[] if chosen.selected == SOURCE else commands(winner.described()),
        result=chosen,
        columns=stacked_columns(),
        score=score,
        change=change,
        details=details,
        outcomes=Counter(row.outcome for row in rows),
        words=list(Outcome),
        examples=evaluations[SOURCE].count,
        pareto=Markup(pareto_chart(chosen)),
        bars=[(heading, note, Markup(svg)) for heading, note, svg in _bars(rows)],
        layers=_layers(candidates),
        engines=_engines(candidates),
        profile=_profile(profile),
        tpu=_readiness(readiness),
        tuned=_tuned(configuration),
        lineage=chain(winner.described()),
        versions=winner.lineage.get("environment", {}),
        measured=_measured_on(benchmarks[SOURCE]),
    )
    report.file.write_text(page, encoding="utf-8")


def _bars(rows: Sequence[CandidateRow]) -> list[tuple[str, str, str]]:
    """Return the heading, note and SVG of each bar chart."""
    from paring.reporting.charts import Bar, bar_chart

    latency = [
        Bar(row.id, row.p50_ms, figures.ms(row.p50_ms), row.p90_ms, row.is_selected)
        for row in rows
        if row.p50_ms is not None
    ]
    size = [
        Bar(row.id, row.size_bytes, figures.size(row.size_bytes), strong=row.is_selected)
        for row in rows
        if row.size_bytes is not None
    ]
    return [
        (
            "Latency",
            "Median of one call; the thin line reaches to the 90th percentile.",
            bar_chart("latency", "Median latency of each candidate", latency),
        ),
        (
            "Size",
            "Of the served files, uncompressed.",
            bar_chart("size", "Size of each candidate", size),
        ),
    ]


def _layers(candidates: Mapping[str, Servable]) -> list[dict[str, Any]]:
    """Return the layers with the largest errors by int8, of each candidate with such a table."""
    result = []
    for name, candidate in candidates.items():
        if isinstance(candidate, TFLiteModel) and candidate.layers and not candidate.failure:
            with content_of(candidate.layer_table) as rows:
                shown = max(candidate.layers_in_float or 0, min(len(rows), _LAYERS))
                result.append(
                    {
                        "id": name,
                        "count": len(rows),
                        "in_float": candidate.layers_in_float,
                        "rows": rows[:shown],
                    }
                )
    return result


def _engines(candidates: Mapping[str, Servable]) -> list[dict[str, Any]]:
    """Return the layers of each TensorRT engine with the most nodes fused into them."""
    result = []
    for name, candidate in candidates.items():
        if not isinstance(candidate, TRTEngine) or candidate.failure:
            continue
        # Not there where TensorRT did not tell, or was not there itself.
        if candidate.layer_table.is_file():
            with content_of(candidate.layer_table) as content:
                rows = sorted(content, key=lambda row: -len(row["nodes"]))
            shown = rows[:_FUSED]
            result.append({"id": name, "engine": candidate, "count": len(rows), "rows": shown})
    return result


def _profile(profile: ModelProfile | None) -> dict[str, Any] | None:
    if profile is None:
        return None
    if profile.failure is not None:
        return {"failure": profile.failure.reason}
    content = read_object(profile.file, *_PROFILE)
    commonest = sorted(content["operators"].items(), key=lambda item: (-item[1], item[0]))
    return {key: content[key] for key in _PROFILE} | {
        "failure": "",
        "operators": dict(commonest[:_OPERATORS]),
    }


def _readiness(readiness: TPUReadiness | None) -> dict[str, Any] | None:
    if readiness is None:
        return None
    if readiness.failure is not None:
        return {"failure": readiness.failure.reason}
    content = read_object(readiness.file, *_READINESS)
    return content | {"failure": "", "operators": content["operators"][:_OPERATORS]}


def _tuned(configuration: RuntimeConfiguration | None) -> dict[str, Any] | None:
    if configuration is None:
        return None
    if configuration.failure is not None:
        return {"failure": configuration.failure.reason}
    content = read_object(configuration.file, *_CONFIGURATION)
    ratio = (
        content["baseline_throughput"] and content["throughput"] / content["baseline_throughput"]
    )
    return content | {"failure": "", "ratio": ratio}


_LAYERS = 10
"""How many layers are listed at least, the worst first."""

_FUSED = 20
"""How many layers of an engine are listed, those with the most nodes first."""

_OPERATORS = 10
"""How many operators are listed: the commonest kinds, those that waste most on a TPU."""

_PROFILE = (
    *("parameters", "weight_bytes", "flops", "uncounted", "activation_bytes"),
    *("operators", "largest_weights", "signature", "findings"),
)

_READINESS = (
    *("batch_size", "precision", "ready", "refusals", "compute_waste", "memory_waste"),
    *("uncounted", "operators"),
)

_CONFIGURATION = (
    *("batch_size", "threads", "instances", "p50_ms", "p99_ms", "throughput"),
    *("baseline_throughput", "peak_memory_bytes", "limits", "ended", "table"),
)


def _measured_on(benchmark: BenchmarkMetrics) -> list[tuple[str, str]]:
    """Return the known facts about the machine, as label and text."""
    result = read_object(benchmark.file, "environment")["environment"]
    load = result.get("load_average")
    lines = (
        ("Processor", result.get("cpu")),
        ("Architecture", result.get("machine")),
        ("System", result.get("system")),
        ("Usable cores", result.get("cores")),
        ("Threads for one call", result.get("threads")),
        ("Accelerators", ", ".join(result.get("accelerators", []))),
        ("Memory", figures.size(result["memory_bytes"]) if "memory_bytes" in result else None),
        ("Frequency governor", result.get("cpu_governor")),
        ("Load before measuring", ", ".join(f"{item:.2f}" for item in load) if load else None),
    )
    return [(label, str(value)) for label, value in lines if value]


_FILTERS = {
    "ms": figures.ms,
    "scaled": figures.scaled,
    "size": figures.size,
    "percent": figures.percent,
    "times": figures.times,
    "typeset": figures.typeset,
}
