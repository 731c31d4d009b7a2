"""Idempotent creation on an API without request ids.

What has a unique name is looked for and created: `find_or_create`. A request that nobody
answered may still be carried out, so it gets as long again as an answer may take before
another one is sent.

A run or a recurring run has a display name, but Kubeflow takes any number of one name,
orders them by whole seconds, and lists each one only some time after the second that it is
dated with. So the first one in a list can be preceded by another a moment later. Who
creates one therefore holds the lock on its name until it is seen which one stays:
`create_once`. Only a holder of the lock deletes a run that another client created, and no
client reports one before it has held the lock, so what was reported is not deleted.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from paring.errors import ClusterError
from paring_pipelines.kubeflow.errors import AlreadyExistsError, RetryableError, UnknownOutcomeError
from paring_pipelines.kubeflow.locks import Lock


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=_Identified)


@dataclass(frozen=True)
class Made(Generic[T]):
    """The result of an idempotent creation.

    Attributes:
        first: The one that stays.
        new: Whether this call created it.
    """

    first: T
    new: bool


def find_or_create(
    find: Callable[[], Sequence[T]],
    create: Callable[[], T],
    *,
    waits: Iterable[float],
    settle: float,
) -> Made[T]:
    """Find it, or create it.

    Args:
        find: Returns those that are there, the one that stays first.
        create: Creates one.
        waits: Seconds before each further attempt; as many attempts as waits, and one.
        settle: Seconds after which a request that was not answered won't be carried
            out any more.

    Raises:
        RetryableError, UnknownOutcomeError: The last attempt ended with this.
        ClusterError: The server refused.
    """
    result = find()
    pauses = iter(waits)
    while not result:
        try:
            return Made(create(), True)
        except (RetryableError, AlreadyExistsError, UnknownOutcomeError) as error:
            result = _awaited(find, settle) if isinstance(error, UnknownOutcomeError) else find()
            pause = next(pauses, None)
            if result:
                break
            if pause is None:
                raise
            time.sleep(max(pause, error.wait) if isinstance(error, RetryableError) else pause)
    return Made(result[0], False)


def create_once(
    find: Callable[[], Sequence[T]],
    create: Callable[[], T],
    remove: Callable[[T], None],
    *,
    lock: Callable[[], AbstractContextManager[Lock]],
    waits: Iterable[float],
    settle: float,
    may_create: Callable[[], None] = lambda: None,
    supersede: Callable[[T], Sequence[T]] | None = None,
) -> Made[T]:
    """Find it, or create it, such that one is left and is the one that is returned.

    Args:
        find: Returns those that are there, the one that stays first.
        create: Creates one.
        remove: Deletes one; it may be gone already.
        lock: Holds the lock on their name for the body of a `with`.
        waits: As for `find_or_create`.
        settle: As for `find_or_create`.
        may_create: Called right before each `create`, to raise what forbids it.
        supersede: Called with the one that stays before anything is deleted; returns what
            to delete, the others of `find` if not given.

    Raises:
        LockHeldError: Another client is creating it.
        RetryableError, UnknownOutcomeError: The last attempt ended with this.
        ClusterError: The server refused.
    """
    created: set[str] = set()
    pauses = iter(waits)

    def others(first: T) -> Sequence[T]:
        return [item for item in find() if item.id != first.id]

    while True:
        try:
            with lock() as held:
                made = _create_locked(find, create, held, created, pauses, settle, may_create)
                for item in (supersede or others)(made.first):
                    if held.left <= 0:
                        raise _ExpiredError
                    remove(item)
                return made
        except _ExpiredError:
            # Another client may hold the lock by now: look again, under a new one.
            continue


class _ExpiredError(Exception):
    """The lock has too little time left for the next request."""


def _create_locked(
    find: Callable[[], Sequence[T]],
    create: Callable[[], T],
    held: Lock,
    created: set[str],
    pauses: Iterator[float],
    settle: float,
    may_create: Callable[[], None],
) -> Made[T]:
    def find_first() -> Sequence[T]:
        # What another client kept goes before what this one created under an expired lock.
        return sorted(find(), key=lambda item: item.id in created)

    def create_one() -> T:
        # A request that nobody answered has had its time by now.
        held.outstanding = False
        may_create()
        if held.left < held.margin:
            raise _ExpiredError
        held.outstanding = True
        try:
            item = create()
        except ClusterError as error:
            held.outstanding = isinstance(error, UnknownOutcomeError)
            raise
        created.add(item.id)
        held.outstanding = False
        return item

    made = find_or_create(find_first, create_one, waits=pauses, settle=settle)
    held.outstanding = False
    # After a stop for longer than the lease, the next holder may not have seen it yet.
    if held.left <= 0:
        raise _ExpiredError
    return Made(made.first, made.first.id in created)


def _awaited(find: Callable[[], Sequence[T]], seconds: float) -> Sequence[T]:
    """Look until something is there, or for so many seconds."""
    end = time.monotonic() + seconds
    while True:
        result = find()
        left = end - time.monotonic()
        if result or left <= 0:
            return result
        time.sleep(min(left, max(seconds / 10, 0.01)))
