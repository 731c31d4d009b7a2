"""Comparison of a converted model with its source, before its artifact is stored.

Float forms are held to a tolerance, and where they miss it, to what the source itself does
when its inputs change by a rounding error. Integer forms are held to a floor that an
ordinary loss of accuracy does not reach: what they cost is for the accuracy gate to judge.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from paring.errors import ParingError, UnsupportedError, first_line
from paring.runtimes import Features, Runtime, widened

Form = Literal["float", "half", "integer"]
"""What a converted model computes in: float32, something shorter, or integers."""

RANDOM: Final = "random inputs"

Outputs = dict[str, NDArray[Any]]

# Of the largest output: float32 in another order of operations; half precision, TF32 or
# fake quantization, whose errors add up over layers.
_TOLERANCES: Final = {"float": 1e-3, "half": 0.1}
# Share of the values that may be farther off: of a step that a rounding error tips.
_OUTLIERS: Final = 0.05
# Half precision with large cancelling weights still says something of its source.
_LOWEST_HALF: Final = 0.5
# Below this correlation, integers say nothing of the source.
_LOWEST_INTEGER: Final = 0.1
# Fewer values may be uncorrelated by chance.
_FEWEST: Final = 16
# The relative change of the inputs that shows how far the source amplifies rounding.
_NUDGES: Final = {"float": 1e-6, "half": 1e-3, "integer": 1e-2}
_AMPLIFIED: Final = 10.0
# Deviation of a constant, over its size, that is rounding of float32.
_ROUNDING: Final = 1e-6

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compared:
    """Comparison of a converted model with its source.

    Attributes:
        on: "32 examples" or "random inputs"; or why it was not compared.
        difference: See `difference`; None where it was not compared.
    """

    on: str
    difference: float | None = None


def compare(
    source: Callable[[], Runtime],
    made: Callable[[], Runtime],
    batches: Sequence[Features],
    *,
    form: Form,
    drawn: bool,
    what: str,
    only_rounded: Callable[[], bool] = lambda: False,
) -> Compared:
    """Run a converted model and its source on the same inputs, and refuse a broken one.

    Args:
        source: Opens the source.
        made: Opens the converted model.
        batches: What both are run on, at least one.
        form: What the converted model computes in.
        drawn: Whether the batches are examples, and not random numbers. What the source
            can't take of random numbers is not compared.
        what: The converted model, for messages: "the int8 TFLite file".
        only_rounded: Asked where integers say nothing of the source: whether nothing but
            rounding makes them so. Ranges that are far too wide for a layer do that, and
            are for the accuracy gate to judge.

    Raises:
        ModelError: The source can't be loaded, or takes other inputs.
        UnsupportedError: The converted model does not compute what its source does.
    """
    opened = source()
    try:
        try:
            expected = run(opened, batches)
        except Exception as error:
            # TensorFlow raises its own errors for what goes wrong in a graph.
            if drawn or isinstance(error, ParingError):
                raise
            return Compared(f"not compared: the source fails on {RANDOM}: {first_line(error)}")
        result = run_all(made(), batches)
        numbers = comparable(expected, result)
        refuse_broken(
            numbers,
            result,
            batches,
            run_source=lambda nudged: run(opened, nudged),
            form=form,
            what=what,
            only_rounded=only_rounded,
        )
    finally:
        opened.close()
    if not numbers:
        return Compared("not compared: no output is a number of a known shape")
    count = sum(len(next(iter(features.values()))) for features in batches)
    on = f"{count} examples" if drawn else RANDOM
    return Compared(on, difference(numbers, result))


def refuse_broken(
    numbers: Outputs,
    result: Outputs,
    batches: Sequence[Features],
    *,
    run_source: Callable[[Sequence[Features]], Outputs],
    form: Form,
    what: str,
    only_rounded: Callable[[], bool] = lambda: False,
) -> None:
    """Compare outputs that are computed already; see `compare`.

    Args:
        numbers: What `comparable` or `same_outputs` gives of the source's outputs.
        result: The converted model's.
        batches: What both were run on.
        run_source: Runs the source on other batches, if that is needed.
        form: As in `compare`, and the others.
        what: As there.
        only_rounded: As there.

    Raises:
        UnsupportedError: The converted model does not compute what its source does.
    """
    wrong = _mismatches(numbers, result, form)
    if wrong:
        # What random operators, ties and cancellation make of inputs that differ by a
        # rounding error is no fault of the conversion.
        nudged = run_source([_nudged(features, _NUDGES[form]) for features in batches])
        wrong = _mismatches(numbers, result, form, nudged=nudged)
    if wrong and not (form == "integer" and only_rounded()):
        raise UnsupportedError(
            f"{what} does not compute what its source does",
            received="; ".join(f"output {name}: {why}" for name, why in wrong.items()),
            remedy="use another precision or runtime for this model",
        )


def allowed_difference(
    reference: Outputs, result: Outputs, *, max_difference: float, what: str
) -> float:
    """Return the outputs' `difference`.

    Args:
        reference: Arrays [batch, ...] by output.
        result: The converted model's, of the same names and shapes.
        max_difference: The largest that is allowed.
        what: What differs from what, for messages: "the int8 ONNX file differs from its source".

    Raises:
        UnsupportedError: It is larger.
    """
    measured = difference(reference, result)
    if measured > max_difference:
        raise UnsupportedError(
            f"{what} by {measured:.3g}, and max_difference allows {max_difference:g}",
            received=_differences_in_words(reference, result),
            remedy="raise max_difference, and let the accuracy gate judge",
        )
    return measured


def run_all(runtime: Runtime, batches: Sequence[Features]) -> Outputs:
    """Return a runtime's outputs for all batches, by name, along the first axis; close it.

    bfloat16 is returned as float32.
    """
    try:
        return run(runtime, batches)
    finally:
        runtime.close()


def run(runtime: Runtime, batches: Sequence[Features]) -> Outputs:
    """Run all batches, as `run_all` does, and leave the runtime open."""
    given = [widened(runtime.run(features)) for features in batches]
    return {name: _joined([item[name] for item in given]) for name in given[0]}


def comparable(source: Outputs, made: Outputs) -> Outputs:
    """Return the outputs of the source that are numbers and have a counterpart.

    Raises:
        UnsupportedError: `made` has not the same outputs.
    """
    if source.keys() != made.keys():
        raise UnsupportedError(
            "the converted model has other outputs than its source",
            received=f"{', '.join(sorted(made))} for {', '.join(sorted(source))}",
            remedy="use another runtime for this model",
        )
    return {
        name: array
        for name, array in source.items()
        # How many boxes a detector finds may differ, and then there are no pairs.
        if array.dtype.kind in "biuf" and array.shape == made[name].shape
    }


def same_outputs(source: Outputs, made: Outputs) -> Outputs:
    """Return the outputs of `comparable`, and refuse outputs of other shapes.

    Raises:
        UnsupportedError: `made` has not the same outputs of the same shapes.
    """
    shapes = {name: array.shape for name, array in source.items()}
    result = {name: array.shape for name, array in made.items()}
    if shapes != result:
        raise UnsupportedError(
            "the file has other outputs than its source",
            received=f"{result} for {shapes}",
            remedy="use another runtime for this model",
        )
    return comparable(source, made)


def difference(reference: Mapping[str, Any], result: Mapping[str, Any]) -> float:
    """Return how far two models' outputs lie apart, from 0 to 1; the worst output's.

    For class scores, [batch, classes], it is the share of examples with another
    class; for other outputs the root mean square of the difference over the
    standard deviation of the reference, at most 1. Values that are not finite in the
    reference are left out. Where the reference is a constant up to rounding, as where a
    single value is compared, it is relative to that constant.

    Args:
        reference: Arrays [batch, ...] by output.
        result: The other model's, of the same names and shapes.
    """
    return max((_difference(reference[name], result[name]) for name in reference), default=0.0)


def _differences_in_words(reference: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return what `difference` is of each output, for messages."""
    return "; ".join(
        f"output {name}: "
        + (
            f"{_difference(array, result[name]):.1%} of {len(array)} examples get another class"
            if array.ndim == 2 and array.shape[1] > 1
            else f"{_difference(array, result[name]):.3g} of the standard deviation"
        )
        for name, array in reference.items()
    )


