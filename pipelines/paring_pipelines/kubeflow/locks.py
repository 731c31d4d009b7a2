"""Locks on names, held in Kubeflow Pipelines itself.

Runs and recurring runs have no unique names, but experiments do: of several clients that
create an experiment of one name, one succeeds. So a client that is about to create a run
first creates an experiment named for it, and deletes that when it has seen which run
stays. The lock of a client that was killed expires. No clocks are compared: its age is
taken from Kubeflow's own clock, and its holder measures from before the request that
created it.
"""

import hashlib
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from paring.errors import ClusterError
from paring.system import logs
from paring_pipelines.kubeflow.errors import (
    AlreadyExistsError,
    LockHeldError,
    RetryableError,
    UnknownOutcomeError,
)
from paring_pipelines.kubeflow.requests import Asking

_POLL = 1.0
"""The longest pause between two attempts to get a lock, in seconds."""

_WHOLE_SECOND = 1.0
"""Kubeflow's clock is read to within this many seconds."""


@dataclass
class Lock:
    """A lock that this process holds.

    Attributes:
        name: What it is on.
        experiment: The id of the experiment that stands for it.
        expires: On the clock of `_now`.
        margin: Seconds that must be left to send a request that creates something.
        outstanding: Whether a request may still be carried out. The lock is then left to
            expire, since another client would not see what that request creates.
    """

    name: str
    experiment: str
    expires: float
    margin: float
    outstanding: bool = False

    @property
    def left(self) -> float:
        """Seconds until another client may hold it."""
        return self.expires - _now()


class Locks:
    """The locks of one Kubeflow Pipelines.

    Args:
        asking: Sends the requests of the other arguments.
        create: Creates an experiment by its name and description, with one request;
            returns its id.
        find: Returns the experiments of a name.
        delete: Deletes an experiment by its id; it may be gone already.
    """

    def __init__(
        self,
        asking: Asking,
        create: Callable[[str, str], str],
        find: Callable[[str], list[Any]],
        delete: Callable[[str], None],
    ) -> None:
        self._asking = asking
        self._create = create
        self._find = find
        self._delete = delete
        # A request, and as long again until it surely is not carried out any more.
        self._margin = 2 * asking.settings.timeout
        self.lease = 2 * self._margin

    @contextmanager
    def held(self, name: str, wait: float) -> Iterator[Lock]:
        """Hold the lock on `name` for the body.

        Args:
            name: Of a run or a recurring run.
            wait: Seconds to wait for another client that holds it.

        Raises:
            LockHeldError: Another client held it for as long as `wait`.
            ClusterError: Kubeflow can't be reached, or refused.
        """
        lock = self._acquire(name, wait)
        try:
            yield lock
        finally:
            if not lock.outstanding:
                self._release(lock)

    def _acquire(self, name: str, wait: float) -> Lock:
        title = _title(name)
        owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex}"
        # The description distinguishes this client's lock, if the answer is lost, from another's.
        started: dict[str, float] = {}
        seen: dict[str, float] = {}
        waits = self._asking.waits()
        end = _now() + wait
        while True:
            description = (
                f"Held while paring starts {name!r}, and deleted afterwards. If it stays, its"
                f" holder was killed: delete it. Holder: {owner}:{len(started)}"
            )
            started[description] = _now()
            try:
                created = self._create(title, description)
                return Lock(name, created, started[description] + self.lease, self._margin)
            except ClusterError as error:
                problem = error
            result = next(iter(self._find(title)), None)
            if result is not None and result.description in started:
                expires = started[result.description] + self.lease
                return Lock(name, result.experiment_id, expires, self._margin)
            if result is None:
                # Released in this moment, or never created.
                if isinstance(problem, AlreadyExistsError):
                    continue
                pause = next(waits, None)
                if pause is None or not isinstance(problem, RetryableError | UnknownOutcomeError):
                    raise problem
                asked_for = problem.wait if isinstance(problem, RetryableError) else 0.0
                time.sleep(max(pause, asked_for))
                continue
            first = seen.setdefault(result.experiment_id, _now())
            if max(_now() - first, self._age(result)) >= self.lease:
                # By its id: of several clients that do so, none deletes a newer lock.
                self._delete(result.experiment_id)
                continue
            if _now() >= end:
                raise LockHeldError(
                    "another client is submitting this now",
                    received=name,
                    remedy=f"wait; if it was killed, this works after {self.lease:g} s",
                )
            time.sleep(min(_POLL, self._asking.settings.timeout / 10, max(end - _now(), 0.01)))

    def _age(self, experiment: Any) -> float:
        """Return the seconds since its creation, at least, by Kubeflow's clock."""
        now = self._asking.server_time()
        if now is None or experiment.created_at is None:
            return 0.0
        return float((now - experiment.created_at).total_seconds()) - _WHOLE_SECOND

    def _release(self, lock: Lock) -> None:
        try:
            self._delete(lock.experiment)
        except ClusterError as error:
            # What it protected is done. It expires, and the next client deletes it.
            title = _title(lock.name)
            if logs.is_json():
                logs.failure("lock not deleted", lock=title, error=str(error))
            else:
                sys.stderr.write(
                    f"the experiment {title}, a lock, can't be deleted and stays: {error}\n"
                )


def _title(name: str) -> str:
    """Return the experiment's name: of a fixed length, whatever `name` is."""
    return f"paring-lock-{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _now() -> float:
    """Return the seconds on a clock that goes on while the process or the machine is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
