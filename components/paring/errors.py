"""The exceptions that Paring raises on purpose, and the exit code of each.

Every one says what was wrong, what was received, and what to do about it, so
that the command line can show it whole without a traceback.
"""

import difflib
import re
import textwrap
from collections.abc import Iterable
from typing import ClassVar

_LONGEST = 300
# OpenVINO's report, whose first lines say that there is one.
_LACKING = re.compile(r"No conversion rule found for operations: ([^\n]+)")
# Places in a library's source, protocol buffers as text, and TensorFlow's traceback of where
# the nodes of a graph were made.
_AROUND = re.compile(
    r"^(Exception from |Exception encountered when calling |Check '.*' failed at "
    r"|Traceback |File \"|FrontEnd API failed with"
    r"|Detected at |Graph execution error|Summary:|[}\]]|[a-z_]+ \{$"
    r"|(op|input|name|key|device|i|type|s|b|f): [^ ]+$)"
)


def message(what: str, received: str, remedy: str) -> str:
    """Return the text of an error, a line for each part that is not empty."""
    parts = [what]
    if received:
        parts.append(f"received: {received}")
    if remedy:
        parts.append(f"to fix it: {remedy}")
    return "\n  ".join(parts)


class ParingError(Exception):
    """Base of all expected errors.

    Args:
        what: What was wrong, naming the file or argument.
        received: The value that was received, or "" where `what` holds it.
        remedy: What the user can do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, received: object = "", remedy: str = "") -> None:
        self.what = what
        self.received = str(received)
        self.remedy = remedy
        super().__init__(self._told())

    def _told(self) -> str:
        return message(self.what, self.received, self.remedy)

    def rename(self, old: str, new: str) -> None:
        """Replace `old` in the message by `new`, such as the path of a staged output."""
        self.what = self.what.replace(old, new)
        self.received = self.received.replace(old, new)
        self.remedy = self.remedy.replace(old, new)
        self.args = (self._told(),)


class ParameterError(ParingError):
    """A parameter, option, recipe or step name that can't be taken."""

    exit_code = 2


class ModelError(ParingError):
    """A path that holds no model, or one that can't be read."""

    exit_code = 10


class UntrustedModelError(ModelError):
    """A model that contains code of its own, which is not run unasked."""

    exit_code = 11


class ExamplesError(ParingError):
    """Examples that are missing, broken, or not what the model takes."""

    exit_code = 12


class UnsupportedError(ParingError):
    """A method that can't be applied to this model; the others still can."""

    exit_code = 13


class MissingDependencyError(ParingError):
    """A library or a device that this step needs is not there."""

    exit_code = 14


class OutputError(ParingError):
    """A place that can't be written, or holds something that isn't ours."""

    exit_code = 15


class StepFailedError(ParingError):
    """A step broke in a way nobody foresaw, or one of its inputs had failed."""

    exit_code = 16


class ArtifactTypeError(ParingError):
    """An artifact of another type than the requested one."""

    exit_code = 17


class StorageError(ParingError):
    """A store that can't be reached, or does not hold or take what was asked of it."""

    exit_code = 18


class OutOfMemoryError(ParingError):
    """A step that was ended at the limit of its memory, or of its container's."""

    exit_code = 19


class ClusterError(ParingError):
    """Kubeflow Pipelines can't be reached, refused, or does not have what was named."""

    exit_code = 20


class TimeLimitError(ParingError):
    """A step that was ended at the limit of its time."""

    exit_code = 23


class CrashError(StepFailedError):
    """A step whose process was ended by a signal, or without a result."""


class ContentionError(StepFailedError):
    """A step that was ended, for want of memory perhaps, while others ran at the same time."""


# Keras puts a line for each layer around the error, the innermost one last, and may set it in bold.
_IN_LAYER = re.compile(r"^Exception encountered when calling (.+?)\.?$")
_BOLD = re.compile(r"\x1b\[[0-9;]*m")


def first_line(error: Exception) -> str:
    """Return an error in one line: a library's error as its class and its first sentence.

    Lines that libraries put around the sentence are left out: locations in their source, and
    protocol buffers as text. Operators that they list are named, and the layer that Keras called.
    """
    if isinstance(error, ParingError):
        return error.what
    text = _BOLD.sub("", str(error)).strip()
    lacking = _LACKING.search(text)
    if lacking:
        return f"there is no conversion for the operators {lacking[1].strip()}"
    lines = [line.strip() for line in text.splitlines()]
    said = [line for line in lines if line and not _AROUND.search(line)]
    line = (said or lines or [""])[0]
    called = [result[1] for item in lines if (result := _IN_LAYER.search(item))]
    if called and said:
        line = f"{called[-1]}: {line}"
    line = textwrap.shorten(line, _LONGEST, placeholder=" ...")
    return f"{type(error).__name__}: {line}".removesuffix(": ")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a remedy for an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names)}"
