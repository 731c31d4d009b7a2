"""Limits on the time and the memory of a step's process."""

import math
import os
import re
from dataclasses import dataclass
from typing import Self

from paring.errors import OutOfMemoryError, ParameterError, TimeLimitError
from paring.system.control_groups import memory_groups

TIME_OPTION = "--step-time-limit"
MEMORY_OPTION = "--step-memory-limit"
TIME_HELP = (
    "Longest duration of a step, such as 30m; 0 for no limit. 2h by default, 8h for steps that"
    " train."
)
MEMORY_HELP = (
    "Most memory of a step's processes, such as 12GiB or 75%; 0 for no limit. By default 7/8 of"
    " the machine's memory, in a container its limit."
)

TIME_VARIABLE = "PARING_STEP_TIME_LIMIT"
"""Environment variable by which a Kubeflow package passes the time limit to a step."""

DEFAULT_SECONDS = 2 * 3600.0
"""Default time limit of a step that trains nothing."""

DEFAULT_TRAINING_SECONDS = 8 * 3600.0
"""Default time limit of a step that trains."""

DEFAULT_MEMORY_SHARE = 7 / 8
"""Default memory limit of a step, as a share of the machine's memory.

In a control group with a limit, that limit takes its place.
"""

_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(("", "k", "M", "G", "T"))},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), start=1)},
    **{f"{prefix}i": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), start=1)},
}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)")
_PERCENTAGE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?%")
# Nobody waits longer, and the operating system's clocks take it.
_LONGEST_SECONDS = 366 * 86400.0
# Python alone takes tens of MiB.
_LEAST_BYTES = 64 << 20
_GIB, _MIB = 1 << 30, 1 << 20


