"""Trials of forms of a serving graph; faster ones with equal outputs are kept."""

import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from paring.artifacts import content_bytes
from paring.benchmarking.measure import Spec
from paring.benchmarking.process import measure
from paring.benchmarking.statistics import Interval, speedup
from paring.converters.comparison import largest_difference
from paring.converters.savedmodel.serving_forms import Form, Precision
from paring.converters.savedmodel.trial_inputs import TrialInputs
from paring.errors import ParingError, StepFailedError, UnsupportedError
from paring.graphs.serving_graph import export_again, fixed_key
from paring.runtimes import SIGNATURE, Features
from paring.runtimes.savedmodel import SavedModelRuntime
from paring.system.memory import release_memory

_log = logging.getLogger(__name__)

_MIN_WINDOW_SECONDS = 0.02


@dataclass
class TrialOutcome:
    """Result of the trial of one form.

    Attributes:
        tried: What was added to the form before it.
        form: The form, in words.
        beside: The form that it was measured beside; "source" for the source.
        applied: Whether the result has it.
        reason: Why not, if it does not.
        difference: From the source; see `Trial.difference`. None if it doesn't run.
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
    """Form that `choose` selected.

    Attributes:
        folder: The SavedModel of the best form, the source's if there is no better one.
        form: The form; None for the source.
        difference: Its difference from the source; None for the source.
        speedup: Of the form, over the source; None for the source.
        outcomes: Results of all forms tried.
    """

    folder: Path
    form: Form | None = None
    difference: float | None = None
    speedup: Interval | None = None
    outcomes: list[TrialOutcome] = field(default_factory=list)


class Judge(Protocol):
    """Measurements that `choose` needs; see `Trial`."""

    def difference(self, folder: Path) -> float:
        """Return the difference of the outputs from the source's."""
        ...

    def speedup(self, base: Path, folder: Path) -> Interval:
        """Return the speedup of `folder` over `base`."""
        ...


def choose(
    changes: Mapping[str, Mapping[str, Any]],
    build: Callable[[Form, Path], None],
    judge: Judge,
    source: Path,
    scratch: Path,
    tolerances: Mapping[Precision, float],
) -> Choice:
    """Make one change after another, and keep each that makes the model faster.

    A change is kept if the outputs are within the tolerance of the source's, and the
    interval of its speed-up over the best form so far is above 1. Where several are
    kept, the result is measured beside the source once more, and changes are taken back
    until it is faster than that.

    Args:
        changes: Fields of `Form` to set, by what the change is called, in this order.
        build: Writes the SavedModel of a form.
        judge: Compares and measures.
        source: The source's SavedModel.
        scratch: An empty folder, for the forms.
        tolerances: The largest difference for each precision.
    """
    kept: list[Choice] = [Choice(source)]
    outcomes: list[TrialOutcome] = []
    for number, (name, fields) in enumerate(changes.items()):
        best = kept[-1]
        form = replace(best.form or Form(), **fields)
        outcome = TrialOutcome(name, str(form), str(best.form) if best.form else "source")
        outcomes.append(outcome)
        folder = scratch / str(number)
        limit = tolerances[form.precision]
        outcome.reason = _objection(outcome, form, folder, best.folder, build, judge, limit)
        _log.info("%s: %s", name, outcome.reason or "applied")
        if not outcome.reason:
            outcome.applied = True
            kept.append(Choice(folder, form, outcome.difference, outcome.speedup))
    while len(kept) > 2:
        last = next(one for one in reversed(outcomes) if one.applied)
        try:
            found = judge.speedup(source, kept[-1].folder)
            if found.low > 1:
                kept[-1] = replace(kept[-1], speedup=found)
                break
            last.reason = f"{_slower(found)}, beside the source"
        except ParingError as error:
            what = error.what.replace(str(kept[-1].folder.absolute()), "it")
            last.reason = f"not measured beside the source: {what}"
        last.applied = False
        kept.pop()
        _log.info("%s: %s", last.tried, last.reason)
    _note_replaced(changes, outcomes, kept[-1].form)
    return replace(kept[-1], outcomes=outcomes)


def _note_replaced(
    changes: Mapping[str, Mapping[str, Any]], outcomes: Sequence[TrialOutcome], form: Form | None
) -> None:
    """Mark what was kept and then replaced by a change of the same fields."""
    for index, one in enumerate(outcomes):
        fields = changes[one.tried]
        if one.applied and any(getattr(form, key) != value for key, value in fields.items()):
            later = outcomes[index + 1 :]
            by = next(
                x.tried for x in later if x.applied and changes[x.tried].keys() == fields.keys()
            )
            one.applied, one.reason = False, f"{by} is faster"


def with_fixed_batch(
    function: Any, choice: Choice, trial: Judge, folder: Path, fixed_batch: int, limit: float
) -> Choice:
    """Return the source's own graph with a second signature for a fixed batch.

    Args:
        function: The source's signature, as `paring.graphs.graph.load_function` gives it.
        choice: Of the source.
        trial: Compares and measures.
        folder: Gets the SavedModel.
        fixed_batch: The batch.
        limit: The largest difference.

    Raises:
        UnsupportedError: It would be slower than the source, or give other outputs.
    """
    export_again(function, folder, fixed_batch=fixed_batch)
    difference, found = trial.difference(folder), trial.speedup(choice.folder, folder)
    if not difference <= limit or found.high < 1:
        raise UnsupportedError(
            "a signature for a fixed batch can't be added to this model at no cost",
            received=f"a difference of {difference:.2g}, a speed of {found.estimate:.2f}",
            remedy="leave fixed_batch out",
        )
    return replace(choice, folder=folder, difference=difference, speedup=found)


