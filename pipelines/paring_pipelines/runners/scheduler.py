"""Scheduler of nodes that are worked on at the same time, in threads of this process.

Orchestrators are not made for threads. So one thread at a time runs their code, and lets
others run while it waits for its step, which runs in a process of its own.
"""

import contextvars
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from paring.errors import ContentionError
from paring.system import interruption
from paring.system.hardware import free_memory_bytes

MEMORY_OF_A_STEP = 4 << 30
"""Free memory, in bytes, for each of the steps that run at the same time by default."""

_MOST_JOBS = 8
_LOOK_SECONDS = 0.2
_GPU_DEVICES = (Path("/dev/nvidia0"), Path("/dev/kfd"), Path("/dev/accel0"))

_Result = TypeVar("_Result")


def default_jobs() -> int:
    """Return how many steps can run at the same time here without disturbing one another.

    One for each usable core and for each `MEMORY_OF_A_STEP` of free memory, and 8 at most; one
    where there is a GPU or TPU, whose memory TensorFlow takes whole for one process.
    """
    if any(device.exists() for device in _GPU_DEVICES):
        return 1
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, free_memory_bytes() // MEMORY_OF_A_STEP, _MOST_JOBS))


class Scheduler:
    """Runs each node of a graph as soon as those that it reads from have ended.

    Args:
        jobs: Number of nodes to work on at the same time. With 1 they are run in the calling
            thread, in the order of the graph.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._changed = threading.Condition()
        self._ended = threading.Event()
        # Nodes whose thread has not ended, and how many of them run, or wait to run, alone.
        self._running: set[str] = set()
        self._to_be_alone = 0
        self._one_alone = threading.Lock()

    def run(
        self,
        upstream: Mapping[str, Collection[str]],
        alone: Collection[str],
        launch: Callable[[str], None],
    ) -> None:
        """Launch every node; return once all have ended.

        After an error no more are launched, and those that run are waited for.

        Args:
            upstream: The nodes that each node reads from, in an order in which they could be
                run one after another.
            alone: Nodes that run while nothing else does. They are left for when no other
                node can run.
            launch: Runs one node. It calls `work` for its step.

        Raises:
            BaseException: The first error of a node.
            KeyboardInterrupt: The run was interrupted.
        """
        if self._jobs == 1:
            for node in upstream:
                launch(node)
            return
        waiting = dict(upstream)
        ended: set[str] = set()
        errors: list[BaseException] = []
        threads: list[threading.Thread] = []

        def run_node(node: str) -> None:
            with self._changed:
                try:
                    launch(node)
                    ended.add(node)
                except BaseException as error:
                    errors.append(error)
                finally:
                    self._running.discard(node)
                    self._changed.notify_all()
                    self._ended.set()

        while not errors:
            try:
                with self._changed:
                    interruption.raise_if_interrupted()
                    for node in self._startable(waiting, ended, alone):
                        del waiting[node]
                        self._running.add(node)
                        context = contextvars.copy_context()
                        thread = threading.Thread(
                            target=context.run, args=(run_node, node), name=node
                        )
                        threads.append(thread)
                        thread.start()
                    if not self._running:
                        break
                # Not on the condition, whose lock a signal might find this thread without.
                self._ended.wait(_LOOK_SECONDS)
                self._ended.clear()
            except KeyboardInterrupt as error:
                errors.append(error)
        for thread in threads:
            while thread.is_alive():
                # Threads see an interrupt by themselves, and end their steps.
                with suppress(KeyboardInterrupt):
                    thread.join(_LOOK_SECONDS)
        if errors:
            raise errors[0]

    def _startable(
        self, waiting: Mapping[str, Collection[str]], ended: set[str], alone: Collection[str]
    ) -> list[str]:
        """Return the nodes to start now."""
        if self._to_be_alone or self._running & set(alone):
            return []
        ready = [node for node, before in waiting.items() if ended.issuperset(before)]
        together = [node for node in ready if node not in alone]
        if not together and not self._running:
            return ready[:1]
        return together[: self._jobs - len(self._running)]

    def work(self, step: Callable[[], _Result]) -> _Result:
        """Run the step of a node in the thread of its `launch`, and return its result.

        Other nodes go on meanwhile. A step that was ended for want of memory while others ran
        runs again alone.
        """
        if self._jobs == 1:
            return step()
        with self._released():
            try:
                return step()
            except ContentionError:
                with self._alone():
                    return step()

    @contextmanager
    def _released(self) -> Iterator[None]:
        """Let other threads run the orchestrator's code."""
        self._changed.release()
        try:
            yield
        finally:
            self._changed.acquire()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until no other node is at work, and start none."""
        with self._changed:
            self._to_be_alone += 1
            self._changed.notify_all()
        try:
            with self._changed:
                # Of those that all wait, the lock lets one run after the other.
                while len(self._running) > self._to_be_alone:
                    interruption.raise_if_interrupted()
                    self._changed.wait(_LOOK_SECONDS)
            with self._one_alone:
                yield
        finally:
            with self._changed:
                self._to_be_alone -= 1
