"""Reasons why a candidate was selected and others were not, in sentences.

Ratios of speed stand with their 95% interval, and as a difference only where the
measurements show one: "5.7x faster (4.1 to 7.9)", or "perhaps faster (1.3x, 0.9 to 1.9)".
"""

import math

from paring.selection.candidates import CandidateRow
from paring.selection.pareto import (
    MEMORY_NOISE,
    SIZE_TIE,
    Measured,
    Objective,
    SpeedRatio,
    as_fast,
    loss,
    speed_ratio,
)


def why(best: Measured, passing: list[Measured], *, source: Measured, objective: Objective) -> str:
    """Return the reason why `best` was selected among the passing candidates."""
    if len(passing) == 1:
        return "the only one that passes"
    if best.is_source:
        others = {
            "latency": "is faster for certain, or as fast and clearly smaller",
            "size": "is smaller",
            "memory": "needs less memory for certain, or as little and is clearly smaller",
        }
        return f"none of the others that pass {others[objective]}"
    if objective == "size":
        return f"the smallest of the {len(passing)} that pass"
    if objective == "memory":
        return f"needs the least memory of the {len(passing)} that pass, within the noise"
    fastest = min(passing, key=lambda item: item.relative_latency)
    if fastest.relative_latency == best.relative_latency:
        rest = [candidate for candidate in passing if candidate is not best]
        near = [_name(item) for item in rest if not _is_apart(best, item)]
        if not near:
            return f"the fastest of the {len(passing)} that pass"
        return (
            f"measured as the fastest of the {len(passing)} that pass, but {', '.join(near)} may be"
            " as fast: the intervals overlap"
        )
    better = _size(best, fastest) or _accuracy(best, fastest)
    return f"as fast as {fastest.id}, the fastest, within the noise, and {better}"


def why_not(candidate: Measured, best: Measured, *, source: Measured, objective: Objective) -> str:
    """Return the advantages of `best` over `candidate`, in the order in which they decided."""
    speed = _speed(best, candidate) or "as fast within the noise"
    size = _size(best, candidate) or (
        "not larger" if best.size <= candidate.size else "about as small"
    )
    mine, other = best.memory(source), candidate.memory(source)
    same_memory = max(mine, other) <= min(mine, other) * (1 + MEMORY_NOISE)
    memory = (
        ""
        if same_memory
        else _ratio(mine, other, better="lighter in memory", worse="heavier in memory")
    )
    if objective == "latency":
        phrases, tied = [speed, size], not (_speed(best, candidate) or _size(best, candidate))
    elif objective == "size":
        phrases, tied = [size, speed], best.size == candidate.size and not _speed(best, candidate)
    else:
        phrases = [memory or "as light in memory", size]
        tied = same_memory and not _size(best, candidate)
    if tied:
        further = (_accuracy(best, candidate), memory if memory not in phrases else "")
        phrases += [text for text in further if text][:1]
    text = f"{_name(best)} is {', '.join(phrases[:-1])} and {phrases[-1]}"
    if candidate.is_source:
        return f"the source itself; {text}"
    if best.is_source and objective == "latency":
        return f"passes, but its speed-up is {_interval(candidate)}; {text}"
    return f"passes, but {text}"


def _speed(best: Measured, candidate: Measured) -> str:
    """Return the comparison of `best` with `candidate` in speed, "" where noise may explain it."""
    fast, slow = sorted((best, candidate), key=lambda which: which.relative_latency)
    result = speed_ratio(best, candidate)
    if result is None or as_fast(slow, fast):
        return ""
    word = "faster" if result.estimate >= 1 else "slower"
    result = result if result.estimate >= 1 else result.inverse
    if not result.is_certain:
        estimate, low, high = _written(result)
        return f"perhaps {word} ({estimate}x, {low} to {high})"
    if result.estimate >= 1.095:
        estimate, low, high = _written(result)
        return f"{estimate}x {word} ({low} to {high})"
    low, high = (f"{100 * (end - 1):.1f}" for end in (result.low, result.high))
    return f"{100 * (result.estimate - 1):.1f}% {word} ({low}% to {high}%)"


def _is_apart(best: Measured, candidate: Measured) -> bool:
    """Return whether the measurements show that the two differ in speed."""
    result = speed_ratio(best, candidate)
    return result is not None and result.is_certain


def _name(candidate: Measured) -> str:
    return "the source" if candidate.is_source else candidate.id


def _written(ratio: SpeedRatio) -> tuple[str, str, str]:
    """Return the ratio and its limits with one decimal, or with two where they need them."""
    values = ratio.estimate, ratio.low, ratio.high
    estimate, low, high = (f"{value:.1f}" for value in values)
    if float(low) < float(estimate) < float(high):
        return estimate, low, high
    estimate, low, high = (f"{value:.2f}" for value in values)
    return estimate, low, high


def _size(best: Measured, candidate: Measured) -> str:
    """Return the comparison of `best` with `candidate` in size, "" where it does not decide."""
    small, large = sorted((best.size, candidate.size))
    if large <= small * (1 + SIZE_TIE):
        return ""
    return _ratio(best.size, candidate.size, better="smaller", worse="larger")


def _accuracy(best: Measured, candidate: Measured) -> str:
    return best.metric.advantage(loss(candidate) - loss(best))


def _ratio(mine: float, other: float, *, better: str, worse: str) -> str:
    """Return a ratio as in "1.4x smaller", if mine is 1.4 times less; "" if equal."""
    if mine == other or math.isinf(mine) or math.isinf(other):
        return ""
    ratio = other / mine if mine < other else mine / other
    word = better if mine < other else worse
    return f"{ratio:.1f}x {word}" if ratio >= 1.095 else f"{100 * (ratio - 1):.1f}% {word}"


def _interval(candidate: Measured) -> str:
    if candidate.speedup is None or candidate.speedup_low is None or candidate.speedup_high is None:
        return "not known to be above 1"
    low, high = candidate.speedup_low, candidate.speedup_high
    return f"{candidate.speedup:.2f} (95% interval {low:.2f} to {high:.2f})"


def verdict(chosen: CandidateRow, source: CandidateRow, passed: int) -> str:
    """Return the result in one sentence."""
    if chosen.is_source:
        if not passed:
            return "Nothing meets the gate and the budgets: the source model is kept."
        return "Nothing beats the source model: it is kept as it is."
    best, reference = chosen.measured, source.measured
    speed = _speed(best, reference)
    size = _size(best, reference)
    if speed:
        text = f"{speed} and {size} than the source" if size else f"{speed} than the source"
    else:
        text = "as fast as the source" + (f" and {size}" if size else "")
        if best.speedup_low is not None and best.speedup_high is not None:
            limits = f"{best.speedup_low:.2f} to {best.speedup_high:.2f}"
            text = f"as fast as the source within the noise ({limits})"
            text += f", and {size}" if size else ""
    if chosen.drop is None or chosen.score is None:
        return f"{chosen.id} is {text}."
    return f"{chosen.id} is {text}, {chosen.metric.verdict(chosen.drop, chosen.score)}."
