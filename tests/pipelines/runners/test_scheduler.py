"""Nodes run as soon as they can, and those that measure run alone."""

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

import pytest

from paring.errors import ContentionError, ModelError
from paring_pipelines.runners import scheduler as scheduling
from paring_pipelines.runners.scheduler import Scheduler, default_jobs

WAIT_SECONDS = 10.0

DIAMOND = {"source": [], "left": ["source"], "right": ["source"], "end": ["left", "right"]}


class Nodes:
    """Nodes that note when they start and end, and what ran meanwhile."""

    def __init__(self, jobs: int) -> None:
        self.scheduler = Scheduler(jobs)
        self.started: list[str] = []
        self.ended: list[str] = []
        self.beside: dict[str, set[str]] = {}
        self.threads: set[int] = set()
        self.most_at_once = 0
        self.steps: dict[str, Callable[[], object]] = {}
        self._orchestrating = threading.Lock()

    def run(self, upstream: dict[str, list[str]], alone: tuple[str, ...] = ()) -> None:
        self.scheduler.run(upstream, alone, self._launch)

    def _launch(self, node: str) -> None:
        self._orchestrate()
        self.threads.add(threading.get_ident())
        at_work = set(self.started) - set(self.ended)
        self.beside[node] = at_work
        self.most_at_once = max(self.most_at_once, len(at_work) + 1)
        for other in at_work:
            self.beside[other].add(node)
        self.started.append(node)
        self.scheduler.work(self.steps.get(node, lambda: time.sleep(0.02)))
        self._orchestrate()
        self.ended.append(node)

    def _orchestrate(self) -> None:
        """Stand for code that two threads must not run at once."""
        assert self._orchestrating.acquire(blocking=False)
        time.sleep(0.01)
        self._orchestrating.release()


def test_independent_nodes_run_at_the_same_time() -> None:
    nodes = Nodes(2)
    both = threading.Barrier(2)
    nodes.steps = {name: lambda: both.wait(WAIT_SECONDS) for name in ("left", "right")}
    nodes.run(DIAMOND)
    assert nodes.started[0] == "source"
    assert nodes.ended[-1] == "end"
    assert nodes.beside["left"] == {"right"}
    assert nodes.beside["end"] == set()


def test_no_more_run_at_once_than_there_are_jobs() -> None:
    nodes = Nodes(3)
    nodes.run({str(number): [] for number in range(9)})
    assert len(nodes.ended) == 9
    assert nodes.most_at_once == 3


def test_a_node_that_measures_runs_alone_once_no_other_can_run() -> None:
    nodes = Nodes(4)
    upstream = {
        "measure-source": [],
        "convert": [],
        "measure-converted": ["convert"],
        "evaluate": ["convert"],
        "select": ["measure-source", "measure-converted", "evaluate"],
    }
    nodes.run(upstream, ("measure-source", "measure-converted"))
    assert nodes.beside["measure-source"] == nodes.beside["measure-converted"] == set()
    assert nodes.started == [
        *("convert", "evaluate", "measure-source", "measure-converted", "select")
    ]


def test_with_one_job_nodes_run_in_this_thread_in_the_order_of_the_graph() -> None:
    nodes = Nodes(1)
    nodes.run(DIAMOND, ("left",))
    assert nodes.started == list(DIAMOND)
    assert nodes.threads == {threading.get_ident()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_an_error_what_runs_is_ended_and_no_more_is_launched(jobs: int) -> None:
    def fail() -> None:
        raise ModelError("broken")

    nodes = Nodes(jobs)
    nodes.steps = {"left": fail, "right": lambda: time.sleep(0.3)}
    with pytest.raises(ModelError, match="broken"):
        nodes.run(DIAMOND)
    assert nodes.ended == (["source", "right"] if jobs == 2 else ["source"])
    assert "end" not in nodes.started


def test_a_step_that_ran_out_of_memory_beside_others_runs_again_alone() -> None:
    tried = []

    def needs_all() -> None:
        tried.append(set(nodes.started) - set(nodes.ended))
        if len(tried) == 1:
            raise ContentionError("out of memory")

    nodes = Nodes(2)
    nodes.steps = {"large": needs_all, "other": lambda: time.sleep(0.5)}
    nodes.run({"large": [], "other": [], "third": [], "fourth": []})
    assert tried[1] == {"large"}
    assert nodes.ended[0] == "other"
    assert sorted(nodes.ended) == ["fourth", "large", "other", "third"]


def test_two_steps_that_ran_out_of_memory_together_run_again_in_turn() -> None:
    both = threading.Barrier(2)
    first = {"one": True, "two": True}
    at_once = []

    def step(name: str) -> None:
        if first.pop(name, False):
            both.wait(WAIT_SECONDS)
            raise ContentionError("out of memory")
        at_once.append(name)
        time.sleep(0.1)
        at_once.append(name)

    nodes = Nodes(2)
    nodes.steps = {name: lambda name=name: step(name) for name in ("one", "two")}
    nodes.run({"one": [], "two": []})
    assert at_once in (["one", "one", "two", "two"], ["two", "two", "one", "one"])


def test_a_step_alone_is_not_run_again() -> None:
    def fail() -> None:
        raise ContentionError("out of memory")

    nodes = Nodes(1)
    nodes.steps = {"only": fail}
    with pytest.raises(ContentionError):
        nodes.run({"only": []})


def test_nodes_see_the_context_of_the_caller() -> None:
    about: ContextVar[str] = ContextVar("about", default="nothing")
    about.set("this run")
    seen = []
    nodes = Nodes(2)
    nodes.steps = {"node": lambda: seen.append(about.get())}
    nodes.run({"node": []})
    assert seen == ["this run"]


def test_an_interrupt_waits_for_what_runs_and_launches_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupted = threading.Event()

    def check() -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt

    monkeypatch.setattr(scheduling.interruption, "raise_if_interrupted", check)
    nodes = Nodes(2)
    nodes.steps = {"left": interrupted.set, "right": lambda: time.sleep(0.4)}
    with pytest.raises(KeyboardInterrupt):
        nodes.run(DIAMOND)
    assert "right" in nodes.ended
    assert "end" not in nodes.started


@pytest.mark.parametrize(
    ("cores", "free_gib", "jobs"), [(2, 100, 2), (64, 30, 7), (64, 1000, 8), (4, 1, 1)]
)
def test_there_are_as_many_jobs_as_cores_and_memory_allow(
    cores: int, free_gib: int, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling.os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(scheduling, "free_memory_bytes", lambda: free_gib << 30)
    monkeypatch.setattr(scheduling, "_GPU_DEVICES", ())
    assert default_jobs() == jobs


def test_there_is_one_job_where_there_is_a_gpu(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "_GPU_DEVICES", (tmp_path,))
    assert default_jobs() == 1
