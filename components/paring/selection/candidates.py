"""Candidates of a selection, and the content of `selection.json`."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from paring.artifacts.reading import content_of
from paring.evaluation.metrics import Metric
from paring.selection.pareto import SOURCE, Gate, Measured


class Outcome(StrEnum):
    """Outcome of a candidate, the best first."""

    SELECTED = "selected"
    PASSED = "passed"
    REJECTED = "rejected"
    UNSUPPORTED = "unsupported"
    FAILED = "failed"


@dataclass(frozen=True)
class OutputScore:
    """Score of another output that the gate applies to.

    Attributes:
        metric: Its metric.
        score: The candidate's score.
        drop: Loss against the source; below 0 is a gain.
    """

    metric: Metric
    score: float
    drop: float

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the score that an object in JSON holds; other members are left out.

        Raises:
            KeyError: A member is missing.
            TypeError, ValueError: The score or the drop is no finite number.
        """
        score, drop = content["score"], content["drop"]
        if not (math.isfinite(score) and math.isfinite(drop)):
            raise ValueError(f"score {score}, drop {drop}")
        return cls(_metric(content), score, drop)

    def to_json(self) -> dict[str, Any]:
        """Return an object for JSON."""
        return {**_named(self.metric), "score": self.score, "drop": self.drop}