def _difference(reference: NDArray[Any], result: NDArray[Any]) -> float:
    known = np.isfinite(reference)
    if np.isnan(result[known]).any():
        return 1.0
    if reference.ndim == 2 and reference.shape[1] > 1:
        rows = known.all(axis=1)
        if rows.any():
            other = reference[rows].argmax(axis=1) != result[rows].argmax(axis=1)
            return float(np.mean(other))
    # Integers would wrap around.
    expected, other = reference[known].astype(np.float64), result[known].astype(np.float64)
    if not expected.size:
        return 0.0
    spread, size = float(expected.std()), float(np.abs(expected).max())
    if spread <= _ROUNDING * size:
        spread = size
    error = float(np.sqrt(np.mean(np.square(expected - other))))
    return min(error / spread, 1.0) if spread else float(error > 0)


def largest_difference(expected: Sequence[Features], result: Sequence[Features]) -> float:
    """Return how far outputs lie apart, relative to the largest; the worst output's.

    For floats it is the largest absolute difference over the largest absolute value
    that is expected of this output, infinite where one has NaN and the other has not;
    for other types the share of the elements that are others.

    Args:
        expected: For each call, an array [batch, ...] by output.
        result: The same of the other model.
    """
    if any(item.keys() != other.keys() for item, other in zip(expected, result, strict=True)):
        return float("inf")
    return max(
        (
            _largest([call[name] for call in expected], [call[name] for call in result])
            for name in expected[0]
        ),
        default=0.0,
    )


