"""`status`, `logs`, `cancel` and `schedules` as a user meets them."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from tests.conformance.kfp_server import KfpServer
from tests.conformance.kfp_workflow import Went
from tests.pipelines.conftest import Paring

from paring.artifacts import Failure, TFLiteModel
from paring.storage import join, put, write_text
from paring_pipelines.kubeflow.client import Kubeflow
from paring_pipelines.kubeflow.connection import Connection
from paring_pipelines.kubeflow.package import read_package
from paring_pipelines.kubeflow.requests import Asking
from paring_pipelines.kubeflow.sources import source_digest
from paring_pipelines.kubeflow.submit import Plan
from paring_pipelines.kubeflow.submit import submit as submit_run

pytestmark = pytest.mark.usefixtures("endpoint")

K8S = Path(__file__).parents[3] / "k8s"

SALT = "0a1b2c3d-0000-4000-8000-000000000002"
LOG_LINE = (
    '{"time": "2026-11-28T12:00:02.000+00:00", "level": "error", "event": "command failed",'
    ' "error": "examples are missing", "exit_code": 12, "received": "/minio/b/e",'
    ' "remedy": "give others"}\n'
)
GET_RUN = r"GET /apis/v2beta1/runs/[^:]+$"
LOG = "GET /apis/v1alpha1/.*/log"

Submit = Callable[..., tuple[str, str]]

# Where the pods read them, which the root says: the same bucket.
SOURCES = (
    *("--model", "gs://b/m", "--examples", "gs://b/e"),
    *("--pipeline-root", "gs://b/root"),
)


@pytest.fixture
def submit(
    server: KfpServer, optimizing: Path, model: str, examples: str, tmp_path: Path
) -> Submit:
    """Submits the pipeline with two recipes; gives the run's name and id.

    Its root is a path in place of a bucket, which the command line refuses.
    """

    def call(root: str = "") -> tuple[str, str]:
        kubeflow = Kubeflow(Connection(server.url))
        plan = Plan(read_package(optimizing), pipeline_root=str(root or tmp_path / "root"))
        digest = source_digest(model, examples)
        made = submit_run(kubeflow, plan, model=model, examples=examples, digest=digest)
        return made.first.name, made.first.id

    return call


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No kubeconfig, and no pod's account."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def _nodes(paring: Paring, run: str, *more: object) -> dict[str, dict[str, object]]:
    code, shown, error = paring("status", run, "--json", *more)
    assert code == 0, error
    return {node["name"]: node for node in json.loads(shown)["nodes"]}


def _leave_record(root: str, run_id: str, task: str, folder: Path, failure: Failure | None) -> None:
    """An output with its record, as the launcher uploads it."""
    artifact = TFLiteModel(folder / task, failure=failure)
    artifact.path.mkdir(parents=True)
    artifact.save()
    put(artifact.path, join(root, "paring-optimize", run_id, task, SALT, "converted"))


def _leave_log(root: str, run_id: str, task: str, text: str, attempt: int = 0) -> None:
    place = join(root, "paring-optimize", run_id, task, SALT, f"executor-logs-{attempt}")
    write_text(place, text)


def test_status_has_a_row_for_each_node_with_outcome_reason_and_error(
    paring: Paring, server: KfpServer, submit: Submit, bucket: str, tmp_path: Path
) -> None:
    root = f"s3://{bucket}/v2/artifacts"
    name, run_id = submit(root)
    server.play(
        run_id,
        {
            "import-examples": Went("cached"),
            "benchmark-float32": Went("failed", 70, log=LOG_LINE),
        },
    )
    refused = Failure("unsupported", "prune", "no layer of this model can be pruned")
    _leave_record(root, run_id, "convert-tflite-float32", tmp_path / "made", None)
    _leave_record(root, run_id, "prune-pruned", tmp_path / "made", refused)
    code, shown, error = paring("status", name)
    assert code == 0, error
    rows = [line for line in shown.splitlines() if line.startswith("│")]
    assert len(rows) == 15
    assert not re.search("driver|executor|importer", shown)
    (row,) = [row for row in rows if "convert-tflite-float32" in row]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        *("convert-tflite-float32", "SUCCEEDED", "1", "5", "30", "no", "made", "")
    ]
    (row,) = [row for row in rows if " prune-pruned" in row]
    assert "unsupported" in row
    assert "no layer of this model can be pruned" in row
    (row,) = [row for row in rows if "import-examples" in row]
    assert "yes" in row
    assert "benchmark-float32 failed: examples are missing" in shown
    assert "to fix it: give others" in shown
    assert "note:" not in shown
    nodes = _nodes(paring, run_id)
    failed = nodes["benchmark-float32"]
    assert failed["error"] == str(failed["error"])
    assert str(failed["error"]).startswith("examples are missing\n  received: /minio/b/e")
    assert nodes["select"]["state"] == "OMITTED"


def test_the_error_comes_from_the_store_where_kubeflow_has_no_log(
    paring: Paring, server: KfpServer, submit: Submit, bucket: str
) -> None:
    root = f"s3://{bucket}/v2/artifacts"
    name, run_id = submit(root)
    server.play(run_id, {"profile": Went("failed", log=LOG_LINE, archived=False)})
    server.pods_gone = True
    assert "unknown: " in str(_nodes(paring, name)["profile"]["error"])
    _leave_log(root, run_id, "profile", LOG_LINE)
    assert "examples are missing" in str(_nodes(paring, name)["profile"]["error"])
    server.v1beta1 = False
    assert "examples are missing" in str(_nodes(paring, name)["profile"]["error"])


def test_a_container_that_was_killed_is_explained_by_what_kubernetes_says(
    paring: Paring, server: KfpServer, submit: Submit
) -> None:
    message = "main: OOMKilled (exit code 137)"
    name, run_id = submit()
    server.play(run_id, {"prune-pruned": Went("failed", log="epoch 3\n", message=message)})
    assert _nodes(paring, name)["prune-pruned"]["error"] == (
        f"{message}\n  its log ends with: epoch 3"
    )


@pytest.mark.parametrize("went", ["failed", "driver failed"])
def test_a_launcher_that_failed_is_explained_in_the_reason(
    went: str, paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    log = (
        "I1128 12:00:00.000000       1 main.go:50] starting\n"
        "F1128 12:00:01.000000       1 main.go:79] failed to execute component: no bucket x\n"
    )
    message = "main: Error (exit code 1)"
    server.play(run_id, {"profile": Went(went, log=log, message=message)})
    error = str(_nodes(paring, name)["profile"]["error"])
    assert "failed to execute component: no bucket x" in error.partition("\n")[0]
    assert error.endswith(f"\n  {message}") or went == "driver failed"
    (row,) = [line for line in paring("status", name)[1].splitlines() if "│ profile " in line]
    assert "no bucket x" in row


def test_a_node_from_the_cache_is_shown_as_cached(
    paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went("cached")})
    (row,) = [line for line in paring("status", name)[1].splitlines() if "│ profile " in line]
    assert [cell.strip() for cell in row.split("│")][6:8] == ["yes", "cached"]
    assert _nodes(paring, name)["profile"]["outcome"] == ""


@pytest.mark.parametrize(
    ("command", "again"),
    [(("status", "--watch"), "paring status --watch"), (("logs", "--follow"), "paring logs")],
)
def test_an_interrupt_ends_the_look_and_says_that_the_run_goes_on(
    command: tuple[str, ...],
    again: str,
    paring: Paring,
    submit: Submit,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, _ = submit()
    monkeypatch.setattr(time, "sleep", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    code, _, error = paring(*command, name)
    assert code == 130
    assert f"interrupted; the run {name} goes on: `{again}" in error


def test_a_driver_that_failed_is_explained_by_its_log(
    paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    log = 'F1128 12:00:01.000000       1 main.go:79] KFP driver: no execution found for name=""\n'
    server.play(run_id, {"select": Went("driver failed", log=log)})
    error = str(_nodes(paring, name)["select"]["error"])
    assert error.startswith("Kubeflow's driver failed")
    assert "no execution found" in error
    assert paring("logs", name, "select")[1] == log


def test_a_run_that_was_just_submitted_has_its_plan(
    paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    code, shown, _ = paring("status", name, "--json")
    result = json.loads(shown)
    assert (code, result["state"], result["notes"]) == (0, "PENDING", [])
    assert [node["state"] for node in result["nodes"]] == [""] * 15
    server.v1beta1 = False
    assert {node["state"] for node in _nodes(paring, run_id).values()} == {""}


@pytest.mark.parametrize(
    "status",
    [
        {"phase": "Running", "offloadNodeStatusVersion": "fnv:1"},
        {"phase": "Running", "compressedNodes": "!!!"},
        {"phase": "Running", "nodes": [1]},
    ],
    ids=str,
)
def test_where_the_workflow_has_no_nodes_the_tasks_say_how_far_a_run_is(
    status: dict[str, object], paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    workflow = server.play(run_id, {"prune-pruned": Went("running", 600)})
    states = {name: item["state"] for name, item in _nodes(paring, name).items()}
    assert states["prune-pruned"] == "RUNNING"
    manifest = {**workflow.manifest(), "status": status}
    document = {"pipeline_runtime": {"workflow_manifest": json.dumps(manifest)}}
    server.contents = {"GET .*/v1beta1/": json.dumps(document).encode()}
    code, shown, _ = paring("status", name, "--json")
    result = json.loads(shown)
    assert code == 0
    assert {node["name"]: node["state"] for node in result["nodes"]} == states
    assert any("offloadNodeStatusVersion" in note for note in result["notes"])


@pytest.mark.parametrize(
    "content",
    [
        b"{}",
        b'{"pipeline_runtime": null}',
        b'{"pipeline_runtime": {"workflow_manifest": "[1]"}}',
        b'{"pipeline_runtime": {"workflow_manifest": {}}}',
        b'{"pipeline_runtime": {"workflow_manifest": "{\\"metadata\\": null}"}}',
    ],
)
def test_where_there_is_no_workflow_the_tasks_say_how_far_a_run_is(
    content: bytes, paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    server.play(run_id, {"prune-pruned": Went("running", 600)})
    states = {name: item["state"] for name, item in _nodes(paring, name).items()}
    server.contents = {"GET .*/v1beta1/": content}
    assert {name: item["state"] for name, item in _nodes(paring, name).items()} == states


@pytest.mark.parametrize("command", [("status",), ("status", "any"), ("schedules",)], ids=str)
def test_an_answer_that_is_not_kubeflows_is_an_error(
    command: tuple[str, ...],
    paring: Paring,
    server: KfpServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Asking, "waits", lambda _: iter([0.0]))
    server.contents = {"GET .*/(runs|recurringruns)$": b'{"runs": [{"run_id": "r'}
    code, shown, error = paring(*command)
    assert (code, shown) == (20, "")
    assert "does not answer as Kubeflow Pipelines' API does" in error
    assert len([request for request in server.requests if request.endswith("runs")]) == 2


@pytest.mark.parametrize("v1beta1", [True, False])
def test_a_run_of_which_no_node_started_is_explained(
    v1beta1: bool, paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    log = "F1128 12:00:01.000000       1 main.go:79] KFP driver: pipeline root is broken\n"
    server.play(run_id, {"root-driver": Went("failed", log=log)})
    server.v1beta1 = v1beta1
    code, shown, _ = paring("status", name, "--json")
    result = json.loads(shown)
    assert (code, result["state"]) == (0, "FAILED")
    assert {node["state"] for node in result["nodes"]} == {""}
    why = ": KFP driver: pipeline root is broken" if v1beta1 else ""
    assert result["error"] == f"Kubeflow's driver of the run failed{why}"
    assert result["error"] in paring("status", name)[1]


def test_time_without_a_machine_is_waiting_where_the_log_tells_the_start(
    paring: Paring, server: KfpServer, submit: Submit, tmp_path: Path
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went(seconds=300)})
    created = datetime.fromisoformat(str(_nodes(paring, name)["profile"]["created"]))
    started = (created + timedelta(seconds=240)).astimezone(UTC).isoformat()
    line = json.dumps({"time": started, "level": "info", "event": "step started"})
    _leave_log(str(tmp_path / "root"), run_id, "profile", f"{line}\n")
    node = _nodes(paring, name)["profile"]
    assert (node["waited"], node["ran"]) == (245, 60)


def test_without_the_store_a_note_says_what_is_not_known(
    paring: Paring, server: KfpServer, submit: Submit, s3_endpoint: str, bucket: str
) -> None:
    name, run_id = submit(f"s3://{bucket}-absent/v2/artifacts")
    server.play(run_id, {"profile": Went("failed", log=LOG_LINE)})
    code, shown, _ = paring("status", name)
    assert code == 0
    assert "note: outcomes and reasons are not known" in shown
    assert "examples are missing" in shown
    result = json.loads(paring("status", name, "--json")[1])
    assert "outcomes and reasons are not known" in result["notes"][0]


def test_a_root_with_nothing_of_the_run_is_noted(
    paring: Paring, server: KfpServer, submit: Submit, tmp_path: Path
) -> None:
    name, run_id = submit()
    server.play(run_id)
    assert "check --pipeline-root" in paring("status", name)[1]


@pytest.mark.usefixtures("no_cluster")
def test_kubeflows_own_root_is_asked_for_where_it_can_not_be_read(
    paring: Paring, server: KfpServer, optimizing: Path, model: str, examples: str, tmp_path: Path
) -> None:
    paring("submit", "--package", optimizing, "--model", model, "--examples", examples)
    run_id = server.runs()[0]["run_id"]
    server.play(run_id)
    code, shown, _ = paring("status", run_id)
    assert code == 0
    assert "give --pipeline-root" in shown
    code, _, error = paring("fetch", run_id, "--out", tmp_path / "out")
    assert code == 2
    assert "--pipeline-root" in error


def test_a_scheduled_run_has_the_nodes_of_its_version(
    paring: Paring, server: KfpServer, optimizing: Path
) -> None:
    given = ("--package", optimizing, *SOURCES)
    paring("schedule", *given, "--cron", "@daily", "--name", "nightly")
    run_id = server.start_scheduled(server.schedules()[0]["recurring_run_id"])
    server.play(run_id, {"profile": Went("failed", log=LOG_LINE)})
    nodes = _nodes(paring, run_id, "--pipeline-root", "/absent")
    assert len(nodes) == 15
    assert nodes["profile"]["state"] == "FAILED"


@pytest.mark.parametrize("v1beta1", [True, False])
def test_nodes_are_those_that_were_reported_where_the_version_was_deleted(
    v1beta1: bool, paring: Paring, server: KfpServer, optimizing: Path
) -> None:
    given = ("--package", optimizing, *SOURCES)
    paring("schedule", *given, "--cron", "@daily", "--name", "nightly")
    run_id = server.start_scheduled(server.schedules()[0]["recurring_run_id"])
    server.play(run_id, {"profile": Went("failed", log=LOG_LINE)})
    server.store.remove("version", server.store.rows("version")[0]["pipeline_version_id"])
    server.v1beta1 = v1beta1
    code, shown, _ = paring("status", run_id, "--json", "--pipeline-root", "/absent")
    result = json.loads(shown)
    assert code == 0
    assert len(result["nodes"]) == 15
    assert {node["name"]: node["state"] for node in result["nodes"]}["profile"] == "FAILED"
    assert "the plan's order" in result["notes"][0]


@pytest.mark.parametrize(
    ("went", "canceled", "code", "named"),
    [
        ({}, False, 0, ""),
        ({"profile": Went("failed", log=LOG_LINE)}, False, 21, "profile"),
        ({"profile": Went("failed")}, True, 22, "canceled"),
    ],
)
def test_watch_shows_progress_until_the_end_and_exits_by_the_result(
    went: Mapping[str, Went],
    canceled: bool,
    code: int,
    named: str,
    paring: Paring,
    server: KfpServer,
    submit: Submit,
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went("running"), "evaluate-source": Went("pending")})

    def go_on() -> None:
        # The first look is over when the second one begins.
        _wait_for(lambda: sum("v1beta1" in request for request in server.requests) >= 2)
        if canceled:
            server.cancel(run_id)
        server.play(run_id, went)

    # What it may meet on its way.
    server.faults.planned = [(GET_RUN, "503"), (GET_RUN, "dropped")]
    end = threading.Thread(target=go_on)
    end.start()
    result, shown, error = paring("status", name, "--watch", "--interval", 0.05)
    end.join()
    assert result == code, error
    lines = error.splitlines()
    assert re.match(
        r"RUNNING: 11 of 15 nodes done; 1 running \(profile\); 1 pending \(evaluate-source\); \d:",
        lines[0],
    ), error
    assert "profile" in shown
    assert named in error


def test_watch_bears_with_a_kubeflow_that_is_away_for_a_while(
    paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went("running")})

    def end() -> None:
        _wait_for(lambda: any("v1beta1" in request for request in server.requests))
        # As often as one request is repeated.
        server.faults.planned = [(GET_RUN, "429")] * 6
        server.play(run_id)

    thread = threading.Thread(target=end)
    thread.start()
    code, _, error = paring("status", name, "--watch", "--interval", 0.05)
    thread.join()
    assert code == 0, error
    assert server.faults.met["429"] == 6


def test_watch_tells_programs_in_lines_of_json(
    paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went("failed", log=LOG_LINE)})
    code, shown, error = paring("--log-format", "json", "status", name, "--watch", "--json")
    assert code == 21
    assert json.loads(shown)["state"] == "FAILED"
    progress, failed = (json.loads(line) for line in error.splitlines())
    assert (progress["event"], progress["state"]) == ("progress", "FAILED")
    assert (failed["exit_code"], failed["received"]) == (21, "profile")


@pytest.mark.parametrize("retries", [True, False])
def test_logs_of_a_node_come_from_its_last_attempt(
    retries: bool, paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    went = {"prune-pruned": Went(attempts=3, log="epoch 1\nepoch 2\n"), "profile": Went(log="a\n")}
    server.play(run_id, went, controller_retries=retries)
    assert paring("logs", name, "prune-pruned") == (0, "epoch 1\nepoch 2\n", "")
    # As `paring plan` writes it, too.
    assert paring("logs", name, "prune_pruned", "--attempt", 3)[1] == "epoch 1\nepoch 2\n"
    assert paring("logs", name, "prune-pruned", "--attempt", 1)[1] == ""
    code, _, error = paring("logs", name, "prune-pruned", "--attempt", 4)
    assert code == 2
    assert "3 attempt" in error
    server.pods_gone = True
    assert paring("logs", name, "prune-pruned")[1] == "epoch 1\nepoch 2\n"
    assert set(paring("logs", name)[1].splitlines()) == {
        "profile  a",
        "prune-pruned  epoch 1",
        "prune-pruned  epoch 2",
    }


def test_logs_of_attempts_come_from_the_store(
    paring: Paring, server: KfpServer, submit: Submit, tmp_path: Path
) -> None:
    name, run_id = submit()
    server.play(run_id, {"prune-pruned": Went(attempts=2, archived=False)})
    server.pods_gone = True
    root = str(tmp_path / "root")
    _leave_log(root, run_id, "prune-pruned", "first\n", attempt=0)
    write_text(
        join(root, "paring-optimize", run_id, "prune-pruned", SALT, "executor-logs-1"), "second\n"
    )
    assert paring("logs", name, "prune-pruned")[1] == "second\n"
    for server.v1beta1 in (True, False):
        assert paring("logs", name, "prune-pruned", "--attempt", 1)[1] == "first\n"
        assert paring("logs", name, "prune-pruned", "--attempt", 2)[1] == "second\n"
    code, _, error = paring("logs", name, "prune-pruned", "--attempt", 3)
    assert code == 20
    assert "no log of prune-pruned" in " ".join(error.split())


def test_what_a_log_holds_besides_text_is_replaced(
    paring: Paring, server: KfpServer, submit: Submit, tmp_path: Path
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went(archived=False)})
    server.pods_gone = True
    folder = tmp_path / "root" / "paring-optimize" / run_id / "profile" / SALT
    folder.mkdir(parents=True)
    (folder / "executor-logs-0").write_bytes(b"\xff done\n")
    assert paring("logs", name, "profile")[1] == "\ufffd done\n"


def test_follow_prints_each_line_once_until_the_node_has_ended(
    paring: Paring, server: KfpServer, submit: Submit, tmp_path: Path
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went("running", log="one\ntw")})

    def go_on() -> None:
        _wait_for(lambda: sum(request.endswith("/log") for request in server.requests) >= 2)
        server.faults.planned = [(LOG, "503"), (LOG, "dropped")]
        server.play(run_id, {"profile": Went("running", log="one\ntwo\n\nthree\n")})
        _wait_for(lambda: sum(request.endswith("/log") for request in server.requests) >= 7)
        # It ends, its pod goes, and what the launcher kept lacks the launcher's own lines.
        _leave_log(str(tmp_path / "root"), run_id, "profile", "two\nthree\nfour")
        server.pods_gone = True
        server.play(run_id, {"profile": Went(archived=False), "select": Went("running")})

    thread = threading.Thread(target=go_on)
    thread.start()
    code, shown, error = paring("logs", name, "profile", "--follow", "--interval", 0.05)
    thread.join()
    assert (code, shown) == (0, "one\ntwo\nthree\nfour\n"), error


def test_follow_goes_from_one_attempt_to_the_next(
    paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    server.play(run_id, {"prune-pruned": Went("running", log="one\n")})

    def go_on() -> None:
        _wait_for(lambda: any(request.endswith("/log") for request in server.requests))
        again = {"attempts": 2, "earlier": "one\ntwo\n"}
        server.play(run_id, {"prune-pruned": Went("running", log="one\n", **again)})
        _wait_for(lambda: sum(request.endswith("/log") for request in server.requests) >= 4)
        server.play(run_id, {"prune-pruned": Went(log="one\nthree\n", **again)})

    thread = threading.Thread(target=go_on)
    thread.start()
    code, shown, error = paring("logs", name, "prune-pruned", "--follow", "--interval", 0.05)
    thread.join()
    assert (code, shown) == (0, "one\ntwo\none\nthree\n"), error


def test_follow_of_a_run_goes_on_until_the_run_has_ended(
    paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    server.play(run_id, {"import-model": Went("running", log="loading\n")})

    def go_on() -> None:
        _wait_for(lambda: any(request.endswith("/log") for request in server.requests))
        server.play(
            run_id, {"import-model": Went(log="loading\nloaded\n"), "profile": Went(log="a\n")}
        )

    thread = threading.Thread(target=go_on)
    thread.start()
    code, shown, error = paring("logs", name, "--follow", "--interval", 0.05)
    thread.join()
    assert code == 0, error
    assert shown.splitlines() == [
        "import-model  loading",
        "import-model  loaded",
        "profile  a",
    ]


@pytest.mark.parametrize(
    ("went", "node", "why"),
    [
        ({"profile": Went("cached")}, "profile", "cache"),
        ({"import-model": Went("failed")}, "profile", "did not run"),
        ({"import-model": Went("running")}, "profile", "has not started"),
        ({}, "prophile", "did you mean 'profile'"),
    ],
)
def test_where_there_is_no_log_the_reason_is_named(
    went: Mapping[str, Went], node: str, why: str, paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    server.play(run_id, went)
    code, _, error = paring("logs", name, node)
    assert code in (2, 20)
    assert why in error


def test_a_log_that_nobody_has_is_an_error_that_names_both_places(
    paring: Paring, server: KfpServer, submit: Submit, tmp_path: Path
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went(archived=False)})
    server.pods_gone = True
    code, _, error = paring("logs", name, "profile")
    assert code == 20
    assert "Failed to read logs" in error
    assert "the artifact store has no log of profile" in " ".join(error.split())


def test_cancel_ends_a_run_once(paring: Paring, server: KfpServer, submit: Submit) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went("running")})
    code, shown, _ = paring("cancel", name)
    assert (code, shown.split()) == (0, [name, run_id, "is", "being", "canceled"])
    assert server.runs()[0]["state"] == "CANCELING"
    assert paring("cancel", name)[0] == 0
    server.play(run_id, {"profile": Went("failed")})
    assert server.runs()[0]["state"] == "FAILED"
    assert "CANCELED" in paring("status", name)[1]
    code, shown, _ = paring("cancel", name)
    assert (code, shown.split()[-1]) == (0, "CANCELED")
    assert [request for request in server.requests if request.endswith(":terminate")] == [
        f"POST /apis/v2beta1/runs/{run_id}:terminate"
    ]


@pytest.mark.parametrize("fault", ["500 after", "dropped after", "stall after", "503", "429"])
def test_cancel_takes_a_lost_answer_for_what_it_is(
    fault: str, paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went("running")})
    server.faults.planned = [(":terminate", fault)]
    code, _, error = paring("cancel", name, "--timeout", 0.5)
    assert code == 0, error
    assert server.faults.planned == []
    assert server.runs()[0]["state"] == "CANCELING"


def test_cancel_says_when_this_account_may_not(
    paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went("running")})
    server.forbidden = {"terminate_run"}
    code, _, error = paring("cancel", name)
    assert code == 20
    assert "403" in error
    assert "not authorized" in error
    assert server.runs()[0]["state"] == "RUNNING"


def test_a_name_that_is_nearly_right_is_hinted_at(
    paring: Paring, server: KfpServer, submit: Submit
) -> None:
    name, _ = submit()
    for command in ("status", "logs", "cancel"):
        code, _, error = paring(command, name[:-1])
        assert code == 20
        assert f"did you mean '{name}'" in " ".join(error.split())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (("status", "--watch"), "--watch"),
        (("status", "--pipeline-root", "s3://b"), "--pipeline-root"),
        (("status", "RUN", "--interval", "5"), "--interval"),
        (("status", "RUN", "--limit", "5"), "--limit"),
        (("logs", "RUN", "--attempt", "1"), "--attempt"),
        (("logs", "RUN", "NODE", "--interval", "5"), "--interval"),
        (("logs", "RUN", "NODE", "--follow", "--attempt", "1"), "--attempt"),
    ],
)
def test_options_that_would_be_of_no_account_are_refused(
    given: tuple[str, ...], named: str, paring: Paring
) -> None:
    code, _, error = paring(*given)
    assert code == 2
    assert f"error: {named}" in error


@pytest.fixture
def nightly(paring: Paring, server: KfpServer, optimizing: Path) -> str:
    """The id of a schedule called `nightly`."""
    given = ("--package", optimizing, *SOURCES)
    paring("schedule", *given, "--cron", "30 3 * * *", "--name", "nightly")
    return str(server.schedules()[0]["recurring_run_id"])


def test_schedules_are_listed_paused_resumed_and_deleted(
    paring: Paring, server: KfpServer, nightly: str
) -> None:
    code, shown, _ = paring("schedules")
    assert code == 0
    assert all(text in shown for text in ("nightly", nightly, "ENABLED", "0 30 3 * * *", "paring"))
    assert paring("schedules", "pause", "nightly") == (0, f"nightly  {nightly}  paused\n", "")
    (result,) = json.loads(paring("schedules", "--json")[1])
    assert (result["name"], result["enabled"], result["ours"]) == ("nightly", False, True)
    assert "PAUSED" in paring("schedules", "list")[1]
    assert paring("schedules", "resume", nightly)[0] == 0
    assert server.schedules()[0]["status"] == "ENABLED"
    assert paring("schedules", "delete", "nightly")[0] == 0
    assert server.schedules() == []
    assert json.loads(paring("schedules", "--json")[1]) == []


@pytest.mark.parametrize("fault", ["500 after", "dropped after", "503"])
@pytest.mark.parametrize(
    ("change", "sent"), [("pause", ":disable"), ("resume", ":enable"), ("delete", "DELETE")]
)
def test_a_change_of_a_schedule_survives_a_lost_answer(
    change: str, sent: str, fault: str, paring: Paring, server: KfpServer, nightly: str
) -> None:
    server.faults.planned = [(sent, fault)]
    code, _, error = paring("schedules", change, "nightly")
    assert code == 0, error
    assert server.faults.planned == []
    states = {"pause": ["DISABLED"], "resume": ["ENABLED"], "delete": []}
    assert [schedule["status"] for schedule in server.schedules()] == states[change]


def test_a_strangers_schedule_is_touched_by_its_id_alone(
    paring: Paring, server: KfpServer, nightly: str
) -> None:
    (mine,) = server.schedules()
    stranger = {**mine, "recurring_run_id": "theirs", "description": "by hand"}
    server.store.add("schedule", stranger, name="nightly")
    assert paring("schedules", "pause", "nightly")[0] == 0
    by_id = {schedule["recurring_run_id"]: schedule["status"] for schedule in server.schedules()}
    assert by_id == {nightly: "DISABLED", "theirs": "ENABLED"}
    paring("schedules", "delete", "nightly")
    code, _, error = paring("schedules", "delete", "nightly")
    assert code == 2
    assert "theirs" in error
    assert paring("schedules", "delete", "theirs")[0] == 0
    assert server.schedules() == []


def test_a_schedule_that_is_not_there_is_named(paring: Paring, nightly: str) -> None:
    code, _, error = paring("schedules", "pause", "nigthly")
    assert code == 20
    assert "did you mean 'nightly'" in error
    assert "paring schedules" in error


def test_people_may_do_what_these_commands_ask_for_and_no_more(
    paring: Paring, server: KfpServer, submit: Submit, nightly: str
) -> None:
    name, run_id = submit()
    server.play(run_id, {"profile": Went("running", log="a\n")})
    paring("status")
    paring("status", name)
    paring("logs", name, "profile")
    paring("cancel", name)
    paring("status", server.start_scheduled(nightly))
    for change in ("pause", "resume", "delete"):
        paring("schedules", change, "nightly")
    granted = _granted("people.yaml")
    # Of two runs of one name, which this test does not make, one is deleted. The ConfigMap
    # is read from the cluster itself.
    assert granted == {*server.verbs, ("runs", "delete"), ("configmaps", "get")}
    assert granted - _granted("submitter.yaml") == {("runs", "terminate"), ("configmaps", "get")}


def _granted(file: str) -> set[tuple[str, str]]:
    documents = yaml.safe_load_all((K8S / "runs" / file).read_text())
    (role,) = (document for document in documents if document["kind"] == "Role")
    return {
        (resource, verb)
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
