"""Figures as a person reads them; a dash stands for what was not measured."""

import math
import re

NONE = "\N{EN DASH}"
"""Text for a value that was not measured."""

_TIMES = "\N{MULTIPLICATION SIGN}"


def ms(value: float | None) -> str:
    """Format milliseconds."""
    return NONE if value is None else f"{three(value)} ms"


def three(value: float) -> str:
    """Format a number with three significant digits, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def scaled(value: float | None, unit: str = "") -> str:
    """Format a count with k, M, G or T for powers of 1000."""
    if value is None:
        return NONE
    for power, prefix in ((4, "T"), (3, "G"), (2, "M"), (1, "k")):
        if abs(value) >= 1000**power:
            return f"{three(value / 1000**power)} {prefix}{unit}"
    return f"{value:,.0f} {unit}".rstrip()


def size(value: float | None) -> str:
    """Format bytes in powers of 1000."""
    return scaled(value, "B").replace("kB", "KB")


def percent(value: float | None) -> str:
    """Format a share in per cent with one decimal."""
    return NONE if value is None else f"{100 * value:.1f}%"


def times(value: float | None) -> str:
    """Format a ratio, as in 1.4x with the sign of multiplication."""
    if value is None:
        return NONE
    return f"{value:.2f}{_TIMES}" if value < 1.995 else f"{value:.1f}{_TIMES}"


def typeset(text: str) -> str:
    """Replace the letter x after a number, as in 1.4x, by the sign of multiplication."""
    return re.sub(r"(?<=\d)x\b", _TIMES, text)
