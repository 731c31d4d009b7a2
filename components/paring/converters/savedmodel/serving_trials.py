"""Trials of forms of a serving graph; faster ones with equal outputs are kept."""

import logging
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from paring.artifacts import DEFAULT_SIGNATURE, content_bytes
from paring.benchmarking.measure import Spec
from paring.benchmarking.process import measure
from paring.benchmarking.statistics import Interval, speedup
from paring.benchmarking.timing import TimingOptions
from paring.converters.savedmodel.serving_forms import GraphVariant, Precision
from paring.converters.savedmodel.serving_work import in_short
from paring.errors import ParingError, StepFailedError, UnsupportedError
from paring.system.memory import release_memory

_log = logging.getLogger(__name__)


@dataclass
class TrialOutcome:
    """Result of the trial of one form.

    Attributes:
        tried: What was added to the form before it.
        form: The form, in words.
        beside: The form that it was measured beside; "source" for the source.
        applied: Whether the result has it.
        reason: Why not, if it does not.
        difference: From the source; see `MeasuringEvaluator.difference`. None if it doesn't run,
            or without limit, as where values overflow.
        speedup: Of the form, over the one beside it; None if it was not measured.
        size_bytes: Of its SavedModel; None if there is none.
    """

    tried: str
    form: str
    beside: str
    applied: bool = False
    reason: str = ""
    difference: float | None = None
    speedup: Interval | None = None
    size_bytes: int | None = None


@dataclass(frozen=True)
class Choice:
    """GraphVariant that `choose` selected.

    Attributes:
        folder: The SavedModel of the best form, the source's if there is no better one.
        form: The form; None for the source.
        difference: Its difference from the source; None for the source.
        speedup: Of the form, over the source; None for the source.
        outcomes: Results of all forms tried.
    """

    folder: Path
    form: GraphVariant | None = None
    difference: float | None = None
    speedup: Interval | None = None
    outcomes: list[TrialOutcome] = field(default_factory=list)


class VariantEvaluator(Protocol):
    """Measurements that `choose` needs; see `MeasuringEvaluator`."""

    def difference(self, folder: Path) -> float:
        """Return the difference of the outputs from the source's."""
        ...

    def speedup(self, base: Path, folder: Path) -> Interval:
        """Return the speedup of `folder` over `base`."""
        ...


def choose(
    changes: Mapping[str, Mapping[str, Any]],
    build: Callable[[GraphVariant, Path], None],
    judge: VariantEvaluator,
    *,
    source: Path,
    scratch: Path,
    tolerances: Mapping[Precision, float],
    timed: bool = True,
) -> Choice:
    """Make one change after another, and keep each that makes the model faster.

    A change is kept if the outputs are within the tolerance of the source's, and the
    interval of its speed-up over the best form so far is above 1. Where several are
    kept, the result is measured beside the source once more, and changes are taken back
    until it is faster than that. Without `timed` nothing is measured, and each change whose
    outputs are within the tolerance is kept.

    Args:
        changes: Fields of `GraphVariant` to set, by what the change is called, in this order.
        build: Writes the SavedModel of a form.
        judge: Compares and measures.
        source: The source's SavedModel.
        scratch: An empty folder, for the forms.
        tolerances: The largest difference for each precision.
        timed: Whether a change has to make the model faster on this machine.
    """
    kept: list[Choice] = [Choice(source)]
    outcomes: list[TrialOutcome] = []
    for number, (name, fields) in enumerate(changes.items()):
        best = kept[-1]
        form = replace(best.form or GraphVariant(), **fields)
        outcome = TrialOutcome(name, str(form), str(best.form) if best.form else "source")
        outcomes.append(outcome)
        folder = scratch / str(number)
        limit = tolerances[form.precision]
        outcome.reason = _inaccuracy(
            outcome, form, folder=folder, build=build, judge=judge, limit=limit
        )
        if timed and not outcome.reason:
            outcome.reason = _slowness(outcome, folder=folder, base=best.folder, judge=judge)
        _log.info("%s: %s", name, outcome.reason or "applied")
        if not outcome.reason:
            outcome.applied = True
            kept.append(Choice(folder, form, outcome.difference, outcome.speedup))
    while timed and len(kept) > 2:
        last = next(item for item in reversed(outcomes) if item.applied)
        try:
            result = judge.speedup(source, kept[-1].folder)
            if result.low > 1:
                kept[-1] = replace(kept[-1], speedup=result)
                break
            last.reason = f"{_slower(result)}, beside the source"
        except ParingError as error:
            what = error.what.replace(str(kept[-1].folder.absolute()), "it")
            last.reason = f"not measured beside the source: {what}"
        last.applied = False
        kept.pop()
        _log.info("%s: %s", last.tried, last.reason)
    _note_replaced(changes, outcomes, kept[-1].form, "is faster" if timed else "replaces it")
    return replace(kept[-1], outcomes=outcomes)