def _objection(
    outcome: TrialOutcome,
    form: Form,
    folder: Path,
    base: Path,
    build: Callable[[Form, Path], None],
    judge: Judge,
    limit: float,
) -> str:
    """Return the reason to reject the form; "" if there is none."""
    try:
        build(form, folder)
        outcome.size_bytes = content_bytes(folder)
        outcome.difference = judge.difference(folder)
    except (ParingError, tf.errors.OpError, NotImplementedError, TypeError, ValueError) as error:
        # TensorFlow names operators without such a kernel, and what XLA can't compile.
        return f"can't be built or run: {in_short(error)}"
    if not outcome.difference <= limit:
        return f"differs by {outcome.difference:.2g}, more than {limit:g}"
    try:
        outcome.speedup = judge.speedup(base, folder)
    except ParingError as error:
        return f"not measured: {error.what.replace(str(folder.absolute()), 'it')}"
    return "" if outcome.speedup.low > 1 else _slower(outcome.speedup)


def _slower(found: Interval) -> str:
    return f"not faster: {found.estimate:.2f} ({found.low:.2f} to {found.high:.2f})"


def in_short(error: Exception) -> str:
    """Return one line of an error, without the place in TensorFlow's sources."""
    if isinstance(error, ParingError):
        return f"{error.what} ({error.received})" if error.received else error.what
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Errors of a graph start with a traceback of where its nodes were made.
    said = [line for line in lines if not line.startswith(("Detected at", "Graph execution"))]
    return f"{type(error).__name__}: {(said or [''])[0]}"[:300]


class Trial:
    """Comparison and timing of SavedModels with a source.

    Args:
        source: The source's SavedModel.
        inputs: What is compared and timed.
        fixed_batch: The batch of the second signature that models other than the source
            have; 0 if there is none.
        threads: Threads for one call.
        rounds: How often both sides of a measurement are loaded and timed.
        windows: Pairs of windows in a round.
        min_seconds: Time to spend in timed windows, at least.
        seconds: How long all measurements may take.
        seed: Of the order of the sides, and the resampling.
    """

    def __init__(
        self,
        source: Path,
        inputs: TrialInputs,
        *,
        fixed_batch: int,
        threads: int,
        rounds: int,
        windows: int,
        min_seconds: float,
        seconds: float,
        seed: int,
    ) -> None:
        self._timed = inputs.timed
        self._compared = {SIGNATURE: inputs.compared}
        if fixed_batch:
            self._compared[fixed_key(fixed_batch)] = [inputs.batch_of(fixed_batch)]
        self._threads = threads
        self._rounds = rounds
        self._windows = windows
        self._window_seconds = max(_MIN_WINDOW_SECONDS, min_seconds / (2 * rounds * windows))
        self._seed = seed
        self._left = seconds
        self._expected = {
            key: _outputs(source, calls, SIGNATURE) for key, calls in self._compared.items()
        }
        # Within one load, since random numbers may start over with each.
        twice = _outputs(source, [*inputs.compared, *inputs.compared], SIGNATURE)
        calls = len(inputs.compared)
        self.own_difference = largest_difference(twice[:calls], twice[calls:])
        """How far the source's outputs are from themselves, called again."""
        self.variation = largest_difference(twice[:calls], [_shifted(one) for one in twice[:calls]])
        """How far the source's outputs for one example are from those for another."""

    def difference(self, folder: Path) -> float:
        """Return the difference of the outputs from the source's; see `largest_difference`."""
        return max(
            largest_difference(self._expected[key], _outputs(folder, calls, key))
            for key, calls in self._compared.items()
        )

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
        names = list(self._timed[0])
        inputs = scratch / "inputs.npz"
        arrays: dict[str, Any] = {
            str(index): np.stack([batch[name] for batch in self._timed])
            for index, name in enumerate(names)
        }
        np.savez(inputs, **arrays)
        spec = Spec(
            "latency",
            source=str(base.absolute()),
            candidate=str(folder.absolute()),
            inputs=str(inputs),
            names=names,
            folder=str(scratch),
            threads=self._threads,
            rounds=self._rounds,
            windows=self._windows,
            window_seconds=self._window_seconds,
            seed=self._seed,
            # The step looked at the source when it opened it, and made the other of it.
            trusted=True,
        )
        measure(spec, timeout_seconds=self._left)
        with np.load(spec.latencies, allow_pickle=False) as found:
            return speedup(found["source"], found["candidate"], seed=self._seed)


def _shifted(call: Features) -> Features:
    """Return the outputs of one call, shifted by one example."""
    return {
        name: np.roll(array, 1, axis=0) if array.ndim else array for name, array in call.items()
    }


def _outputs(folder: Path, calls: Sequence[Features], signature: str) -> list[Features]:
    runtime = SavedModelRuntime(folder, signature=signature)
    try:
        return [runtime.run(call) for call in calls]
    finally:
        runtime.close()
