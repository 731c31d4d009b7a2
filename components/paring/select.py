"""Choose the best candidate that passes the gate, and say why not the others."""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from paring.artifacts import (
    BenchmarkMetrics,
    EvaluationMetrics,
    Failure,
    SelectedModel,
    Selection,
    Servable,
    content_bytes,
)
from paring.errors import ArtifactTypeError, ModelError, ParameterError, StepFailedError, nearest
from paring.metrics import Metric
from paring.pareto import (
    SOURCE,
    Gate,
    Measured,
    Objective,
    choose,
    pareto_front,
)
from paring.reasons import verdict, why, why_not
from paring.step import Inputs, Output, step


@step(version="3")
def select(
    candidates: Inputs[Servable],
    benchmarks: Inputs[BenchmarkMetrics],
    evaluations: Inputs[EvaluationMetrics],
    selection: Output[Selection],
    selected: Output[SelectedModel],
    *,
    max_accuracy_drop: Annotated[float, Ge(0)] = 0.01,
    max_latency_ms: Annotated[float, Ge(0)] = 0.0,
    max_size_mb: Annotated[float, Ge(0)] = 0.0,
    max_memory_mb: Annotated[float, Ge(0)] = 0.0,
    objective: Literal["latency", "size", "memory"] = "latency",
    recipes: str = "{}",
    search: str = "{}",
) -> None:
    """Choose the best candidate on the Pareto front of those that pass the gate.

    The three families have the same ids; `source` is the model itself, always a
    candidate, and kept where nothing beats it. `selection.json` gets every
    candidate with its figures, its outcome, the reasons, and notes on how it was
    made; null is unmeasured.

    Args:
        candidates: What could be served, by id.
        benchmarks: Latency, memory and size of each, by the same ids.
        evaluations: The gate's metric, accuracy and agreement of each, by the
            same ids.
        selection: `selection.json`.
        selected: A copy of the chosen candidate's served form.
        max_accuracy_drop: Largest loss against the source by the metric of the
            evaluations: 0.01 is one point of accuracy, a growth of an error by
            1%, or, without labels, a disagreement on 1% of the examples. Each
            output of the model keeps to it, unless the evaluations are of one.
        max_latency_ms: Limit on the median latency in milliseconds; 0 for none.
        max_size_mb: Limit on the served size in 10**6 bytes; 0 for none.
        max_memory_mb: Limit on peak memory in 10**6 bytes; 0 for none.
        objective: What the choice is best at. A candidate counts as faster than
            the source only if its speed-up's whole interval is above 1; those
            within 5% that can't be told from the fastest are tied, and the smallest
            of them is taken, or the most accurate where sizes are within 2%.
        recipes: JSON that maps a candidate's id to the text of its recipe.
        search: JSON about the search that the candidates come from, kept as
            `search` in `selection.json`; `{}` where there was none.

    Raises:
        ParameterError: The families don't hold the same ids, there is no
            `source`, or `recipes` or `search` can't be read.
        StepFailedError: The source could not be measured.
        ModelError: The chosen candidate has no served form.
        ArtifactTypeError: The file of an evaluation of several outputs is broken.
    """
    _check_ids(candidates, benchmarks, evaluations)
    texts = _read_recipes(recipes, candidates)
    searched = _read_search(search)
    for artifact in (candidates[SOURCE], benchmarks[SOURCE], evaluations[SOURCE]):
        if artifact.failure is not None:
            raise StepFailedError(
                f"the source model could not be measured: {artifact.failure.reason}",
                remedy=f"look at step {artifact.failure.step}; all others are held against it",
            )
    gate = Gate(max_accuracy_drop, max_latency_ms, max_size_mb, max_memory_mb)
    metric = _metric(evaluations[SOURCE])
    _check_metrics(evaluations, metric)
    rows = [
        _row(
            name,
            texts.get(name, ""),
            _Trio(candidates[name], benchmarks[name], evaluations[name]),
            _Trio(candidates[SOURCE], benchmarks[SOURCE], evaluations[SOURCE]),
        )
        for name in candidates
    ]
    chosen, passed = _decide(rows, gate, objective)
    served = candidates[chosen["id"]].serving_dir
    if not served.is_dir():
        raise ModelError(
            f"candidate {chosen['id']} has no served form",
            received=served,
            remedy="give candidates that import_model or an optimizing step made",
        )
    shutil.copytree(served, selected.serving_dir)
    selected.copied_from(candidates[chosen["id"]])
    selected.candidate = chosen["id"]
    selected.size_bytes = content_bytes(selected.serving_dir)
    _order(rows, objective)
    source = rows[0]
    result = {
        "verdict": verdict(chosen, source, passed, metric),
        "source": {"digest": candidates[SOURCE].digest}
        | {key: source[key] for key in ("artifact", *_SOURCE_FIGURES)},
        "selected": chosen["id"],
        "gate": {
            "max_accuracy_drop": max_accuracy_drop,
            "metric": metric.name,
            "higher_is_better": metric.higher_is_better,
            "max_latency_ms": max_latency_ms or None,
            "max_size_mb": max_size_mb or None,
            "max_memory_mb": max_memory_mb or None,
        },
        "objective": objective,
        "candidates": rows,
    } | ({"search": searched} if searched else {})
    selection.file.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    selection.selected = chosen["id"]
    selection.candidates = len(rows)
    selection.passed = passed


