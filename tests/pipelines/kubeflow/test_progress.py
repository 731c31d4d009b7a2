"""Rows for nodes, from what Kubeflow reports: a hundred tasks, or Argo's workflow."""

import base64
import gzip
import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import kfp_server_api as api
import pytest
import yaml
from tests.conformance.kfp_workflow import Went, Workflow

from paring_pipelines.kubeflow.progress import (
    NodeStatus,
    manifest_traces,
    node_statuses,
    root_failure,
    task_traces,
    was_canceled,
    workflow_nodes,
)
from paring_pipelines.kubeflow.task_graph import planned_tasks
from paring_pipelines.kubeflow.types import Run, run_of

START = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC)
NOW = START + timedelta(hours=1)
RUN_ID = "4b5f7d1e-0000-4000-8000-000000000001"

BY_BOTH = pytest.mark.parametrize("by", ["manifest", "tasks"])
"""The older version of the API has the workflow; without it there are the tasks alone."""

RETRIES = pytest.mark.parametrize("controller_retries", [True, False])


@pytest.fixture(scope="module")
def workflow(optimizing: Path) -> Workflow:
    """The workflow of a run that has not started."""
    spec = next(yaml.safe_load_all(optimizing.read_text()))
    return Workflow("paring-optimize-x2b4k", spec, START)


def _statuses(
    workflow: Workflow,
    went: Mapping[str, Went],
    *,
    by: str,
    controller_retries: bool = True,
    state: str = "",
    finished: datetime = NOW,
) -> dict[str, NodeStatus]:
    workflow.controller_retries = controller_retries
    workflow.play(went)
    run = _run(workflow, state or workflow.phase.upper(), finished)
    planned = planned_tasks(workflow.spec)
    if by == "manifest":
        traces = manifest_traces(workflow.manifest())
    else:
        traces = task_traces(run.tasks, planned)
    result = node_statuses(run, planned, traces, NOW)
    return {item.name: item for item in result}


def _run(workflow: Workflow, state: str, finished: datetime = NOW) -> Run:
    client = api.ApiClient()
    document = {
        "run_id": RUN_ID,
        "display_name": "paring-optimize-a-b",
        "state": state,
        "created_at": START.isoformat(),
        "finished_at": finished.isoformat(),
        "run_details": {"task_details": workflow.task_details(RUN_ID)},
    }
    response = type("Response", (), {"data": json.dumps(document)})
    return run_of(client.deserialize(response, "V2beta1Run"))


def test_the_api_lists_many_tasks_for_few_nodes(workflow: Workflow) -> None:
    workflow.controller_retries = False
    workflow.play({})
    names = Counter(task.name for task in _run(workflow, "SUCCEEDED").tasks)
    # A driver, a DAG and an executor for each of 15 nodes, two importers, the root's own.
    assert sum(names.values()) == 15 * 3 + 2 + 3 + 1
    assert names["executor"] == 15
    assert names["executor(0)"] == 1
    assert {"root", "root-driver", "importer", "prune-pruned-driver", workflow.name} <= set(names)
    workflow.controller_retries = True
    workflow.play({})
    assert "prune-pruned(0)" in {task.name for task in _run(workflow, "SUCCEEDED").tasks}


