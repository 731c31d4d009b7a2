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
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, str | int):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else str(value)


def write_json(stream: TextIO | None = None) -> None:
    """Write events to `stream`, standard error by default, from now on."""
    stop()
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(_JsonLine())
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    # Libraries that set up logging of their own would repeat each line.
    _LOGGER.propagate = False


def send(deliver: Callable[[SentRecord], None], level: int) -> None:
    """Deliver all records of a level or above, in place of writing them, from now on."""
    stop()
    _LOGGER.addHandler(_Sender(deliver))
    _LOGGER.setLevel(level)
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
    """Write no events from now on."""
    for handler in list(_LOGGER.handlers):
        _LOGGER.removeHandler(handler)
    _LOGGER.propagate = True


def is_json() -> bool:
    """Return whether events are written."""
    return bool(_LOGGER.handlers)


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


def candidate_of(step: str, node: str) -> str:
    """Return the candidate that a node works on, by its id; "" where it works for all.

    The pipeline's nodes are called STEP-CANDIDATE, and STEP-CANDIDATE.2 where a recipe has
    a step twice; Kubeflow writes dashes for underscores.

    Args:
        step: The step's name.
        node: The node's id, or the name of its task.
    """
    prefix = f"{step}-"
    if not node.replace("_", "-").startswith(prefix.replace("_", "-")):
        return ""
    return node[len(prefix) :].partition(".")[0]
