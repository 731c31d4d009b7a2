"""Faults between a client and Kubeflow, by a plan or by a seed."""

import random
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

FAULTS = (
    "429",  # refused, and not done
    "500",  # not done
    "500 after",  # done, and an error all the same
    "503",  # not done
    "taken",  # another does the same first, and 409 is the answer
    "stall",  # no answer in time, and not done
    "stall after",  # done, and no answer in time
    "late",  # no answer in time, and done after that
    "dropped",  # the connection is closed, not done
    "dropped after",  # the connection is closed, done
    "cut",  # done, and half of the answer
)


@dataclass
class Faults:
    """Decides what happens to each request.

    Attributes:
        rates: The share of requests that meet each fault; the rest goes well.
        seed: The same one meets the same faults in the same order of requests.
        planned: Faults for the next requests that match, each used once: a regular
            expression for "METHOD PATH", and the fault.
        met: How often each was met.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    planned: list[tuple[str, str]] = field(default_factory=list)
    met: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = {*self.rates, *(fault for _, fault in self.planned)} - set(FAULTS)
        if unknown:
            raise ValueError(f"no such fault: {sorted(unknown)}")
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def draw(self, method: str, path: str) -> str:
        """The fault that this request meets, "" for none."""
        with self._lock:
            fault = self._draw(f"{method} {path}")
            if fault:
                self.met[fault] = self.met.get(fault, 0) + 1
            return fault

    def _draw(self, request: str) -> str:
        for entry in self.planned:
            if re.search(entry[0], request):
                self.planned.remove(entry)
                return entry[1]
        at = self._random.random()
        for fault, rate in self.rates.items():
            if at < rate:
                # Nothing is made by a GET that another could make first.
                return "" if fault == "taken" and not request.startswith("POST") else fault
            at -= rate
        return ""