@BY_BOTH
@RETRIES
def test_each_node_has_one_row_with_its_state_and_times(
    by: str, controller_retries: bool, workflow: Workflow
) -> None:
    went = {
        "import-examples": Went("cached"),
        "prune-pruned": Went("running", 600),
        "benchmark-source": Went("failed", 70, message="main: Error (exit code 12)"),
        "evaluate-float32": Went("driver running"),
    }
    result = _statuses(workflow, went, by=by, controller_retries=controller_retries)
    assert list(result) == [task.name for task in planned_tasks(workflow.spec) if not task.importer]
    assert {name: item.state for name, item in result.items()} == {
        "import-model": "SUCCEEDED",
        "import-examples": "SUCCEEDED",
        "profile": "SUCCEEDED",
        "draw-calibration": "SUCCEEDED",
        "convert-tflite-float32": "SUCCEEDED",
        "prune-pruned": "RUNNING",
        "convert-tflite-pruned": "",
        "evaluate-source": "SUCCEEDED",
        "benchmark-source": "FAILED",
        "evaluate-float32": "PENDING",
        "benchmark-float32": "SUCCEEDED",
        "evaluate-pruned": "",
        "benchmark-pruned": "",
        "select": "",
        "report": "",
    }
    cached = {name for name, item in result.items() if item.cached}
    assert cached == {"import-examples"}
    assert result["profile"].cached is False
    assert (result["profile"].waited, result["profile"].ran) == (5, 30)
    assert (result["benchmark-source"].waited, result["benchmark-source"].ran) == (5, 70)
    running = result["prune-pruned"]
    assert running.created is not None
    assert running.ran == (NOW - running.created).total_seconds()
    preparing = result["evaluate-float32"]
    assert preparing.ran is None
    assert preparing.waited is not None
    assert preparing.waited > 600
    assert (result["select"].waited, result["select"].ran, result["select"].attempt) == (
        None,
        None,
        0,
    )


@BY_BOTH
def test_a_result_from_the_cache_is_told_from_one_that_was_made_at_the_same_time(
    by: str, workflow: Workflow
) -> None:
    went = {"evaluate-source": Went("cached"), "profile": Went("cached")}
    result = _statuses(workflow, went, by=by)
    cached = {name for name, item in result.items() if item.cached}
    assert cached == {"evaluate-source", "profile"}
    assert result["profile"].attempt == 0
    assert result["benchmark-source"].attempt == 1


@BY_BOTH
def test_what_comes_after_a_failure_is_omitted(by: str, workflow: Workflow) -> None:
    result = _statuses(workflow, {"import-model": Went("failed", 3)}, by=by)
    assert result.pop("import-model").state == "FAILED"
    assert {item.state for item in result.values()} == {"OMITTED"}
    assert {item.waited for item in result.values()} == {None}


@RETRIES
def test_attempts_are_counted_and_the_last_one_has_the_message(
    controller_retries: bool, workflow: Workflow
) -> None:
    message = "main: OOMKilled (exit code 137)"
    went = {"prune-pruned": Went("failed", 60, attempts=3, message=message)}
    result = _statuses(workflow, went, by="manifest", controller_retries=controller_retries)
    pruned = result["prune-pruned"]
    assert (pruned.attempt, pruned.error, pruned.ran) == (3, message, 180)
    traces = manifest_traces(workflow.manifest())
    pods = [pod.name for pod in traces["prune-pruned"].attempts]
    assert len(set(pods)) == 3
    assert set(pods) <= set(workflow.logs)
    assert all("-retry-system-container-impl-" in pod for pod in pods)


@BY_BOTH
def test_a_pod_without_a_machine_waits_and_says_why(by: str, workflow: Workflow) -> None:
    message = "Unschedulable: 0/3 nodes are available: 3 Insufficient cpu."
    result = _statuses(
        workflow,
        {"benchmark-source": Went("pending", message=message)},
        by=by,
        controller_retries=False,
    )
    waiting = result["benchmark-source"]
    assert (waiting.state, waiting.ran) == ("PENDING", None)
    assert waiting.waited is not None
    assert waiting.waited > 3000
    if by == "manifest":
        assert waiting.reason == message


@BY_BOTH
def test_a_driver_that_fails_is_a_failure_of_its_node(by: str, workflow: Workflow) -> None:
    result = _statuses(workflow, {"select": Went("driver failed")}, by=by)
    assert result["select"].state == "FAILED"
    assert result["select"].error == "Kubeflow's driver failed"
    assert result["report"].state == "OMITTED"


@BY_BOTH
def test_an_importer_has_a_row_only_if_it_failed(by: str, workflow: Workflow) -> None:
    assert "importer" not in _statuses(workflow, {}, by=by)
    result = _statuses(workflow, {"importer": Went("failed", 2)}, by=by)
    assert result["importer"].state == "FAILED"


