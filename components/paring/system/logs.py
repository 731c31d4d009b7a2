"""Structured JSON-lines logging for container log collectors.

Off by default: a person reads the console. Each line has the time, the event and
its facts, and whatever `about` says the work is about: the run, the node, the candidate.
"""

import json
import logging
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

VARIABLE = "PARING_LOG_FORMAT"
"""The environment variable that says `json` or `text` where no option does."""

_LOGGER = logging.getLogger("paring")
_about: ContextVar[Mapping[str, object]] = ContextVar("about", default=MappingProxyType({}))
# What `_install` has added to the logger, and the level and propagation of before.
_installed: list[tuple[logging.Handler, int, bool]] = []


@dataclass(frozen=True)
class SentRecord:
    """A log record that another process has sent.

    Attributes:
        logger: Name of its logger.
        level: See `logging`.
        created: When it was made, in seconds since the epoch.
        message: Its text.
        facts: Those of an event; None of what is none.
    """

    logger: str
    level: int
    created: float
    message: str
    facts: Mapping[str, object] | None


class _Sender(logging.Handler):
    def __init__(self, deliver: Callable[[SentRecord], None]) -> None:
        super().__init__()
        self._deliver = deliver

    def emit(self, record: logging.LogRecord) -> None:
        facts = getattr(record, "facts", None)
        known = None if facts is None else {name: _plain(value) for name, value in facts.items()}
        self._deliver(
            SentRecord(record.name, record.levelno, record.created, record.getMessage(), known)
        )


class _JsonLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        return json.dumps(_plain(line))


def _plain(value: object) -> object:
    """Return `value` as a JSON value; infinity, nan and values of other types as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def write_json(stream: TextIO | None = None) -> None:
    """Write events to `stream`, standard error by default, from now on."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(_JsonLine())
    _install(handler, logging.INFO)


def send(deliver: Callable[[SentRecord], None], level: int) -> None:
    """Deliver all records of a level or above, in place of writing them, from now on."""
    _install(_Sender(deliver), level)


def _install(handler: logging.Handler, level: int) -> None:
    stop()
    _installed.append((handler, _LOGGER.level, _LOGGER.propagate))
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(level)
    # Libraries that set up logging of their own would repeat each line.
    _LOGGER.propagate = False


def receive(sent: SentRecord) -> None:
    """Write what another process has delivered, as if it were from this one."""
    if sent.facts is not None and not is_json():
        return
    record = logging.LogRecord(sent.logger, sent.level, "", 0, sent.message, None, None)
    record.created = sent.created
    if sent.facts is not None:
        record.facts = sent.facts
    logging.getLogger(sent.logger).handle(record)


def level() -> int:
    """The lowest level of the records that are written."""
    return _LOGGER.getEffectiveLevel()


def stop() -> None:
    """Write no events from now on, and leave the logger as the application has set it up."""
    while _installed:
        handler, level, propagate = _installed.pop()
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)
        _LOGGER.propagate = propagate


def is_json() -> bool:
    """Return whether events are written."""
    return bool(_installed)


def event(what: str, /, **facts: object) -> None:
    """Note that something happened.

    Args:
        what: In a few words that stay the same.
        **facts: What is known about it: text, numbers, or whatever has a text.
    """
    _write(logging.INFO, what, facts)


def failure(what: str, /, **facts: object) -> None:
    """Note that something went wrong; see `event`."""
    _write(logging.ERROR, what, facts)


def _write(level: int, what: str, facts: dict[str, object]) -> None:
    if is_json():
        _LOGGER.log(level, what, extra={"facts": {**_about.get(), **facts}})


@contextmanager
def about(**facts: object) -> Iterator[None]:
    """Put `facts` into every event until the end; empty ones are left out."""
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    token = _about.set({**_about.get(), **known})
    try:
        yield
    finally:
        _about.reset(token)


def known() -> Mapping[str, object]:
    """Return the context that `about` has set."""
    return _about.get()
