"""The plan's order, restored from a package that names tasks by the alphabet."""

from pathlib import Path

import pytest
import yaml

from paring_pipelines.kubeflow.compile import compile_dag
from paring_pipelines.kubeflow.task_graph import planned_tasks
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import DEFAULT_FILE, TARGETS, load_recipes
from paring_pipelines.pipeline.settings import Settings


@pytest.mark.parametrize("target", TARGETS)
def test_tasks_are_in_the_order_of_the_plan(target: str, tmp_path: Path) -> None:
    settings = Settings(target="tpu", tune_batch=True, push_to="s3://models/served")
    dag = build(load_recipes(DEFAULT_FILE, target), settings)
    file = tmp_path / "pipeline.yaml"
    compile_dag(dag, file, image="paring:test")
    spec = next(yaml.safe_load_all(file.read_text()))
    tasks = planned_tasks(spec)
    expected = [node.replace("_", "-").replace(".", "-") for node in dag.nodes]
    assert [task.name for task in tasks if not task.importer] == expected
    assert [task.step for task in tasks if not task.importer] == [
        node.step.name for node in dag.nodes.values()
    ]
    assert [task.name for task in tasks if task.importer] == ["importer", "importer-2"]


def test_a_pipeline_of_someone_elses_is_ordered_by_what_its_tasks_need() -> None:
    def task(*needs: str) -> dict[str, object]:
        return {"componentRef": {"name": "comp"}, "dependentTasks": list(needs)}

    tasks = {"a": task("c"), "b": task("a"), "c": task(), "d": task()}
    spec = {"pipeline_spec": {"root": {"dag": {"tasks": tasks}}}, "platform_spec": {}}
    assert [item.name for item in planned_tasks(spec)] == ["c", "a", "b", "d"]


def test_what_is_no_pipeline_has_no_tasks() -> None:
    assert planned_tasks({}) == []
    for spec in (
        {"pipeline_spec": None},
        {"root": None},
        {"root": {"dag": {"tasks": ["a"]}}},
        {"pipeline_spec": "x"},
    ):
        assert planned_tasks(spec) == []


def test_a_task_of_unknown_shape_has_its_name() -> None:
    odd = {
        "a": None,
        "b": {"componentRef": "x", "dependentTasks": "a", "inputs": {"artifacts": {"in": None}}},
        "c": {"componentRef": {"name": ["x"]}, "dependentTasks": ["b", "z"]},
        "d": {"inputs": {"artifacts": {"in": {"taskOutputArtifact": {"producerTask": "z"}}}}},
    }
    spec = {"root": {"dag": {"tasks": odd}}, "components": [], "deploymentSpec": None}
    assert [task.name for task in planned_tasks(spec)] == ["a", "b", "c", "d"]
