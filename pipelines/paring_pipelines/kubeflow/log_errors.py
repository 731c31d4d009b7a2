"""The error that ended a step, from the log of its container.

The command line writes an error as the last thing it does: as a line of JSON where
PARING_LOG_FORMAT says so, else as text. Around it stand the lines of Kubeflow's launcher
and of Argo's executor, which wrap the command.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from paring.errors import message
from paring.system.documents import parse_json

_WRAPPERS = re.compile(
    r"^(?:[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ "  # glog, of the launcher
    r'|time="[^"]*" level=|\{"time":"[^"]*","level":"[A-Z]+'  # logrus and slog, of Argo
    r"|Error: exit status )"
)
_FATAL = re.compile(r"^[EF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^\]]*\] (.+)")
_LONGEST = 2000


@dataclass(frozen=True)
class LoggedError:
    """Error that a log ends with.

    Attributes:
        what: What was wrong, in a line.
        received: The value that was received, "" if there is none.
        remedy: What the user can do, "" if it is not said.
        ours: Whether Paring wrote it; else it is the last line of the log.
    """

    what: str
    received: str = ""
    remedy: str = ""
    ours: bool = True

    def __str__(self) -> str:
        return message(self.what, self.received, self.remedy)


def find_error(log: str) -> LoggedError | None:
    """Return the error that a container's log ends with, None if it has no line.

    Args:
        log: The log, or its end.
    """
    lines = log.splitlines()
    for position in range(len(lines) - 1, -1, -1):
        document = _json(lines[position])
        if document.get("event") == "command failed":
            return LoggedError(
                str(document.get("error", "")),
                str(document.get("received", "")),
                str(document.get("remedy", "")),
            )
        if lines[position].startswith("error: "):
            return _text(lines[position:])
    return _last_line(lines)


def find_start(log: str) -> datetime | None:
    """Return when the step started by its lines of JSON, None if it has none."""
    for line in log.splitlines():
        document = _json(line)
        if document.get("event") == "step started":
            try:
                return datetime.fromisoformat(str(document.get("time")))
            except ValueError:
                return None
    return None


def _json(line: str) -> Mapping[str, Any]:
    if not line.startswith('{"time"'):
        return {}
    try:
        document = parse_json(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _text(lines: list[str]) -> LoggedError:
    """Return an error as the console shows it, which breaks long lines."""
    parts: dict[str, list[str]] = {"what": [], "received": [], "remedy": []}
    part = "what"
    for line in lines:
        if _WRAPPERS.match(line):
            break
        text = line
        for prefix, name in (
            ("error: ", "what"),
            ("  received:  ", "received"),
            ("  to fix it: ", "remedy"),
        ):
            if line.startswith(prefix):
                part, text = name, line.removeprefix(prefix)
        parts[part].append(text.strip())
    what, received, remedy = (" ".join(filter(None, item))[:_LONGEST] for item in parts.values())
    return LoggedError(what, received, remedy)


def _last_line(lines: list[str]) -> LoggedError | None:
    written = [line.strip() for line in lines if line.strip() and not _WRAPPERS.match(line)]
    if written:
        return LoggedError(written[-1][:_LONGEST], ours=False)
    fatal = [matched.group(1) for line in lines if (matched := _FATAL.match(line))]
    return LoggedError(fatal[-1][:_LONGEST], ours=False) if fatal else None
