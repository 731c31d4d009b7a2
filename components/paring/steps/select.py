"""Selection of the best candidate that passes the gate, with reasons against the others."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any

from annotated_types import Ge

from paring.artifacts import (
    Artifact,
    BenchmarkMetrics,
    EvaluationMetrics,
    Failure,
    Findings,
    SelectedModel,
    Selection,
    Servable,
    content_bytes,
)
from paring.artifacts.reading import content_of
from paring.errors import ModelError, ParameterError, StepFailedError, nearest
from paring.evaluation.metrics import Metric
from paring.selection.candidates import CandidateRow, Outcome, OutputScore, SelectionResult
from paring.selection.pareto import SOURCE, Gate, Objective, choose, pareto_front
from paring.selection.reasons import verdict, why, why_not
from paring.step import Inputs, Output, step
from paring.system.documents import parse_json
from paring.system.trees import copy_tree


@step(version="8")
def select(
    candidates: Inputs[Servable],
    benchmarks: Inputs[BenchmarkMetrics],
    evaluations: Inputs[EvaluationMetrics],
    selection: Output[Selection],
    selected: Output[SelectedModel],
    *,
    max_accuracy_drop: Annotated[float, Ge(0)] = Gate.max_accuracy_drop,
    max_latency_ms: Annotated[float, Ge(0)] = Gate.max_latency_ms,
    max_size_mb: Annotated[float, Ge(0)] = Gate.max_size_mb,
    max_memory_mb: Annotated[float, Ge(0)] = Gate.max_memory_mb,
    objective: Objective = Gate.objective,
    recipes: str = "{}",
    search: str = "{}",
) -> None:
    """Choose the best candidate on the Pareto front of those that pass the gate.

    The three families have the same ids; `source` is the source model, always a
    candidate, and selected where nothing beats it. `selection.json` gets every
    candidate with its figures, its outcome, the reasons, and notes on how it was
    built; null is not measured.

    Where `import_model` cut the source at its numeric core, the figures are those of cores, and
    the selected model is whole again: a SavedModel with the source's signature and the chosen
    core in it, or the core's file with `preprocess/` and `interface.json` beside it, which
    `paring.load_runner` calls one after another.

    Examples:
        >>> converted = paring.convert_tflite(network)
        >>> models = {"source": paring.import_model(network), "lite": converted}
        >>> benchmarks = {
        ...     name: paring.benchmark(network, model, arrays, rounds=2, min_seconds=0.2)
        ...     for name, model in models.items()
        ... }
        >>> evaluations = {
        ...     name: paring.evaluate(network, model, arrays) for name, model in models.items()
        ... }
        >>> selection, selected = paring.select(models, benchmarks, evaluations)
        >>> selection.candidates, selected.candidate
        (2, 'lite')

    Args:
        candidates: Models that could be served, by id.
        benchmarks: Latency, memory and size of each, by the same ids.
        evaluations: The gate's metric, accuracy and agreement of each, by the
            same ids.
        selection: Record of the selection, `selection.json`.
        selected: A copy of the chosen candidate's served form, with the source's text work.
        max_accuracy_drop: Largest loss against the source by the metric of the
            evaluations: 0.01 is one point of accuracy, a growth of an error by
            1%, or, without labels, a disagreement on 1% of the examples. Each
            output of the model must be within it, unless the evaluations are of one.
        max_latency_ms: Limit on the median latency in milliseconds; 0 for none.
        max_size_mb: Limit on the served size in 10**6 bytes; 0 for none.
        max_memory_mb: Limit on peak memory in 10**6 bytes; 0 for none.
        objective: Ranking criterion among passing candidates. One counts as faster than
            the source only if its speed-up's whole interval is above 1; those
            within one standard error of the fastest, or within 5% of it and within the
            noise, are tied, and the smallest of them is taken, or the most accurate where
            sizes are within 2%.
        recipes: JSON that maps a candidate's id to the text of its recipe.
        search: JSON about the search that the candidates come from, kept as
            `search` in `selection.json`; `{}` where there was none.

    Raises:
        ParameterError: The families don't hold the same ids, the evaluations are by other
            metrics or weights or on other numbers of examples, figures are of another model
            than the candidate, there is no `source`, or `recipes` or `search` can't be read.
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
                remedy=f"look at step {artifact.failure.step}; all others are compared with it",
            )
    gate = Gate(max_accuracy_drop, max_latency_ms, max_size_mb, max_memory_mb, objective)
    metric = _metric(evaluations[SOURCE])
    _check_comparable(evaluations)
    for family in (benchmarks, evaluations):
        _check_measured(candidates, family)
    source = _Trio(candidates[SOURCE], benchmarks[SOURCE], evaluations[SOURCE])
    made = [
        _row(
            name,
            texts.get(name, ""),
            _Trio(candidates[name], benchmarks[name], evaluations[name]),
            source,
        )
        for name in candidates
    ]
    rows, passed = _decide(made, gate)
    chosen = next(row for row in rows if row.is_selected)
    winner = candidates[chosen.id]
    served = winner.serving_dir
    if not served.is_dir():
        raise ModelError(
            f"candidate {chosen.id} has no served form",
            received=served,
            remedy="give outputs of import_model or of an optimizing step",
        )
    winner.verify(thoroughly=True)
    _write_whole(candidates[SOURCE], winner, selected, chosen.id)
    selected.copied_from(winner)
    selected.candidate = chosen.id
    selected.signature = winner.signature
    selected.dropped_signatures = winner.dropped_signatures
    selected.size_bytes = content_bytes(selected.serving_dir)
    ordered = _ordered(rows, objective)
    weights = evaluations[SOURCE].sample_weights
    SelectionResult(
        verdict=_verdict(chosen, ordered[0], passed, benchmarks[chosen.id]),
        source_digest=candidates[SOURCE].digest,
        selected=chosen.id,
        gate=gate,
        metric=metric,
        candidates=tuple(ordered),
        search=searched,
        sample_weights=weights,
    ).write(selection.file)
    selection.selected = chosen.id
    selection.candidates = len(rows)
    selection.passed = passed
    selection.sample_weights = weights


