"""Reasons why a candidate was selected and others were not, in sentences."""

import math

from paring.selection.candidates import CandidateRow
from paring.selection.pareto import SIZE_TIE, Measured, Objective, as_fast, loss


def why(best: Measured, passing: list[Measured], source: Measured, objective: Objective) -> str:
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
    fastest = min(passing, key=lambda one: one.pace)
    if fastest.pace == best.pace:
        return f"the fastest of the {len(passing)} that pass"
    better = _size(best, fastest) or _accuracy(best, fastest)
    return f"as fast as {fastest.id}, the fastest, within the noise, and {better}"


def why_not(one: Measured, best: Measured, source: Measured, objective: Objective) -> str:
    """Return the advantages of `best` over `one`, in the order in which they decided."""
    speed = _speed(best, one) or "as fast within the noise"
    size = _size(best, one) or ("not larger" if best.size <= one.size else "about as small")
    mine, other = best.memory(source), one.memory(source)
    memory = _ratio(mine, other, "lighter in memory", "heavier in memory")
    if objective == "latency":
        phrases, tied = [speed, size], not (_speed(best, one) or _size(best, one))
    elif objective == "size":
        phrases, tied = [size, speed], best.size == one.size and not _speed(best, one)
    else:
        phrases = [memory or "as light in memory", size]
        tied = mine == other and not _size(best, one)
    if tied:
        further = (_accuracy(best, one), memory if memory not in phrases else "")
        phrases += [text for text in further if text][:1]
    name = "the source" if best.is_source else best.id
    text = f"{name} is {', '.join(phrases[:-1])} and {phrases[-1]}"
    if one.is_source:
        return f"the source itself; {text}"
    if best.is_source and objective == "latency":
        return f"passes, but its speed-up is {_interval(one)}; {text}"
    return f"passes, but {text}"


def _speed(best: Measured, one: Measured) -> str:
    """Return the comparison of `best` with `one` in speed, "" where noise may explain it."""
    fast, slow = sorted((best, one), key=lambda which: which.pace)
    return "" if as_fast(slow, fast) else _ratio(best.pace, one.pace, "faster", "slower")


def _size(best: Measured, one: Measured) -> str:
    """Return the comparison of `best` with `one` in size, "" where it does not decide."""
    small, large = sorted((best.size, one.size))
    if large <= small * (1 + SIZE_TIE):
        return ""
    return _ratio(best.size, one.size, "smaller", "larger")


def _accuracy(best: Measured, one: Measured) -> str:
    return best.metric.advantage(loss(one) - loss(best))


def _ratio(mine: float, other: float, better: str, worse: str) -> str:
    """Return a ratio as in "1.4x smaller", if mine is 1.4 times less; "" if equal."""
    if mine == other or math.isinf(mine) or math.isinf(other):
        return ""
    ratio = other / mine if mine < other else mine / other
    word = better if mine < other else worse
    return f"{ratio:.1f}x {word}" if ratio >= 1.095 else f"{100 * (ratio - 1):.1f}% {word}"


def _interval(one: Measured) -> str:
    if one.speedup is None or one.speedup_low is None or one.speedup_high is None:
        return "not known to be above 1"
    return f"{one.speedup:.2f} (95% interval {one.speedup_low:.2f} to {one.speedup_high:.2f})"


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
    if chosen.drop is None or chosen.score is None:
        return f"{chosen.id} is {text}."
    return f"{chosen.id} is {text}, {chosen.metric.verdict(chosen.drop, chosen.score)}."
