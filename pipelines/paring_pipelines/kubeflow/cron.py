"""Parsing, checks and description of Kubeflow's cron expressions, which have seconds."""

import re
from calendar import monthrange

from paring.errors import ParameterError

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    # Kubeflow itself ends at 6.
    ("day of week", 0, 7, _DAYS),
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
    """Return the six fields that Kubeflow takes, from six, from five, or from a nickname.

    Six are second, minute, hour, day of month, month, day of week. Five, as crontab has
    them, are without the second, which is then 0.

    Raises:
        ParameterError: It is none of these, and the message names the field; or there is
            no such day.
    """
    zone = re.match(r"\s*(CRON_)?TZ=\S*", text)
    if zone:
        raise ParameterError(
            "--cron: Kubeflow takes no time zone; its controller has one, UTC by default",
            received=text,
            remedy=f"leave {zone[0].strip()} out, and give the hours in UTC",
        )
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
            _check_step(text, part, name=name, low=low, high=high)
            if not _is_part(part, low=low, high=high, names=names):
                also = f", {names[0]} to {names[-1]}" if names else ""
                raise ParameterError(
                    f"--cron: {part!r} is no {name}",
                    received=text,
                    remedy=f"use {low} to {high}{also}, *, A-B, */N or a list of them",
                )
    fields[-1] = ",".join(_without_seven(part) for part in fields[-1].split(","))
    if not _fires(*fields[3:]):
        raise ParameterError(
            "--cron: no month that is named has this day, so it would never start a run",
            received=text,
            remedy="give a day that the month has, or another month",
        )
    return " ".join(fields)


def said(cron: str) -> str:
    """Return the six fields with their names, for a person to check."""
    pairs = zip(cron.split(), _FIELDS, strict=True)
    return ", ".join(f"{name} {given}" for given, (name, *_) in pairs)


def _check_step(text: str, part: str, *, name: str, low: int, high: int) -> None:
    """Refuse a step of more than all of a field, which counts within that field alone."""
    matched = _PART.fullmatch(part)
    # Sunday has two numbers.
    size = min(high - low + 1, 7 if name == "day of week" else 60)
    if matched is None or int(matched[3] or 1) <= size:
        return
    first = low if matched[1] in "*?" else matched[1]
    raise ParameterError(
        f"--cron: {part!r} has a step of {matched[3]}, and there are {size} values of {name},"
        f" so it would mean {name} {first} alone",
        received=text,
        remedy=f"write {first} if that is meant, or a step of at most {size}; a field can't count"
        " beyond its own",
    )


_PART = re.compile(r"(\*|\?|[A-Za-z0-9]+)(?:-([A-Za-z0-9]+))?(?:/([1-9][0-9]*))?")


def _is_part(part: str, *, low: int, high: int, names: tuple[str, ...]) -> bool:
    return _values(part, low=low, high=high, names=names) is not None


def _values(part: str, low: int, high: int, names: tuple[str, ...]) -> range | None:
    """Return the numbers that a part of a field stands for, None if it is no part."""
    matched = _PART.fullmatch(part)
    if matched is None:
        return None
    first, last, step = matched.groups()
    if first in "*?":
        return range(low, high + 1, int(step or 1)) if last is None else None

    def value(text: str) -> int:
        if text.lower() in names:
            return low + names.index(text.lower())
        return int(text) if text.isdigit() else -1

    start = value(first)
    # A number with a step goes on to the last one.
    end = value(last) if last is not None else high if step else start
    return range(start, end + 1, int(step or 1)) if low <= start <= end <= high else None


def _without_seven(part: str) -> str:
    """Return a part of days of the week with 0 for crontab's other Sunday, 7."""
    _, low, high, names = _FIELDS[-1]
    if "7" not in re.split(r"[-/]", part.partition("/")[0]):
        return part
    values = _values(part, low=low, high=high, names=names) or ()
    return ",".join(str(item) for item in sorted({value % 7 for value in values}))


def _fires(days: str, months: str, weekdays: str) -> bool:
    """Return whether there is ever a day of these."""
    if weekdays[0] not in "*?" and days[0] not in "*?":
        # Either of the two suffices then.
        return True

    def values(given: str, field: tuple[str, int, int, tuple[str, ...]]) -> set[int]:
        return {value for part in given.split(",") for value in _values(part, *field[1:]) or ()}

    first = min(values(days, _FIELDS[3]))
    # 2000 was a leap year.
    return any(first <= monthrange(2000, month)[1] for month in values(months, _FIELDS[4]))