def _write_whole(source: Servable, winner: Servable, selected: SelectedModel, name: str) -> None:
    """Copy the winner, joined with the source's text work where the source was cut."""
    if not source.parts_dir.is_dir():
        copy_tree(winner.serving_dir, selected.serving_dir)
        return
    from paring.serving.delivery import deliver

    source.verify(thoroughly=True)
    deliver(source, winner.serving_dir, selected, is_source=name == SOURCE)


_BENCHMARK_FIGURES = {field.name for field in fields(CandidateRow)} & (
    {field.name for field in fields(BenchmarkMetrics)} - {field.name for field in fields(Artifact)}
) - {"size_bytes"}
"""What a row takes from the facts of a benchmark as it is."""


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
            remedy=f"add the model that the others were built from as {SOURCE!r}",
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


def _other_outputs(evaluation: EvaluationMetrics) -> dict[str, OutputScore]:
    """Return the score of each gated output except the first."""
    if evaluation.gated_outputs < 2:
        return {}
    with content_of(evaluation.file) as content:
        others = content["other_outputs"]
        return {name: OutputScore.from_json(item) for name, item in others.items()}


def _metric(evaluation: EvaluationMetrics) -> Metric:
    return Metric(evaluation.metric, evaluation.higher_is_better)


def _check_comparable(evaluations: Mapping[str, EvaluationMetrics]) -> None:
    """Refuse evaluations by another metric, or on other examples or weights, than the source's."""
    source = evaluations[SOURCE]
    for name, item in evaluations.items():
        if item.failure is not None:
            continue
        if not item.metric or item.metric != source.metric:
            raise ParameterError(
                f"evaluations: {name!r} was not evaluated by the source's metric",
                received=f"{item.metric or 'no metric'}, the source by {source.metric or 'none'}",
                remedy="run evaluate with the same metric for all of them",
            )
        if item.count != source.count:
            raise ParameterError(
                f"evaluations: {name!r} was not judged on the source's examples",
                received=f"{item.count} examples, the source with {source.count}",
                remedy="run evaluate with the same examples for all of them",
            )
        if item.sample_weights != source.sample_weights:
            raise ParameterError(
                f"evaluations: {name!r} was not judged with the source's sample weights",
                received=f"{item.sample_weights or 'none'},"
                f" the source with {source.sample_weights or 'none'}",
                remedy="run evaluate with the same weights for all of them",
            )


def _check_measured(candidates: Mapping[str, Servable], family: Mapping[str, Findings]) -> None:
    """Refuse figures that their record states to be another model's."""
    for name, item in family.items():
        inputs = item.lineage.get("inputs") or {}
        measured = (inputs.get("candidate") or {}).get("digest")
        own = candidates[name]
        if item.failure is None and own.failure is None and measured not in (None, own.digest):
            raise ParameterError(
                f"{name!r}: {type(item).__name__} of another model than the candidate",
                received=f"figures of {measured}, the candidate is {own.digest}",
                remedy=f"run {item.lineage.get('step')} on the candidate itself",
            )


