"""Tasks of a compiled pipeline, in the order of `paring plan`.

A package names its tasks in alphabetical order. The plan's order is restored from what
the package says about them: the step in each command, the wiring, and the order of the
candidates that `select` is given.
"""

import heapq
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from paring.adapters.kfp import FAMILY_MEMBERS, FAMILY_SEPARATOR

_FIRST = ("import_model", "import_examples", "profile", "draw_calibration")
_MEASURING = ("evaluate", "benchmark")
_LAST = ("select", "check_tpu", "tune_batch", "report", "push")
_UNRANKED = 1 << 30


@dataclass(frozen=True)
class PlannedTask:
    """One task of a pipeline.

    Attributes:
        name: The task's, which is a node's id with dashes.
        step: Name of Paring's step that it runs, "" if it runs something else.
        importer: Whether Kubeflow itself runs it, to register a source.
    """

    name: str
    step: str = ""
    importer: bool = False


@dataclass
class _Entry:
    task: PlannedTask
    needs: frozenset[str]
    producers: Mapping[str, str] = field(default_factory=dict)
    component: Mapping[str, Any] = field(default_factory=dict)


def task_name(node: str) -> str:
    """Return the name that Kubeflow's compiler gives to the task of a node."""
    return re.sub("[^0-9a-z]+", "-", node.lower()).strip("-")


def planned_tasks(spec: Mapping[str, Any]) -> list[PlannedTask]:
    """Return the tasks of a pipeline spec in the plan's order.

    Args:
        spec: The pipeline spec, or an object that holds it as `pipeline_spec` beside the
            platform's part.

    Returns:
        Each task after those that it depends on; none if this is no pipeline spec.
    """
    entries = _entries(spec.get("pipeline_spec", spec))
    ranks = _ranks(entries)
    waiting = {name: set(entry.needs) for name, entry in entries.items()}
    ready = [(ranks[name], name) for name, needs in waiting.items() if not needs]
    heapq.heapify(ready)
    ordered: list[PlannedTask] = []
    while ready:
        _, done = heapq.heappop(ready)
        ordered.append(entries[done].task)
        for name, needs in waiting.items():
            if done in needs:
                needs.remove(done)
                if not needs:
                    heapq.heappush(ready, (ranks[name], name))
    return ordered


def _entries(pipeline: Mapping[str, Any]) -> dict[str, _Entry]:
    tasks = pipeline.get("root", {}).get("dag", {}).get("tasks", {})
    components = pipeline.get("components", {})
    executors = pipeline.get("deploymentSpec", {}).get("executors", {})
    found: dict[str, _Entry] = {}
    for name, task in tasks.items():
        component = components.get(task.get("componentRef", {}).get("name", ""), {})
        executor = executors.get(component.get("executorLabel", ""), {})
        command = [*executor.get("container", {}).get("command", [])]
        ours = command[:2] == ["paring", "step"] and len(command) > 2
        producers = {
            key: source["taskOutputArtifact"]["producerTask"]
            for key, source in task.get("inputs", {}).get("artifacts", {}).items()
            if "taskOutputArtifact" in source
        }
        found[name] = _Entry(
            PlannedTask(name, command[2] if ours else "", "importer" in executor),
            frozenset([*task.get("dependentTasks", []), *producers.values()]) & set(tasks),
            producers,
            component,
        )
    return found


def _ranks(entries: Mapping[str, _Entry]) -> dict[str, tuple[int, int, int]]:
    """Return each task's stage, its candidate's position, and its place within the stage."""
    candidates: dict[str, int] = {}
    for position, task in _candidates(entries):
        pending = [task]
        while pending:
            name = pending.pop()
            # What several candidates share stands with the first of them.
            if name in candidates or entries[name].task.step in _FIRST:
                continue
            candidates[name] = position
            if entries[name].task.step not in (*_MEASURING, *_LAST):
                pending += entries[name].producers.values()
    found: dict[str, tuple[int, int, int]] = {}
    for name, entry in entries.items():
        step, position = entry.task.step, candidates.get(name, _UNRANKED)
        if entry.task.importer:
            found[name] = (0, 0, 0)
        elif step in _FIRST:
            found[name] = (1, 0, _FIRST.index(step))
        elif step in _MEASURING:
            found[name] = (3, position, _MEASURING.index(step))
        elif step in _LAST:
            found[name] = (4, 0, _LAST.index(step))
        else:
            found[name] = (2, position, 0)
    return found


def _candidates(entries: Mapping[str, _Entry]) -> Iterator[tuple[int, str]]:
    """Yield the tasks that make each candidate, with the candidate's position."""
    for entry in entries.values():
        if entry.task.step != "select":
            continue
        parameters = entry.component.get("inputDefinitions", {}).get("parameters", {})
        try:
            members = json.loads(parameters[FAMILY_MEMBERS]["defaultValue"])
        except (KeyError, TypeError, ValueError):
            continue
        keys = list(dict.fromkeys(members.values()))
        for name, key in members.items():
            producer = entry.producers.get(name)
            # The family of the candidates comes first, so that chains are walked in order.
            if producer is not None and producer in entries and FAMILY_SEPARATOR in name:
                yield keys.index(key), producer