_SOURCE_FIGURES = ("score", "accuracy", "p50_ms", "peak_memory_bytes", "size_bytes", "gzip_bytes")

_BENCHMARK_FIGURES = (
    *("p50_ms", "p90_ms", "p99_ms", "speedup", "speedup_low", "speedup_high"),
    *("throughput", "peak_memory_bytes", "gzip_bytes", "load_ms", "first_ms"),
)


@dataclass(frozen=True)
class _Trio:
    candidate: Servable
    benchmark: BenchmarkMetrics
    evaluation: EvaluationMetrics

    @property
    def failure(self) -> Failure | None:
        return self.candidate.failure or self.evaluation.failure or self.benchmark.failure

    @property
    def size_bytes(self) -> int | None:
        # A candidate that can't be run still has a size.
        return self.benchmark.size_bytes or self.candidate.size_bytes or None


def _check_ids(candidates: Mapping[str, object], *others: Mapping[str, object]) -> None:
    if SOURCE not in candidates:
        raise ParameterError(
            f"candidates: the source model is missing, its id is {SOURCE!r}",
            received=", ".join(candidates) or "no candidates",
            remedy=f"add the model that the others were made from as {SOURCE!r}",
        )
    for name, family in zip(("benchmarks", "evaluations"), others, strict=True):
        odd = sorted(set(family) ^ set(candidates))
        if odd:
            where = "candidates" if odd[0] in family else name
            raise ParameterError(
                f"{where}: {odd[0]!r} is missing",
                received=", ".join(candidates if where == "candidates" else family) or "none",
                remedy="give candidates, benchmarks and evaluations the same ids",
            )


def _other_outputs(evaluation: EvaluationMetrics) -> dict[str, dict[str, Any]]:
    """Metric, score and drop of each output that is gated besides the first."""
    if evaluation.gated_outputs < 2:
        return {}
    try:
        others = json.loads(evaluation.file.read_text())["other_outputs"]
        return {
            name: {key: one[key] for key in ("metric", "higher_is_better", "score", "drop")}
            for name, one in others.items()
        }
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactTypeError(
            f"{evaluation.file} can't be read", received=error, remedy="make the artifact anew"
        ) from error


def _metric(evaluation: EvaluationMetrics) -> Metric:
    return Metric(evaluation.metric, bool(evaluation.higher_is_better))


def _check_metrics(evaluations: Mapping[str, EvaluationMetrics], metric: Metric) -> None:
    for name, one in evaluations.items():
        if one.failure is None and (not one.metric or one.metric != metric.name):
            raise ParameterError(
                f"evaluations: {name!r} was not judged by the source's metric",
                received=f"{one.metric or 'no metric'}, the source by {metric.name or 'none'}",
                remedy="run evaluate with the same metric for all of them",
            )