@dataclass(frozen=True)
class StepLimits:
    """Limits on one step's process and on all processes that it starts.

    Attributes:
        seconds: Longest duration; None for no limit.
        memory_bytes: Most memory, of all processes together; None for no limit.
        seconds_origin: Source of the time limit, as errors name it.
        memory_origin: Source of the memory limit, as errors name it.
        raise_seconds: Remedy of a time limit that was reached.
        raise_memory: Remedy of a memory limit that was reached.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    seconds_origin: str = ""
    memory_origin: str = ""
    raise_seconds: str = ""
    raise_memory: str = ""

    def time_error(self) -> TimeLimitError:
        """Return the error of a step that has reached its time limit."""
        limit = format_duration(self.seconds or 0.0)
        return TimeLimitError(
            f"the step's time limit of {limit} was reached ({self.seconds_origin})",
            remedy=self.raise_seconds,
        )

    def memory_error(self, used_bytes: int) -> OutOfMemoryError:
        """Return the error of a step that has reached its memory limit.

        Args:
            used_bytes: Memory in use when the step was ended.
        """
        used, limit = format_size(used_bytes), format_size(self.memory_bytes or 0)
        return OutOfMemoryError(
            f"out of memory: {used} of {limit} used, the step's memory limit"
            f" ({self.memory_origin})",
            remedy=f"{self.raise_memory}, or lower batch_size",
        )


@dataclass(frozen=True)
class LimitSettings:
    """Limits of every step of a run, as a user gives them.

    Attributes:
        seconds: Time limit; 0 for none, None for the default.
        memory_bytes: Memory limit; 0 for none, None for the default.
        on_kubeflow: Whether the time limit is that of a Kubeflow package, and Kubernetes
            limits the rest, so that there are no defaults.
    """

    seconds: float | None = None
    memory_bytes: int | None = None
    on_kubeflow: bool = False

    @classmethod
    def parse(
        cls, time: str | None = None, memory: str | None = None, *, on_kubeflow: bool = False
    ) -> Self:
        """Return the limits that two texts state.

        Args:
            time: Such as `90s`, `30m` or `2h`; `0` for no limit, None for the default.
            memory: Such as `800MB`, `12GiB` or `75%` of the machine's memory; `0` for no
                limit, None for the default.
            on_kubeflow: See the attribute.

        Raises:
            ParameterError: A text states no limit.
        """
        return cls(
            seconds=None if time is None else parse_duration(time),
            memory_bytes=None if memory is None else parse_size(memory),
            on_kubeflow=on_kubeflow,
        )

    @property
    def are_off(self) -> bool:
        """True if both limits are turned off."""
        return self.seconds == 0 and self.memory_bytes == 0

    def of_step(self, *, trains: bool) -> StepLimits:
        """Return the limits of one step.

        Args:
            trains: Whether the step trains, for which the default time is longer.
        """
        seconds, memory = self.seconds, self.memory_bytes
        seconds_origin = f"given by {TIME_OPTION}"
        memory_origin = f"given by {MEMORY_OPTION}"
        raise_seconds = f"raise {TIME_OPTION}, for example to {{}}, or give 0 for no limit"
        if self.on_kubeflow:
            seconds_origin = f"from timeout_seconds, by {TIME_VARIABLE}"
            raise_seconds = "raise timeout_seconds in the runtime file"
        elif seconds is None:
            seconds = DEFAULT_TRAINING_SECONDS if trains else DEFAULT_SECONDS
            kind = "for steps that train" if trains else "for steps that don't train"
            seconds_origin = f"the default {kind}"
        if memory is None and not self.on_kubeflow and not memory_groups():
            memory = int(machine_bytes() * DEFAULT_MEMORY_SHARE)
            memory_origin = f"the default, 7/8 of this machine's {format_size(machine_bytes())}"
        return StepLimits(
            seconds or None,
            memory or None,
            seconds_origin,
            memory_origin,
            raise_seconds.format(format_duration(2 * (seconds or 0.0)).replace(" ", "")),
            f"raise {MEMORY_OPTION}, or give 0 for no limit",
        )


DEFAULT_LIMITS = LimitSettings()


def parse_duration(text: str) -> float:
    """Return the seconds that a text such as `90s`, `30m` or `2h` states.

    Raises:
        ParameterError: It states none, or more than a year.
    """
    match = _QUANTITY.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match and match[2] in _SECONDS else math.nan
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise ParameterError(
            f"{TIME_OPTION}: must be a duration of up to a year",
            received=text,
            remedy="write a number and s, m, h or d, such as 30m; 0 for no limit",
        )
    return seconds


def parse_size(text: str) -> int:
    """Return the bytes that a text such as `800MB`, `12GiB` or `75%` states.

    A percentage is of the machine's memory, or of its control group's limit where that is
    lower.

    Raises:
        ParameterError: It states none, or less than a process takes.
    """
    stripped = text.strip()
    size = -1
    if share := _PERCENTAGE.fullmatch(stripped):
        size = int(float(share[1]) / 100 * _available_bytes()) if float(share[1]) <= 100 else -1
    elif (match := _QUANTITY.fullmatch(stripped)) and match[2] in _BYTES:
        size = int(float(match[1]) * _BYTES[match[2]])
    if size != 0 and size < _LEAST_BYTES:
        raise ParameterError(
            f"{MEMORY_OPTION}: must be a size of {format_size(_LEAST_BYTES)} or more",
            received=text,
            remedy="write a number and MB, MiB, GB or GiB, or a percentage of the machine's"
            " memory, such as 12GiB or 75%; 0 for no limit",
        )
    return size


def format_duration(seconds: float) -> str:
    """Return a duration in its largest whole unit: `2 h`, `90 min`, `45 s`."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"


def format_size(size: int) -> str:
    """Return a size in GiB, or in MiB below one."""
    return f"{size / _GIB:.2f} GiB" if size >= _GIB else f"{size / _MIB:.0f} MiB"


def machine_bytes() -> int:
    """Return the size of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _available_bytes() -> int:
    return min([machine_bytes(), *(group.limit_bytes for group in memory_groups())])