def _largest(expected: list[NDArray[Any]], result: list[NDArray[Any]]) -> float:
    if any(
        item.shape != other.shape or item.dtype != other.dtype
        for item, other in zip(expected, result, strict=True)
    ):
        return float("inf")
    first, second = (
        np.concatenate([np.ravel(item) for item in side]) for side in (expected, result)
    )
    if not first.size:
        return 0.0
    if first.dtype.name == "bfloat16":
        first, second = first.astype(np.float32), second.astype(np.float32)
    if first.dtype.kind not in "fc":
        return float(np.mean(first != second))
    if (np.isnan(first) != np.isnan(second)).any():
        return float("inf")
    # Infinities that are the same differ by nothing.
    differs = ~(np.isnan(first) | (first == second))
    if not differs.any():
        return 0.0
    size = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    apart = float(np.abs(first[differs] - second[differs]).max())
    return apart / size if size else float("inf")


def _mismatches(
    source: Outputs, made: Outputs, form: Form, *, nudged: Outputs | None = None
) -> dict[str, str]:
    """Return why each output is not that of the source; those that are, are left out."""
    result = {
        name: _mismatch(array, made[name], form, nudged=None if nudged is None else nudged[name])
        for name, array in source.items()
    }
    return {name: why for name, why in result.items() if why is not None}