def _read_recipes(recipes: str, candidates: Mapping[str, object]) -> dict[str, str]:
    remedy = 'give JSON such as {"tflite-int8": "convert_tflite(quantization=int8)"}'
    try:
        texts = parse_json(recipes)
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
        result = parse_json(search)
    except ValueError as error:
        raise ParameterError(
            f"search: this is not JSON ({error})", received=search, remedy="leave it out"
        ) from error
    if not isinstance(result, dict):
        raise ParameterError("search: must be an object", received=search, remedy="leave it out")
    return result


def _row(name: str, recipe: str, own: _Trio, source: _Trio) -> CandidateRow:
    """Return a candidate's row, not yet judged unless it failed."""
    failure = own.failure
    judged, reference = own.evaluation, source.evaluation
    metric = _metric(reference)
    # Where there are no labels, what differs from the source counts as lost.
    whole, kept = reference.accuracy, judged.accuracy
    if not metric.labelled:
        whole, kept = 1.0, judged.agreement
    sizes = own.size_bytes, source.size_bytes
    return CandidateRow(
        id=name,
        recipe=recipe,
        artifact=str(own.candidate.path),
        outcome=Outcome(failure.outcome) if failure else Outcome.PASSED,
        reasons=(failure.reason,) if failure else (),
        notes=_notes(own),
        metric=metric,
        score=judged.score,
        drop=0.0 if name == SOURCE else judged.drop,
        accuracy=judged.accuracy,
        accuracy_drop=None if whole is None or kept is None else whole - kept,
        agreement=judged.agreement,
        other_outputs=_other_outputs(judged),
        size_bytes=own.size_bytes,
        size_ratio=sizes[1] / sizes[0] if sizes[0] and sizes[1] else None,
        **{figure: getattr(own.benchmark, figure) for figure in _BENCHMARK_FIGURES},
    )


def _verdict(
    chosen: CandidateRow, source: CandidateRow, passed: int, benchmark: BenchmarkMetrics
) -> str:
    text = verdict(chosen, source, passed)
    if chosen.id == SOURCE or benchmark.whole_speedup is None:
        return text
    return f"{text} These {_whole_figure(benchmark)}."


def _notes(own: _Trio) -> tuple[str, ...]:
    notes = [own.candidate.note] if own.candidate.note else []
    if own.benchmark.whole_speedup is not None:
        notes.append(_whole_figure(own.benchmark))
    return tuple(notes)


def _whole_figure(benchmark: BenchmarkMetrics) -> str:
    """Return the speed-up with the text work, in words."""
    return (
        f"figures are of its numeric core; with {benchmark.text_work_p50_ms:.3g} ms of text work"
        f" a call the whole is {benchmark.whole_speedup:.3g}x as fast as the source"
    )


def _decide(rows: Sequence[CandidateRow], gate: Gate) -> tuple[list[CandidateRow], int]:
    """Return the rows with outcome, reasons and front, and the number that passed."""
    measured = {row.id: row.measured for row in rows if row.outcome is Outcome.PASSED}
    source = measured[SOURCE]
    objections = {name: gate.objections(item) for name, item in measured.items()}
    passing = [item for name, item in measured.items() if not objections[name]]
    front = {item.id for item in pareto_front(passing, source)}
    best = choose(passing, source, gate.objective) or source
    reasons = objections | {
        item.id: [
            why(item, passing, source=source, objective=gate.objective)
            if item is best
            else why_not(item, best, source=source, objective=gate.objective)
        ]
        for item in passing
    }
    if not passing:
        reasons[best.id].append("nothing meets the gate and the budgets, so the source is kept")
    decided = []
    for row in rows:
        outcome = row.outcome
        if row.id == best.id:
            outcome = Outcome.SELECTED
        elif objections.get(row.id):
            outcome = Outcome.REJECTED
        result = tuple(reasons.get(row.id, row.reasons))
        decided.append(replace(row, outcome=outcome, reasons=result, pareto=row.id in front))
    return decided, len(passing)


def _ordered(rows: Sequence[CandidateRow], objective: Objective) -> list[CandidateRow]:
    """Return the rows in order: the source, then by the objective, then the unmeasured."""
    source = next(row.measured for row in rows if row.is_source)

    def key(row: CandidateRow) -> tuple[bool, float, str]:
        item = row.measured
        value = {
            "latency": 1 / item.speedup if item.speedup else math.inf,
            "size": item.size,
            "memory": item.memory(source),
        }[objective]
        return not item.is_source, value, item.id

    return sorted(rows, key=key)
