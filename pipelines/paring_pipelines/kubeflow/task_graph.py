"""Tasks of a compiled pipeline, in the order of `paring plan`.

A package names its tasks in alphabetical order. The plan's order is restored from what
the package says about them: the step in each command, the wiring, and the order of the
candidates that `select` is given.
"""

import heapq
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from paring.adapters.kfp import FAMILY_MEMBERS, FAMILY_SEPARATOR
from paring_pipelines.kubeflow.json_objects import InvalidContentError, object_at, read_object

_FIRST = ("import_model", "import_examples", "profile", "draw_calibration")
_MEASURING = ("evaluate", "benchmark")
_LAST = ("select", "check_tpu", "tune_batch", "report", "push")
_UNRANKED = 1 << 30
_WORDS = {
    "onnx": "ONNX",
    "openvino": "OpenVINO",
    "savedmodel": "SavedModel",
    "tensorrt": "TensorRT",
    "tflite": "TFLite",
    "tftrt": "TF-TRT",
    "tpu": "TPU",
}
"""Names of formats and devices as people write them, by their part of a step's name."""


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


def display_name(step: str, node: str) -> str:
    """Return the name of a node's task for people, such as `Convert TFLite (prune-int8)`.

    Args:
        step: Name of the step.
        node: Id of the node.
    """
    first, *others = (_WORDS.get(word, word) for word in step.split("_"))
    title = " ".join([first[0].upper() + first[1:], *others])
    if node == step:
        return title
    return f"{title} ({node.removeprefix(f'{step}-')})"


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


def _entries(pipeline: object) -> dict[str, _Entry]:
    tasks = object_at(pipeline, "root", "dag", "tasks")
    result: dict[str, _Entry] = {}
    for name, task in tasks.items():
        component = object_at(
            pipeline, "components", str(object_at(task, "componentRef").get("name"))
        )
        label = str(component.get("executorLabel"))
        executor = object_at(pipeline, "deploymentSpec", "executors", label)
        command = _list(object_at(executor, "container").get("command"))
        ours = command[:2] == ["paring", "step"] and len(command) > 2
        named = {
            key: str(object_at(source, "taskOutputArtifact").get("producerTask"))
            for key, source in object_at(task, "inputs", "artifacts").items()
        }
        producers = {key: producer for key, producer in named.items() if producer in tasks}
        depends = map(str, _list(object_at(task).get("dependentTasks")))
        result[name] = _Entry(
            PlannedTask(name, str(command[2]) if ours else "", "importer" in executor),
            frozenset([*depends, *producers.values()]) & set(tasks),
            producers,
            component,
        )
    return result


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


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
    result: dict[str, tuple[int, int, int]] = {}
    for name, entry in entries.items():
        step, position = entry.task.step, candidates.get(name, _UNRANKED)
        if entry.task.importer:
            result[name] = (0, 0, 0)
        elif step in _FIRST:
            result[name] = (1, 0, _FIRST.index(step))
        elif step in _MEASURING:
            result[name] = (3, position, _MEASURING.index(step))
        elif step in _LAST:
            result[name] = (4, 0, _LAST.index(step))
        else:
            result[name] = (2, position, 0)
    return result


def _candidates(entries: Mapping[str, _Entry]) -> Iterator[tuple[int, str]]:
    """Yield the tasks that make each candidate, with the candidate's position."""
    for entry in entries.values():
        if entry.task.step != "select":
            continue
        parameters = object_at(entry.component, "inputDefinitions", "parameters")
        try:
            members = read_object(object_at(parameters, FAMILY_MEMBERS).get("defaultValue") or "")
        except (InvalidContentError, TypeError):
            continue
        keys = list(dict.fromkeys(map(str, members.values())))
        for name, key in members.items():
            producer = entry.producers.get(name)
            # The family of the candidates comes first, so that chains are walked in order.
            if producer is not None and FAMILY_SEPARATOR in name:
                yield keys.index(str(key)), producer
