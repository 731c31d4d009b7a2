"""Kubeflow's cron, which has seconds: read, checked, and said back."""

import re

from paring.errors import ParameterError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 6, _DAYS),
)
_NICKNAMES = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


def read_cron(text: str) -> str:
    """The six fields that Kubeflow takes, from six, from five, or from a nickname.

    Six are second, minute, hour, day of month, month, day of week. Five, as crontab has
    them, are without the second, which is then 0.

    Raises:
        ParameterError: It is none of these; the message names the field.
    """
    fields = _NICKNAMES.get(text.strip().lower(), text).split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise ParameterError(
            "--cron: this has neither six fields nor five",
            received=text,
            remedy="write second minute hour day-of-month month day-of-week:"
            " '0 30 3 * * *' is every day at 03:30",
        )
    for given, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        for part in given.split(","):
            if not _is_part(part, low, high, names):
                also = f", {names[0]} to {names[-1]}" if names else ""
                raise ParameterError(
                    f"--cron: {part!r} is no {name}",
                    received=text,
                    remedy=f"use {low} to {high}{also}, *, A-B, */N or a list of them",
                )
    return " ".join(fields)


def said(cron: str) -> str:
    """Six fields with the name of each, for a person to check."""
    pairs = zip(cron.split(), _FIELDS, strict=True)
    return ", ".join(f"{name} {given}" for given, (name, *_) in pairs)


def _is_part(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    matched = re.fullmatch(r"(\*|\?|\w+)(?:-(\w+))?(?:/([1-9]\d*))?", part)
    if matched is None:
        return False
    first, last, _ = matched.groups()
    if first in "*?":
        return last is None

    def value(text: str) -> int | None:
        if text.lower() in names:
            return low + names.index(text.lower())
        return int(text) if text.isdigit() else None

    ends = [value(first), value(last if last is not None else first)]
    known = [one for one in ends if one is not None]
    return len(known) == 2 and low <= known[0] <= known[1] <= high
