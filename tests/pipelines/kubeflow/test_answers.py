"""Answers with status 200 that are not what Kubeflow's API declares."""

import json
from typing import Any

import pytest
from tests.conformance.kfp_server import KfpServer

from paring.errors import ClusterError
from paring_pipelines.kubeflow.client import Kubeflow
from paring_pipelines.kubeflow.connection import Connection
from paring_pipelines.kubeflow.errors import InvalidAnswerError
from paring_pipelines.kubeflow.package import Package
from paring_pipelines.kubeflow.submit import Plan, submit

DIGEST = "sha256:" + 64 * "a"
RUN = {"run_id": "r1", "display_name": "one", "created_at": "2026-11-29T10:00:00Z"}
SCHEDULE = {"recurring_run_id": "s1", "display_name": "nightly"}

NO_OBJECT = {
    "nothing": b"",
    "cut": b'{"runs": [{"run_id": "r1", "disp',
    "null": b"null",
    "list": b"[]",
    "text": b'"x"',
    "not UTF-8": b"\xff\xfe",
    "deep": b"[" * 100_000,
}


@pytest.fixture
def brief(server: KfpServer) -> Kubeflow:
    """A client that asks twice."""
    return Kubeflow(Connection(server.url, attempts=2, timeout=5.0, first_wait=0.01))


def _refused(raised: pytest.ExceptionInfo[InvalidAnswerError]) -> str:
    assert raised.value.exit_code == 20
    assert "does not answer as Kubeflow Pipelines' API does" in str(raised.value)
    return str(raised.value.received)


@pytest.mark.parametrize("content", NO_OBJECT.values(), ids=NO_OBJECT)
@pytest.mark.parametrize("path", ["/healthz$", "/runs$"])
def test_what_is_no_object_is_never_an_empty_answer(
    path: str, content: bytes, server: KfpServer, brief: Kubeflow
) -> None:
    server.contents = {f"GET .*{path}": content}
    with pytest.raises(InvalidAnswerError) as raised:
        brief.runs()
    _refused(raised)
    assert sum(request.endswith(path[1:-1]) for request in server.requests) == 2, (
        "it may be whole then"
    )


@pytest.mark.parametrize(
    "runs",
    [
        "x",
        {},
        [None],
        [[]],
        ["x"],
        [{}],
        [{"run_id": "r1"}],
        [{"display_name": "one"}],
        [{**RUN, "run_id": ""}],
        [{**RUN, "display_name": 5}],
        [{**RUN, "created_at": "yesterday"}],
        [{**RUN, "created_at": "12"}],
        [{**RUN, "created_at": 5}],
        [{**RUN, "created_at": "2026-11-29T10:00:00"}],
        [{**RUN, "state": 4}],
        [{**RUN, "state": {}}],
        [{**RUN, "error": "x"}],
        [{**RUN, "error": {"message": []}}],
        [{**RUN, "pipeline_spec": "x"}],
        [{**RUN, "runtime_config": {"parameters": []}}],
        [{**RUN, "run_details": {"task_details": {}}}],
        [{**RUN, "run_details": {"task_details": [{"state": "RUNNING"}]}}],
        [{**RUN, "state_history": [None]}],
    ],
    ids=json.dumps,
)
def test_runs_of_another_shape_are_refused(runs: Any, server: KfpServer, brief: Kubeflow) -> None:
    server.contents = {"GET .*/runs$": json.dumps({"runs": runs}).encode()}
    for ask in (brief.runs, lambda: brief.runs_named("one")):
        with pytest.raises(InvalidAnswerError) as raised:
            ask()
        assert "runs" in _refused(raised)


@pytest.mark.parametrize(
    "run",
    [
        RUN,
        {**RUN, "created_at": None, "runtime_config": None, "run_details": {"task_details": None}},
        {**RUN, "unknown": [1], "created_at": "2026-11-29T10:00:00.123456789+01:00"},
        {**RUN, "run_details": {"task_details": [{"task_id": "t1"}]}},
        {**RUN, "pipeline_spec": {"pipeline_spec": None}},
        {**RUN, "pipeline_spec": {"pipelineInfo": []}},
        {**RUN, "pipeline_version_reference": {"pipeline_id": "p1"}},
        {**RUN, "error": {"code": 3, "details": [{"@type": "a/b", "other": [1]}]}},
    ],
    ids=json.dumps,
)
def test_what_a_run_need_not_have_is_not_missed(
    run: Any, server: KfpServer, brief: Kubeflow
) -> None:
    server.store.add("run", RUN, name="one")
    server.contents = {
        "GET .*/runs$": json.dumps({"runs": [run]}).encode(),
        "GET .*/runs/r1$": json.dumps(run).encode(),
    }
    (listed,) = brief.runs()
    assert (listed.id, listed.name) == ("r1", "one")
    assert brief.run("r1") == listed
    assert brief.pipeline_spec(listed) == (run.get("pipeline_spec") or {})