def _note_replaced(
    changes: Mapping[str, Mapping[str, Any]],
    outcomes: Sequence[TrialOutcome],
    form: GraphVariant | None,
    why: str,
) -> None:
    """Mark what was kept and then replaced by a change of the same fields."""
    for index, item in enumerate(outcomes):
        fields = changes[item.tried]
        if item.applied and any(getattr(form, key) != value for key, value in fields.items()):
            later = outcomes[index + 1 :]
            by = next(
                x.tried for x in later if x.applied and changes[x.tried].keys() == fields.keys()
            )
            item.applied, item.reason = False, f"{by} {why}"


def with_fixed_batch(
    build: Callable[[Path], None],
    choice: Choice,
    trial: VariantEvaluator,
    *,
    folder: Path,
    limit: float,
    timed: bool = True,
) -> Choice:
    """Return the source's own graph with a second signature for a fixed batch.

    Args:
        build: Writes the SavedModel.
        choice: Of the source.
        trial: Compares and measures.
        folder: Gets the SavedModel.
        limit: The largest difference.
        timed: Whether it must be as fast as the source on this machine.

    Raises:
        UnsupportedError: It would be slower than the source, or give other outputs.
    """
    build(folder)
    difference = trial.difference(folder)
    result = trial.speedup(choice.folder, folder) if timed else None
    if not difference <= limit or (result and result.high < 1):
        speed = f", a speed of {result.estimate:.2f}" if result else ""
        raise UnsupportedError(
            "a signature for a fixed batch can't be added to this model at no cost",
            received=f"a difference of {difference:.2g}{speed}",
            remedy="leave fixed_batch out",
        )
    return replace(choice, folder=folder, difference=difference, speedup=result)


def _inaccuracy(
    outcome: TrialOutcome,
    form: GraphVariant,
    *,
    folder: Path,
    build: Callable[[GraphVariant, Path], None],
    judge: VariantEvaluator,
    limit: float,
) -> str:
    """Build the form, and return why it can't be the result; "" if its outputs are right."""
    try:
        build(form, folder)
        outcome.size_bytes = content_bytes(folder)
        difference = judge.difference(folder)
    except ParingError as error:
        return f"can't be built or run: {in_short(error)}"
    if not math.isfinite(difference):
        # JSON has no such number.
        return f"differs without limit, as where values overflow in {form.precision}"
    outcome.difference = difference
    if not difference <= limit:
        return f"differs by {outcome.difference:.2g}, more than {limit:g}"
    return ""


def _slowness(outcome: TrialOutcome, *, folder: Path, base: Path, judge: VariantEvaluator) -> str:
    """Measure the form, and return why it isn't faster than `base`; "" if it is."""
    try:
        outcome.speedup = judge.speedup(base, folder)
    except ParingError as error:
        return f"not measured: {error.what.replace(str(folder.absolute()), 'it')}"
    return "" if outcome.speedup.low > 1 else _slower(outcome.speedup)


def _slower(interval: Interval) -> str:
    return f"not faster: {interval.estimate:.2f} ({interval.low:.2f} to {interval.high:.2f})"


class MeasuringEvaluator:
    """Comparison and timing of SavedModels with a source.

    Args:
        compare: Returns the difference of a SavedModel's outputs from the source's.
        inputs: What is timed; see `paring.benchmarking.measure.Spec`.
        names: The signature's inputs.
        timing: Options of each measurement.
        seconds: How long all measurements may take.
        signature: Name of the signature that is called.
    """

    def __init__(
        self,
        compare: Callable[[Path], float],
        inputs: Path,
        names: list[str],
        *,
        timing: TimingOptions,
        seconds: float,
        signature: str = DEFAULT_SIGNATURE,
    ) -> None:
        self._compare = compare
        self._inputs = inputs
        self._names = names
        self._timing = timing
        self._left = seconds
        self._signature = signature

    def difference(self, folder: Path) -> float:
        """Return the difference of the outputs from the source's."""
        return self._compare(folder)

    def speedup(self, base: Path, folder: Path) -> Interval:
        """Return the latency of `base` over that of `folder`, measured alternately.

        Raises:
            StepFailedError: The time is up, or a process crashed.
        """
        if self._left <= 0:
            raise StepFailedError("the time for measuring is up", remedy="raise max_minutes")
        start = time.monotonic()
        # The child that measures needs room beside this process.
        release_memory()
        try:
            with tempfile.TemporaryDirectory(prefix="paring-optimize-") as scratch:
                return self._measured(base, folder, Path(scratch))
        finally:
            self._left -= time.monotonic() - start

    def _measured(self, base: Path, folder: Path, scratch: Path) -> Interval:
        spec = Spec(
            "latency",
            source=str(base.absolute()),
            candidate=str(folder.absolute()),
            inputs=str(self._inputs),
            names=self._names,
            folder=str(scratch),
            **self._timing.spec_fields(),
            # The step looked at the source when it opened it, and made the other of it.
            trusted=True,
            source_signature=self._signature,
            candidate_signature=self._signature,
        )
        measure(spec, timeout_seconds=self._left)
        with np.load(spec.latencies, allow_pickle=False) as result:
            return speedup(result["source"], result["candidate"], seed=self._timing.seed)
