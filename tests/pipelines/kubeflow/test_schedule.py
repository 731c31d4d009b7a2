"""One recurring run for one name, also where its making was cut short."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.kfp_server import KfpServer

from paring.errors import ClusterError
from paring_pipelines.kubeflow.client import Kubeflow
from paring_pipelines.kubeflow.connection import Connection
from paring_pipelines.kubeflow.package import Package, read_package
from paring_pipelines.kubeflow.schedule import Scheduled, Timing, schedule
from paring_pipelines.kubeflow.submit import Plan

NIGHTLY = Timing("0 0 3 * * *")
HOURLY = Timing("0 0 * * * *", catch_up=True, max_concurrency=2)

CREATE = "POST /apis/v2beta1/recurringruns$"
DISABLE = "POST .*:disable"
DELETE = "DELETE .*/recurringruns"

Make = Callable[..., Scheduled]


@pytest.fixture
def make(kubeflow: Kubeflow, package: Package) -> Make:
    """Schedules the pipeline under the name `nightly`."""

    def call(timing: Timing = NIGHTLY, package: Package = package) -> Scheduled:
        return schedule(
            kubeflow,
            "nightly",
            plan=Plan(package),
            timing=timing,
            model="gs://b/m",
            examples="gs://b/e",
        )

    return call


def _enabled(server: KfpServer) -> list[str]:
    return [
        item["trigger"]["cron_schedule"]["cron"]
        for item in server.schedules()
        if item["status"] == "ENABLED"
    ]


def test_it_starts_a_version_of_a_pipeline_at_its_times(server: KfpServer, make: Make) -> None:
    done = make(HOURLY)
    (item,) = server.schedules()
    assert done.new
    assert item["trigger"] == {"cron_schedule": {"cron": "0 0 * * * *"}}
    assert (item["no_catchup"], item["max_concurrency"]) == (False, "2")
    assert item["runtime_config"]["parameters"] == {
        "model_uri": "gs://b/m",
        "examples_uri": "gs://b/e",
        "source_digest": "[[ScheduledTime]]",
    }
    (version,) = server.store.rows("version")
    reference = item["pipeline_version_reference"]
    assert reference["pipeline_version_id"] == version["pipeline_version_id"]
    assert version["name"] == done.version


def test_the_same_again_changes_nothing(server: KfpServer, make: Make) -> None:
    first, again = make(), make()
    assert (first.new, again.new, again.replaced) == (True, False, 0)
    assert first.schedule.id == again.schedule.id
    assert len(server.store.rows("version")) == len(server.store.rows("pipeline")) == 1


@pytest.mark.parametrize(
    "path", ["experiments$", "pipelines$", "upload_version$", "recurringruns$"]
)
def test_a_creation_whose_answer_was_cut_is_found(path: str, server: KfpServer, make: Make) -> None:
    server.contents = {f"POST .*/{path}": b'{"'}
    done, again = make(), make()
    (item,) = server.schedules()
    assert (done.schedule.id, done.schedule.name) == (item["recurring_run_id"], "nightly")
    assert (again.schedule.id, again.new, again.replaced) == (item["recurring_run_id"], False, 0)
    assert len(server.store.rows("version")) == len(server.store.rows("pipeline")) == 1
    assert [row["name"] for row in server.store.rows("experiment")] == ["paring"]


def test_other_times_replace_it(server: KfpServer, make: Make) -> None:
    make()
    done = make(HOURLY)
    assert (done.new, done.replaced) == (True, 1)
    assert _enabled(server) == ["0 0 * * * *"]
    assert len(server.schedules()) == 1
    assert len(server.store.rows("version")) == 1


def test_the_runs_of_one_that_is_replaced_go_on(server: KfpServer, make: Make) -> None:
    before = make()
    run = server.start_scheduled(before.schedule.id)
    make(HOURLY)
    assert server.killed == set()
    assert server.store.get("run", run)["state"] == "PENDING"


def test_another_plan_is_a_new_version_of_the_same_pipeline(
    server: KfpServer, make: Make, compiled: Callable[..., Path]
) -> None:
    make()
    make(package=read_package(compiled(image="paring:other")))
    assert len(server.store.rows("pipeline")) == 1
    assert len(server.store.rows("version")) == 2
    assert len(server.schedules()) == 1


def test_the_new_one_is_in_place_before_the_old_one_goes(server: KfpServer, make: Make) -> None:
    make()
    server.requests.clear()
    make(HOURLY)
    changes = [request for request in server.requests if not request.startswith("GET")]
    lock, *kinds, unlock = [re.sub(r"/[0-9a-f-]{36}", "", change) for change in changes]
    assert kinds == [
        "POST /apis/v2beta1/recurringruns",
        "POST /apis/v2beta1/recurringruns:disable",
        "DELETE /apis/v2beta1/recurringruns",
    ]
    assert (lock, unlock) == ("POST /apis/v2beta1/experiments", "DELETE /apis/v2beta1/experiments")


def test_of_many_that_schedule_at_once_each_gets_the_one_that_stays(
    server: KfpServer, package: Package
) -> None:
    server.slowness = 0.3
    got: list[Scheduled] = []

    def go() -> None:
        client = Kubeflow(Connection(server.url, timeout=5.0, first_wait=0.01))
        got.append(
            schedule(
                client,
                "nightly",
                plan=Plan(package),
                timing=NIGHTLY,
                model="gs://b/m",
                examples="gs://b/e",
            )
        )

    threads = [threading.Thread(target=go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (left,) = server.schedules()
    assert [item.schedule.id for item in got] == [left["recurring_run_id"]] * 6
    assert sum(item.new for item in got) == 1


@pytest.mark.parametrize("cut", [CREATE, DISABLE, DELETE])
@pytest.mark.parametrize("fault", ["500 after", "stall after"])
def test_what_was_cut_short_is_mended_by_the_same_command(
    cut: str, fault: str, server: KfpServer, make: Make
) -> None:
    make()
    # Until its client gives up.
    server.faults.planned = [(cut, fault if cut == CREATE else "503")] + [(cut, "503")] * 5
    server.faults.planned += [("GET .*recurringruns", "503")] * (30 if cut == CREATE else 0)
    with pytest.raises(ClusterError):
        make(HOURLY)
    server.faults.planned = []
    assert _enabled(server), "a schedule that nobody starts would not be noticed"
    make(HOURLY)
    assert _enabled(server) == ["0 0 * * * *"]
    assert len(server.schedules()) == 1


def test_one_that_was_paused_by_hand_is_enabled_again(server: KfpServer, make: Make) -> None:
    done = make()
    server.store.change("schedule", done.schedule.id, {"status": "DISABLED"})
    make()
    assert _enabled(server) == ["0 0 3 * * *"]


def test_a_strangers_recurring_run_of_the_name_is_left_alone(server: KfpServer, make: Make) -> None:
    make()
    (mine,) = server.schedules()
    stranger = {**mine, "recurring_run_id": "theirs", "description": "by hand"}
    server.store.add("schedule", stranger, name="nightly")
    with pytest.raises(ClusterError, match="theirs"):
        make(HOURLY)
    assert len(server.schedules()) == 2


@pytest.mark.parametrize("what", ["pipelines$", "upload_version", "experiments", "recurringruns$"])
@pytest.mark.parametrize("fault", ["taken", "500 after", "stall after", "429"])
def test_whatever_becomes_of_a_request_there_is_one_of_each(
    what: str, fault: str, server: KfpServer, make: Make
) -> None:
    server.faults.planned = [(f"POST .*{what}", fault)]
    make()
    assert server.faults.planned == [], "the fault was not met"
    for kind in ("pipeline", "version", "experiment", "schedule"):
        assert len(server.store.rows(kind)) == 1