@BY_BOTH
def test_of_a_canceled_run_what_was_running_is_canceled(by: str, workflow: Workflow) -> None:
    went = {
        "prune-pruned": Went("running"),
        "draw-calibration": Went("failed", 300, message="Step exceeded its deadline"),
        "benchmark-source": Went("failed", 20, message="main: Error (exit code 12)"),
    }
    finished = START + timedelta(seconds=400)
    result = _statuses(workflow, went, by=by, state="CANCELED", finished=finished)
    assert result["prune-pruned"].state == result["draw-calibration"].state == "CANCELED"
    assert result["prune-pruned"].error == result["draw-calibration"].error == ""
    # It had failed by itself, long before.
    assert result["benchmark-source"].state == "FAILED"


def test_kubeflow_reports_a_canceled_run_as_failed(workflow: Workflow) -> None:
    workflow.play({})
    manifest = workflow.manifest()
    assert not was_canceled(manifest)
    manifest["spec"]["activeDeadlineSeconds"] = 0
    assert was_canceled(manifest)


def test_a_workflow_that_argo_has_packed_is_read(workflow: Workflow) -> None:
    workflow.play({"profile": Went("failed", message="main: Error (exit code 1)")})
    manifest = workflow.manifest()
    plain = manifest_traces(manifest)
    nodes = json.dumps(manifest["status"].pop("nodes")).encode()
    manifest["status"]["compressedNodes"] = base64.b64encode(gzip.compress(nodes)).decode()
    assert manifest_traces(manifest) == plain


@pytest.mark.parametrize(
    "status",
    [
        {"nodes": [1]},
        {"nodes": "x"},
        {"nodes": {"a": None}},
        {"nodes": {"a": {}}},
        {"nodes": {"a": {"name": 5}}},
        {"nodes": {"a": {"name": "w", "type": "Pod"}}},
        {"nodes": {"a": {"name": "w", "startedAt": "yesterday"}}},
        {"nodes": {"a": {"name": "w", "finishedAt": [1]}}},
        {"compressedNodes": "!!!"},
        {"compressedNodes": "é"},
        {"compressedNodes": 5},
        {"compressedNodes": base64.b64encode(b"no gzip").decode()},
        {"compressedNodes": base64.b64encode(gzip.compress(b"{}", mtime=0)[:-9]).decode()},
        {"compressedNodes": base64.b64encode(gzip.compress(b"[1]", mtime=0)).decode()},
        {"compressedNodes": base64.b64encode(gzip.compress(b"\xff", mtime=0)).decode()},
        {"offloadNodeStatusVersion": "fnv:1", "phase": "Running"},
        {"offloadNodeStatusVersion": "fnv:1", "nodes": {}},
    ],
    ids=str,
)
def test_nodes_that_are_not_in_the_workflow_are_unknown(status: dict[str, object]) -> None:
    manifest = {"metadata": {"name": "w", "annotations": None}, "status": status}
    assert workflow_nodes(manifest) is None
    assert manifest_traces(manifest) == {}
    assert root_failure(manifest) is None


@pytest.mark.parametrize("parts", [{"status": None}, {"status": []}, {}, {"spec": None}], ids=str)
def test_a_workflow_that_argo_has_not_looked_at_has_no_nodes(parts: dict[str, object]) -> None:
    manifest = {"metadata": {"name": "w"}, **parts}
    assert workflow_nodes(manifest) == []
    assert manifest_traces(manifest) == {}
    assert root_failure(manifest) is None
    assert not was_canceled(manifest)


def test_pods_of_older_controllers_are_named_for_their_nodes(workflow: Workflow) -> None:
    workflow.play({})
    manifest = workflow.manifest()
    annotations = {"workflows.argoproj.io/pod-name-format": "v1"}
    manifest["metadata"]["annotations"] = annotations
    (pod,) = manifest_traces(manifest)["profile"].attempts
    assert pod.name in workflow.nodes
