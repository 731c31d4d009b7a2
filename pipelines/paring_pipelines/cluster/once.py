"""Make what Kubeflow knows no unique name for, once.

A run has a display name, but Kubeflow takes any number of runs with the same, and
knows no request id. So one looks by the name first. What is left to chance is a
request that nobody answered: Kubeflow may still be at it. It is given as long again
as an answer may take before another one is sent; and what was made twice all the
same, by a slow server or by two that asked at once, is found afterwards, and all but
the first are taken away.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from paring_pipelines.cluster.refusals import NotDoneError, TakenError, UnansweredError


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Identified)


@dataclass(frozen=True)
class Made(Generic[T]):
    """What came of it.

    Attributes:
        first: The one that stays.
        new: Whether this call made it.
    """

    first: T
    new: bool


def make_once(
    find: Callable[[], Sequence[T]],
    make: Callable[[], T],
    remove: Callable[[T], None],
    *,
    waits: Iterable[float],
    settle: float,
    may_ask: Callable[[], None] = lambda: None,
) -> Made[T]:
    """Find it, or make it, such that one is left.

    Args:
        find: Those that are there, the one that stays first.
        make: Makes one.
        remove: Takes one away; it may be gone already.
        waits: Seconds before each further attempt; as many attempts as waits, and one.
        settle: Seconds after which a request that was not answered won't be carried
            out any more.
        may_ask: Called right before each `make`, to raise what forbids it.

    Raises:
        NotDoneError, UnansweredError: The last attempt came to this.
        ClusterError: It refused.
    """
    made: list[T] = []
    found = find()
    pauses = iter(waits)
    while not found:
        may_ask()
        try:
            made.append(make())
            # Another may have made one in the same moment, before this one.
            found = find() or made
        except (NotDoneError, TakenError, UnansweredError) as error:
            found = _awaited(find, settle) if isinstance(error, UnansweredError) else find()
            pause = next(pauses, None)
            if found:
                break
            if pause is None:
                raise
            time.sleep(max(pause, error.wait) if isinstance(error, NotDoneError) else pause)
    for one in found[1:]:
        remove(one)
    return Made(found[0], any(one.id == found[0].id for one in made))


def _awaited(find: Callable[[], Sequence[T]], seconds: float) -> Sequence[T]:
    """Look until something is there, or for so long."""
    end = time.monotonic() + seconds
    while True:
        found = find()
        left = end - time.monotonic()
        if found or left <= 0:
            return found
        time.sleep(min(left, max(seconds / 10, 0.01)))