@dataclass(frozen=True, kw_only=True)
class CandidateRow:
    """Candidate with its figures, its outcome and the reasons; None is not measured.

    A figure of this name among the facts of `BenchmarkMetrics` is taken from there. To be
    shown, it needs a column in `paring.reporting.columns`.

    Attributes:
        id: The candidate's id; `SOURCE` for the model that all others were made from.
        recipe: How it was made, as text.
        artifact: The path of its artifact.
        outcome: What became of it.
        reasons: Why, a sentence each.
        notes: What else is to be known of it.
        metric: The metric that the gate is on.
        score: Its score by that metric.
        drop: Loss against the source; below 0 is a gain.
        accuracy: Share of examples that are classified as labelled.
        accuracy_drop: Loss of accuracy against the source, without labels of agreement.
        agreement: Share of examples that are classified as the source does.
        other_outputs: The score of each other output that the gate is on, by its name.
        p50_ms, p90_ms, p99_ms: Percentiles of the latency of one call.
        speedup: The source's median latency over this one's, in one run.
        speedup_low, speedup_high: Its 95% confidence interval.
        throughput: Examples a second.
        peak_memory_bytes: Peak resident memory of a process that only runs it.
        peak_device_memory_bytes: Peak memory on GPUs or TPUs of that process.
        size_bytes, gzip_bytes: Size of the served files, as they are and compressed.
        size_ratio: The source's size over this one's.
        load_ms, first_ms: Time to load it, and of the first call.
        pareto: Whether it is on the Pareto front.
    """

    id: str
    recipe: str
    artifact: str
    outcome: Outcome
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    metric: Metric
    score: float | None
    drop: float | None
    accuracy: float | None
    accuracy_drop: float | None
    agreement: float | None
    other_outputs: Mapping[str, OutputScore]
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    throughput: float | None
    peak_memory_bytes: int | None
    peak_device_memory_bytes: int | None
    gzip_bytes: int | None
    load_ms: float | None
    first_ms: float | None
    size_bytes: int | None
    size_ratio: float | None
    pareto: bool = False

    @property
    def is_source(self) -> bool:
        """True if this is the source model."""
        return self.id == SOURCE

    @property
    def is_selected(self) -> bool:
        """True if this candidate was selected."""
        return self.outcome is Outcome.SELECTED

    @property
    def measured(self) -> Measured:
        """Figures that decide the selection."""
        own = {field.name for field in fields(Measured)} & {field.name for field in fields(self)}
        others = tuple((name, item.metric, item.drop) for name, item in self.other_outputs.items())
        return Measured(**{name: getattr(self, name) for name in own}, others=others)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the candidate that an object in JSON holds.

        Raises:
            KeyError: A member is missing.
            ValueError: The outcome is none.
        """
        others = content["other_outputs"].items()
        known: dict[str, Any] = {
            "outcome": Outcome(content["outcome"]),
            "reasons": tuple(content["reasons"]),
            "notes": tuple(content["notes"]),
            "metric": _metric(content),
            "other_outputs": {name: OutputScore.from_json(item) for name, item in others},
        }
        plain = {field.name for field in fields(cls)} - known.keys()
        return cls(**known, **{name: content[name] for name in plain})

    def to_json(self) -> dict[str, Any]:
        """Return an object for JSON."""
        content: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "metric":
                content |= _named(value)
            elif field.name == "other_outputs":
                content[field.name] = {name: score.to_json() for name, score in value.items()}
            else:
                content[field.name] = list(value) if isinstance(value, tuple) else value
        return content


_SOURCE_FIGURES = ("score", "accuracy", "p50_ms", "peak_memory_bytes", "size_bytes", "gzip_bytes")


@dataclass(frozen=True, kw_only=True)
class SelectionResult:
    """The content of `selection.json`.

    Attributes:
        verdict: The result in one sentence.
        source_digest: Digest of the source's content.
        selected: The id of the chosen candidate.
        gate: What the candidates are held to.
        metric: The metric that the gate is on.
        candidates: The source first, then by the objective, then what was not measured.
        search: How the search went that the candidates come from; empty if there was none.
        sample_weights: The column of the weights by which the examples count in the metric;
            "" if all count the same.
    """

    verdict: str
    source_digest: str
    selected: str
    gate: Gate
    metric: Metric
    candidates: tuple[CandidateRow, ...]
    search: Mapping[str, Any]
    sample_weights: str = ""

    @property
    def source(self) -> CandidateRow:
        """The source's row."""
        return next(row for row in self.candidates if row.is_source)

    @property
    def winner(self) -> CandidateRow:
        """Row of the selected candidate."""
        return next(row for row in self.candidates if row.id == self.selected)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Return the content of a file.

        Raises:
            ArtifactTypeError: It can't be read, or something is missing in it.
        """
        with content_of(file) as content:
            gate = content["gate"]
            names = [field.name for field in fields(Gate) if field.name != "objective"]
            limits = {name: gate[name] or 0.0 for name in names}
            made = cls(
                verdict=content["verdict"],
                source_digest=content["source"]["digest"],
                selected=content["selected"],
                gate=Gate(**limits, objective=content["objective"]),
                metric=_metric(gate),
                candidates=tuple(map(CandidateRow.from_json, content["candidates"])),
                search=content.get("search", {}),
                sample_weights=gate.get("sample_weights") or "",
            )
            if {SOURCE, made.selected} - {row.id for row in made.candidates}:
                raise ValueError("the source or the selected candidate is missing")
        return made

    def to_json(self) -> dict[str, Any]:
        """Return an object for JSON; null is unmeasured, or no limit."""
        rows = [row.to_json() for row in self.candidates]
        (source,) = (row for row in rows if row["id"] == SOURCE)
        gate = asdict(self.gate)
        objective = gate.pop("objective")
        limits = {name: gate[name] or None for name in gate if name != "max_accuracy_drop"}
        content = {
            "verdict": self.verdict,
            "source": {"digest": self.source_digest}
            | {name: source[name] for name in ("artifact", *_SOURCE_FIGURES)},
            "selected": self.selected,
            "gate": {"max_accuracy_drop": self.gate.max_accuracy_drop, **_named(self.metric)}
            | limits
            | {"sample_weights": self.sample_weights or None},
            "objective": objective,
            "candidates": rows,
        }
        return content | ({"search": dict(self.search)} if self.search else {})

    def write(self, file: Path) -> None:
        """Write `selection.json`."""
        text = json.dumps(self.to_json(), indent=2, allow_nan=False)
        file.write_text(text + "\n", encoding="utf-8")


def _metric(content: Mapping[str, Any]) -> Metric:
    return Metric(content["metric"], content["higher_is_better"])


def _named(metric: Metric) -> dict[str, Any]:
    return {"metric": metric.name, "higher_is_better": metric.higher_is_better}
