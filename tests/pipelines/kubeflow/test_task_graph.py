"""The plan's order, restored from a package that names tasks by the alphabet."""

from pathlib import Path

import pytest
import yaml

from paring_pipelines.kubeflow.compile import compile_dag
from paring_pipelines.kubeflow.task_graph import planned_tasks
from paring_pipelines.pipeline.optimize import Settings, build
from paring_pipelines.pipeline.recipes import DEFAULT_FILE, TARGETS, load_recipes


@pytest.mark.parametrize("target", TARGETS)
def test_tasks_are_in_the_order_of_the_plan(target: str, tmp_path: Path) -> None:
    settings = Settings(check_tpu=True, tune_batch=True, push_to="s3://models/served")
    dag = build(load_recipes(DEFAULT_FILE, target), settings)
    file = tmp_path / "pipeline.yaml"
    compile_dag(dag, file, image="paring:test")
    spec = next(yaml.safe_load_all(file.read_text()))
    tasks = planned_tasks(spec)
    expected = [node.replace("_", "-").replace(".", "-") for node in dag.nodes]
    assert [one.name for one in tasks if not one.importer] == expected
    assert [one.step for one in tasks if not one.importer] == [
        node.step.name for node in dag.nodes.values()
    ]
    assert [one.name for one in tasks if one.importer] == ["importer", "importer-2"]


def test_a_pipeline_of_someone_elses_is_ordered_by_what_its_tasks_need() -> None:
    def task(*needs: str) -> dict[str, object]:
        return {"componentRef": {"name": "comp"}, "dependentTasks": list(needs)}

    tasks = {"a": task("c"), "b": task("a"), "c": task(), "d": task()}
    spec = {"pipeline_spec": {"root": {"dag": {"tasks": tasks}}}, "platform_spec": {}}
    assert [one.name for one in planned_tasks(spec)] == ["c", "a", "b", "d"]


def test_what_is_no_pipeline_has_no_tasks() -> None:
    assert planned_tasks({}) == []