@pytest.mark.parametrize("content", [b'{"run_id":', b"{}", b"null", b'{"run_id": "r1"}'])
def test_a_run_of_another_shape_is_refused(
    content: bytes, server: KfpServer, brief: Kubeflow
) -> None:
    server.store.add("run", RUN, name="one")
    server.contents = {"GET .*/runs/r1$": content}
    with pytest.raises(InvalidAnswerError) as raised:
        brief.run("r1")
    _refused(raised)


@pytest.mark.parametrize(
    "schedules",
    [
        {},
        "x",
        [None],
        [{"recurring_run_id": "s1"}],
        [{**SCHEDULE, "description": {}}],
        [{**SCHEDULE, "trigger": []}],
        [{**SCHEDULE, "trigger": {"cron_schedule": {"cron": []}}}],
    ],
    ids=json.dumps,
)
def test_schedules_of_another_shape_are_refused(
    schedules: Any, server: KfpServer, brief: Kubeflow
) -> None:
    content = json.dumps({"recurringRuns": schedules}).encode()
    server.contents = {"GET .*/recurringruns$": content}
    with pytest.raises(InvalidAnswerError) as raised:
        brief.schedules()
    assert "recurringRuns" in _refused(raised)


def test_several_users_are_not_read_out_of_a_text(server: KfpServer, brief: Kubeflow) -> None:
    server.contents = {"GET .*/healthz$": b'{"multi_user": "false"}'}
    with pytest.raises(InvalidAnswerError) as raised:
        brief.runs()
    assert "multi_user" in _refused(raised)


@pytest.mark.parametrize("runs", [[], [RUN]])
def test_a_page_that_leads_back_ends_the_listing(
    runs: list[Any], server: KfpServer, brief: Kubeflow
) -> None:
    page = {"runs": runs, "next_page_token": "0"}
    server.contents = {"GET .*/runs$": json.dumps(page).encode()}
    with pytest.raises(InvalidAnswerError) as raised:
        brief.runs_named("one")
    assert "'0'" in _refused(raised)


def test_no_more_runs_than_asked_for_come_of_a_page_that_is_too_long(
    server: KfpServer, brief: Kubeflow
) -> None:
    server.contents = {"GET .*/runs$": json.dumps({"runs": 5 * [RUN]}).encode()}
    assert len(brief.runs(limit=3)) == 3


def test_a_refusal_that_is_not_utf_8_is_a_refusal(server: KfpServer, brief: Kubeflow) -> None:
    server.contents = {"GET .*/runs$": b"\xff busy"}
    server.faults.planned = [("GET .*/runs$", "503")] * 2
    with pytest.raises(ClusterError, match=r"answered 503[^$]*busy"):
        brief.runs()


@pytest.mark.parametrize("cut", ["experiments", "runs"])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_one_answer_that_was_cut_changes_nothing(
    method: str,
    cut: str,
    server: KfpServer,
    kubeflow: Kubeflow,
    package: Package,
    model: str,
    examples: str,
) -> None:
    server.faults.planned = [(f"{method} .*/{cut}$", "cut")] * 2
    made = submit(kubeflow, Plan(package), model=model, examples=examples, digest=DIGEST)
    assert len(server.faults.planned) <= 1, "none was cut"
    again = submit(kubeflow, Plan(package), model=model, examples=examples, digest=DIGEST)
    (run,) = server.runs()
    name = Plan(package).run_name(DIGEST)
    assert (made.first.id, made.first.name) == (run["run_id"], run["display_name"])
    assert (again.first.id, again.first.name, again.new) == (run["run_id"], name, False)
    # No lock was left behind.
    assert [row["name"] for row in server.store.rows("experiment")] == ["paring"]


@pytest.mark.parametrize("content", [b'{"runs": [{"run_id": "r', b"", b"[]", b'{"runs": [{}]}'])
def test_a_listing_that_can_not_be_read_starts_no_second_run(
    content: bytes,
    server: KfpServer,
    kubeflow: Kubeflow,
    package: Package,
    model: str,
    examples: str,
) -> None:
    submit(kubeflow, Plan(package), model=model, examples=examples, digest=DIGEST)
    server.contents = {"GET .*/runs$": content}
    with pytest.raises(InvalidAnswerError) as raised:
        submit(kubeflow, Plan(package), model=model, examples=examples, digest=DIGEST)
    _refused(raised)
    assert len(server.runs()) == 1
    assert [row["name"] for row in server.store.rows("experiment")] == ["paring"]


@pytest.mark.parametrize("content", [b'{"run_id": "r', b"{}", b'{"run_id": "r1"}', b"\xff"])
def test_a_run_whose_creation_is_never_answered_legibly_is_found_and_kept(
    content: bytes,
    server: KfpServer,
    kubeflow: Kubeflow,
    package: Package,
    model: str,
    examples: str,
) -> None:
    server.contents = {"POST .*/runs$": content}
    made = submit(kubeflow, Plan(package), model=model, examples=examples, digest=DIGEST)
    assert [run["run_id"] for run in server.runs()] == [made.first.id]
    assert made.first.name == Plan(package).run_name(DIGEST)