def _mismatch(
    source: NDArray[Any], made: NDArray[Any], form: Form, *, nudged: NDArray[Any] | None
) -> str | None:
    known = np.isfinite(source)
    steady = np.ones_like(known)
    if nudged is not None:
        if nudged.shape != source.shape:
            return None
        steady = np.isfinite(nudged)
    expected, other = source[known & steady], made[known & steady]
    if not expected.size:
        return None
    if source.dtype.kind != "f":
        again = None if nudged is None else nudged[known & steady]
        return None if form == "integer" else _other_classes(expected, other, again)
    expected, other = expected.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(other)
    lost = 1 - float(np.mean(finite))
    if lost > (_OUTLIERS if form == "float" else 0.5):
        return f"{lost:.0%} of the values are not finite"
    expected, other = expected[finite], other[finite]
    if not expected.size:
        return None
    noise = np.zeros_like(expected)
    if nudged is not None:
        noise = np.abs(expected - nudged[known & steady][finite].astype(np.float64))
    errors = np.abs(expected - other)
    if form == "integer":
        return _uncorrelated(expected, other, noise)
    limit = _TOLERANCES[form] * float(np.abs(expected).max())
    if float(np.mean(noise > limit)) > _OUTLIERS:
        # The source itself gives something else each time.
        return None
    far = float(np.mean(errors > max(limit, np.finfo(np.float32).tiny) + _AMPLIFIED * noise))
    if far <= _OUTLIERS or (form == "half" and _correlation(expected, other) >= _LOWEST_HALF):
        return None
    worst = float(errors.max())
    return f"{far:.0%} of the values are off, by up to {worst:.3g} of {np.abs(expected).max():.3g}"


def _other_classes(
    expected: NDArray[Any], other: NDArray[Any], again: NDArray[Any] | None
) -> str | None:
    """Return why integers that stand for classes or counts are others; None if they are not.

    Args:
        expected: The source's.
        other: The converted model's.
        again: The source's on inputs that differ by a rounding error, if it was run on them.
    """
    equal = float(np.mean(expected == other))
    if equal >= 0.5 or (again is not None and np.mean(expected == again) < 1 - _OUTLIERS):
        return None
    return f"{equal:.0%} of the values are the same"


def _uncorrelated(
    expected: NDArray[np.float64], other: NDArray[np.float64], noise: NDArray[np.float64]
) -> str | None:
    """Return why integers say nothing of the source; None where they do, or may do."""
    spread = float(expected.std())
    # What varies by rounding alone has no ranks, and a constant is within the source's
    # range where int8 has no step as small as that.
    varies = spread > _ROUNDING * max(float(np.abs(expected).max()), 1e-30)
    if len(expected) < _FEWEST or not varies or not other.std():
        return None
    # Where the source itself varies so much from call to call, nothing can be said.
    if float(np.sqrt(np.mean(np.square(noise)))) > 0.5 * spread:
        return None
    correlation = _correlation(expected, other)
    error = float(np.sqrt(np.mean(np.square(expected - other))))
    if correlation >= _LOWEST_INTEGER or error <= 0.5 * spread:
        return None
    return f"the correlation is {correlation:.2f}"


def _correlation(expected: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the larger of the correlations of values and of ranks; 0 without any."""
    best = 0.0
    for first, second in ((expected, other), (_ranks(expected), _ranks(other))):
        deviations = float(first.std()) * float(second.std())
        if deviations:
            products = (first - first.mean()) * (second - second.mean())
            best = max(best, float(products.mean()) / deviations)
    return best


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value, equal ones at their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: NDArray[np.float64] = ((2 * ends - counts - 1) / 2)[inverse.reshape(-1)]
    return ranks


def _nudged(features: Features, share: float) -> Features:
    """Return the features with floats changed by up to a share of each."""
    generator = np.random.default_rng(0)
    return {
        name: (array * (1 + share * generator.uniform(-1, 1, array.shape))).astype(array.dtype)
        if array.dtype.kind == "f"
        else array
        for name, array in features.items()
    }


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return one array of all calls' outputs; of scalars a vector."""
    if arrays[0].dtype.name == "bfloat16":
        # NumPy takes it for no number.
        arrays = [array.astype(np.float32) for array in arrays]
    if len({array.shape[1:] for array in arrays}) > 1:
        # How many boxes there are differs from example to example.
        return np.array([None], dtype=object)
    return np.concatenate(arrays) if arrays[0].ndim else np.stack(arrays)
