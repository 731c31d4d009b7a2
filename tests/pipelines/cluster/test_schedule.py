"""One recurring run for one name, also where its making was cut short."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conformance.kfp_server import KfpServer

from paring.errors import ClusterError
from paring_pipelines.cluster.client import Kubeflow
from paring_pipelines.cluster.package import Package, read_package
from paring_pipelines.cluster.schedule import Scheduled, Timing, schedule
from paring_pipelines.cluster.submit import Plan

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
        return schedule(kubeflow, "nightly", Plan(package), timing, "gs://b/m", "gs://b/e")

    return call


def _enabled(server: KfpServer) -> list[str]:
    return [
        one["trigger"]["cron_schedule"]["cron"]
        for one in server.schedules()
        if one["status"] == "ENABLED"
    ]


def test_it_starts_a_version_of_a_pipeline_at_its_times(server: KfpServer, make: Make) -> None:
    done = make(HOURLY)
    (one,) = server.schedules()
    assert done.new
    assert one["trigger"] == {"cron_schedule": {"cron": "0 0 * * * *"}}
    assert (one["no_catchup"], one["max_concurrency"]) == (False, "2")
    assert one["runtime_config"]["parameters"] == {
        "model_uri": "gs://b/m",
        "examples_uri": "gs://b/e",
        "source_digest": "[[ScheduledTime]]",
    }
    (version,) = server.store.rows("version")
    reference = one["pipeline_version_reference"]
    assert reference["pipeline_version_id"] == version["pipeline_version_id"]
    assert version["name"] == done.version


def test_the_same_again_changes_nothing(server: KfpServer, make: Make) -> None:
    first, again = make(), make()
    assert (first.new, again.new, again.replaced) == (True, False, 0)
    assert first.schedule.id == again.schedule.id
    assert len(server.store.rows("version")) == len(server.store.rows("pipeline")) == 1


def test_other_times_replace_it(server: KfpServer, make: Make) -> None:
    make()
    done = make(HOURLY)
    assert (done.new, done.replaced) == (True, 1)
    assert _enabled(server) == ["0 0 * * * *"]
    assert len(server.schedules()) == 1
    assert len(server.store.rows("version")) == 1


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
    changes = [one for one in server.requests if not one.startswith("GET")]
    kinds = ["DELETE" if one.startswith("DELETE") else one.rpartition(":")[2] for one in changes]
    assert kinds == ["POST /apis/v2beta1/recurringruns", "disable", "DELETE"]


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