def _read_recipes(recipes: str, candidates: Mapping[str, object]) -> dict[str, str]:
    remedy = 'give JSON such as {"tflite-int8": "convert_tflite(quantization=int8)"}'
    try:
        texts = json.loads(recipes)
    except ValueError as error:
        raise ParameterError(
            f"recipes: this is not JSON ({error})", received=recipes, remedy=remedy
        ) from error
    if not isinstance(texts, dict) or not all(isinstance(t, str) for t in texts.values()):
        raise ParameterError("recipes: must map ids to texts", received=recipes, remedy=remedy)
    for name in texts:
        if name not in candidates:
            raise ParameterError(
                f"recipes: there is no candidate {name!r}", remedy=nearest(name, candidates)
            )
    return texts


def _read_search(search: str) -> dict[str, Any]:
    try:
        found = json.loads(search)
    except ValueError as error:
        raise ParameterError(
            f"search: this is not JSON ({error})", received=search, remedy="leave it out"
        ) from error
    if not isinstance(found, dict):
        raise ParameterError("search: must be an object", received=search, remedy="leave it out")
    return found


def _row(name: str, recipe: str, own: _Trio, source: _Trio) -> dict[str, Any]:
    """A candidate's entry in selection.json, not yet judged unless it failed."""
    failure = own.failure
    judged, reference = own.evaluation, source.evaluation
    metric = _metric(reference)
    # Where there are no labels, what differs from the source counts as lost.
    whole, kept = reference.accuracy, judged.accuracy
    if not metric.labelled:
        whole, kept = 1.0, judged.agreement
    sizes = own.size_bytes, source.size_bytes
    figures = {key: getattr(own.benchmark, key) for key in _BENCHMARK_FIGURES}
    return {
        "id": name,
        "recipe": recipe,
        "artifact": str(own.candidate.path),
        "outcome": failure.outcome if failure else "passed",
        "reasons": [failure.reason] if failure else [],
        "notes": [own.candidate.note] if own.candidate.note else [],
        "metric": metric.name,
        "higher_is_better": metric.higher_is_better,
        "score": judged.score,
        "drop": 0.0 if name == SOURCE else judged.drop,
        "accuracy": judged.accuracy,
        "accuracy_drop": None if whole is None or kept is None else whole - kept,
        "agreement": judged.agreement,
        "other_outputs": _other_outputs(judged),
        **figures,
        "size_bytes": own.size_bytes,
        "size_ratio": sizes[1] / sizes[0] if sizes[0] and sizes[1] else None,
        "pareto": False,
    }


def _decide(
    rows: list[dict[str, Any]], gate: Gate, objective: Objective
) -> tuple[dict[str, Any], int]:
    """Set outcome, reasons and pareto of `rows`; the chosen one, how many passed."""
    by_id = {row["id"]: row for row in rows}
    measured = {row["id"]: Measured.of_row(row) for row in rows if row["outcome"] == "passed"}
    source = measured[SOURCE]
    for name, one in measured.items():
        by_id[name]["reasons"] = gate.objections(one)
        if by_id[name]["reasons"]:
            by_id[name]["outcome"] = "rejected"
    passing = [one for name, one in measured.items() if by_id[name]["outcome"] == "passed"]
    for one in pareto_front(passing, source):
        by_id[one.id]["pareto"] = True
    best = choose(passing, source, objective) or source
    for one in passing:
        by_id[one.id]["reasons"] = [
            why(one, passing, source, objective)
            if one is best
            else why_not(one, best, source, objective)
        ]
    chosen = by_id[best.id]
    if not passing:
        chosen["reasons"].append("nothing meets the gate and the budgets, so the source is kept")
    chosen["outcome"] = "selected"
    return chosen, len(passing)


def _order(rows: list[dict[str, Any]], objective: Objective) -> None:
    """The source first, then by the objective, then what was not measured."""
    source = next(Measured.of_row(row) for row in rows if row["id"] == SOURCE)

    def key(row: Mapping[str, Any]) -> tuple[bool, float, str]:
        one = Measured.of_row(row)
        value = {
            "latency": 1 / one.speedup if one.speedup else math.inf,
            "size": one.size,
            "memory": one.memory(source),
        }[objective]
        return not one.is_source, value, one.id

    rows.sort(key=key)
