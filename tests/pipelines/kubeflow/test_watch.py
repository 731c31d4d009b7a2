"""Each finished output of training gets one run."""

import json
import os
import signal
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kfp_server_api import RunServiceApi
from prometheus_client.parser import text_string_to_metric_families
from tests.conformance.kfp_server import KfpServer
from tests.pipelines.kubeflow.conftest import TIMEOUT

from paring.errors import ClusterError, ParameterError, ParingError
from paring_pipelines.kubeflow.client import Kubeflow
from paring_pipelines.kubeflow.connection import Connection
from paring_pipelines.kubeflow.leases import Claims
from paring_pipelines.kubeflow.metrics import WatchMetrics
from paring_pipelines.kubeflow.outputs import find_outputs
from paring_pipelines.kubeflow.package import Package
from paring_pipelines.kubeflow.sources import source_digest
from paring_pipelines.kubeflow.submit import Plan
from paring_pipelines.kubeflow.watch import Watched, Watcher

LEASE = 4.5 * TIMEOUT


class Scene:
    """A prefix with outputs, and watchers of it."""

    def __init__(self, folder: Path, package: Package, kubeflow: Kubeflow) -> None:
        self.prefix = folder / "pushed"
        self.examples = folder / "examples.npz"
        self.examples.write_bytes(b"arrays")
        self.state = folder / "claims"
        self.metrics = WatchMetrics()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.plan = Plan(package)
        self._kubeflow = kubeflow

    def fork(self, at: tuple[type, str], *, send: int, first: bool = False) -> int:
        """A watcher in a process of its own that gets a signal at a call; its process id.

        Args:
            at: A class and the name of its method; before it does anything.
            send: The signal.
            first: Whether the method does its work before the signal is sent.
        """
        child = os.fork()
        if child:
            return child
        with suppress(BaseException):
            work = getattr(*at)

            def stopped(*arguments: Any, **named: Any) -> Any:
                setattr(*at, work)
                done = work(*arguments, **named) if first else None
                os.kill(os.getpid(), send)
                return done if first else work(*arguments, **named)

            setattr(*at, stopped)
            self.events.clear()
            client = Kubeflow(Connection(self._kubeflow.settings.host, timeout=TIMEOUT))
            problem = self.watcher(client).look()
            result = [*self.events, ("problem", {"text": str(problem or "")})]
            (self.state.parent / f"events-{os.getpid()}").write_text(json.dumps(result))
        os._exit(0)

    def ended(self, child: int) -> list[tuple[str, dict[str, Any]]]:
        """Return the events of a forked watcher, and a last entry with its problem."""
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        result = json.loads((self.state.parent / f"events-{child}").read_text())
        return [(what, facts) for what, facts in result]

    def look_until_nothing_waits(self) -> None:
        # The lock in Kubeflow that a killed watcher held may last longer than its claim.
        end = time.monotonic() + 20 * LEASE
        self.look()
        while self.figures()["paring_watch_waiting_outputs"] and time.monotonic() < end:
            time.sleep(TIMEOUT)
            self.look()

    def push(self, version: int, age: float = 100.0) -> str:
        """A finished version, as TFX's Pusher leaves it."""
        file = self.prefix / str(version) / "saved_model.pb"
        file.parent.mkdir(parents=True)
        file.write_text(str(version))
        then = time.time() - age
        os.utime(file, (then, then))
        return str(file.parent)

    def watcher(self, kubeflow: Kubeflow | None = None, lease: float = LEASE) -> Watcher:
        watched = Watched(
            str(self.prefix), str(self.examples), str(self.state), settle=60.0, lease=lease
        )
        return Watcher(kubeflow or self._kubeflow, self.plan, watched, self.metrics, self._tell)

    def look(self) -> ParingError | None:
        return self.watcher().look()

    def figures(self) -> dict[str, float]:
        """Return the values that Prometheus would read, by name."""
        return {
            sample.name: sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if not sample.labels
        }

    def _tell(self, what: str, **facts: Any) -> None:
        self.events.append((what, facts))


@pytest.fixture
def scene(tmp_path: Path, package: Package, kubeflow: Kubeflow) -> Scene:
    return Scene(tmp_path, package, kubeflow)


def _models(server: KfpServer) -> list[str]:
    return [run["runtime_config"]["parameters"]["model_uri"] for run in server.runs()]


def test_each_output_gets_one_run_however_often_one_looks(server: KfpServer, scene: Scene) -> None:
    first = [scene.push(1, age=200.0), scene.push(2)]
    assert scene.look() is None
    assert scene.look() is None
    third = scene.push(3)
    assert scene.look() is None
    assert _models(server) == [*first, third]


def test_the_lag_is_told_and_measured(scene: Scene) -> None:
    scene.push(1, age=100.0)
    scene.push(2, age=70.0)
    scene.look()
    lags = [facts["lag_seconds"] for what, facts in scene.events if what == "submitted"]
    assert [round(lag, -1) for lag in lags] == [100.0, 70.0]
    figures = scene.figures()
    assert figures["paring_watch_submissions_total"] == 2
    assert figures["paring_watch_lag_seconds_count"] == 2
    assert figures["paring_watch_lag_seconds_sum"] == pytest.approx(sum(lags), abs=0.01)
    assert figures["paring_watch_finished_outputs"] == 2
    assert figures["paring_watch_waiting_outputs"] == 0
    assert figures["paring_watch_oldest_waiting_seconds"] == 0


def test_while_kubeflow_is_away_the_oldest_waits_and_is_told(
    server: KfpServer, scene: Scene
) -> None:
    server.faults.rates = {"503": 1.0}
    for version in range(5):
        scene.push(version)
    assert isinstance(scene.look(), ClusterError)
    figures = scene.figures()
    assert figures["paring_watch_failures_total"] == 3, "three in a row are enough"
    assert figures["paring_watch_waiting_outputs"] == 5
    assert figures["paring_watch_oldest_waiting_seconds"] >= 100
    server.faults.rates = {}
    assert scene.look() is None
    assert len(server.runs()) == 5


def test_an_output_that_is_refused_does_not_keep_the_others(
    server: KfpServer, scene: Scene
) -> None:
    for version in range(3):
        scene.push(version, age=100.0 - version)
    scene.examples.unlink()
    assert isinstance(scene.look(), ParingError)
    assert server.runs() == []
    scene.examples.write_bytes(b"arrays")
    assert scene.look() is None
    assert len(server.runs()) == 3


def test_what_nobody_answered_is_left_until_its_claim_has_run_out(
    server: KfpServer, scene: Scene
) -> None:
    scene.push(1)
    server.faults.planned = [("POST .*/runs$", "dropped")] * 6
    lease = 14 * TIMEOUT
    end = time.monotonic() + lease
    assert isinstance(scene.watcher(lease=lease).look(), ClusterError)
    server.faults.planned = []
    assert scene.look() is None
    assert server.runs() == [], "it is still claimed"
    time.sleep(end - time.monotonic())
    scene.look_until_nothing_waits()
    assert len(server.runs()) == 1


@pytest.mark.parametrize("content", [b'{"run_id": "r', b"null"])
def test_a_run_whose_creation_is_not_answered_legibly_is_recorded_by_its_id(
    content: bytes, server: KfpServer, scene: Scene
) -> None:
    scene.push(1)
    server.contents = {"POST .*/runs$": content}
    scene.look_until_nothing_waits()
    (run,) = server.runs()
    result = [
        facts for what, facts in scene.events if what in ("submitted", "was submitted before")
    ]
    assert [(item["run"], item["name"]) for item in result] == [
        (run["run_id"], run["display_name"])
    ]
    (record,) = scene.state.glob("*/run")
    assert json.loads(record.read_text())["run"] == run["run_id"]


def test_a_run_whose_watcher_was_killed_before_it_said_so_is_found(
    server: KfpServer, scene: Scene
) -> None:
    scene.push(1)
    scene.look()
    for file in scene.state.glob("*/*"):
        file.unlink()
    scene.events.clear()
    scene.look()
    assert len(server.runs()) == 1
    assert [what for what, _ in scene.events] == ["was submitted before", "looked"]


@pytest.mark.parametrize("changed", ["examples", "package", "both"])
def test_a_run_that_was_started_is_found_when_its_name_has_changed_since(
    changed: str, server: KfpServer, scene: Scene, package: Package
) -> None:
    scene.push(1)
    os.waitpid(scene.fork((Claims, "finish"), send=signal.SIGKILL), 0)
    (run,) = server.runs()
    if changed != "package":
        scene.examples.write_bytes(b"others")
    if changed != "examples":
        scene.plan = Plan(package, pipeline_root="s3://elsewhere")
    time.sleep(LEASE)
    scene.look_until_nothing_waits()
    assert [item["run_id"] for item in server.runs()] == [run["run_id"]]
    (result,) = [facts for what, facts in scene.events if what == "was submitted before"]
    assert (result["run"], result["name"]) == (run["run_id"], run["display_name"])


def test_a_claim_with_odd_content_is_the_problem_of_its_output_alone(
    server: KfpServer, scene: Scene
) -> None:
    outputs = [scene.push(version, age=100.0 - version) for version in range(3)]
    result = find_outputs(str(scene.prefix), marker="", settle=0.0, now=time.time())
    claim = scene.state / result.finished[1].key / "claim-1"
    claim.parent.mkdir(parents=True)
    claim.write_text('{"until": "soon"}')
    problem = scene.look()
    assert str(claim) in str(problem)
    assert _models(server) == [outputs[0], outputs[2]]
    (answer,) = [facts for what, facts in scene.events if what == "failed"]
    assert answer["output"] == outputs[1]
    assert "delete the file" in answer["error"]
    assert scene.figures()["paring_watch_failures_total"] == 1
    claim.unlink()
    assert scene.look() is None
    assert sorted(_models(server)) == outputs


def test_a_watcher_that_was_stopped_for_longer_than_its_lease_starts_nothing(
    server: KfpServer, scene: Scene
) -> None:
    scene.push(1)
    child = scene.fork((Kubeflow, "runs_named"), send=signal.SIGSTOP, first=True)
    os.waitpid(child, os.WUNTRACED)
    time.sleep(LEASE)
    os.kill(child, signal.SIGCONT)
    *_, (_, problem) = scene.ended(child)
    assert "about to expire" in problem["text"]
    assert server.runs() == []
    scene.look_until_nothing_waits()
    assert len(server.runs()) == 1


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_of_a_stopped_watcher_and_the_one_that_took_over_one_run_stays(
    first: bool, changed: bool, server: KfpServer, scene: Scene, package: Package
) -> None:
    """Stopped between its last look at the lease and the request, or right after it."""
    scene.push(1)
    at = (RunServiceApi, "run_service_create_run")
    child = scene.fork(at, send=signal.SIGSTOP, first=first)
    os.waitpid(child, os.WUNTRACED)
    time.sleep(LEASE)
    if changed:
        scene.plan = Plan(package, pipeline_root="s3://elsewhere")
    scene.look_until_nothing_waits()
    (run,) = server.runs()
    os.kill(child, signal.SIGCONT)
    result = [*scene.events, *scene.ended(child)]
    assert [item["run_id"] for item in server.runs()] == [run["run_id"]]
    assert {facts["run"] for _, facts in result if "run" in facts} == {run["run_id"]}
    assert [what for what, _ in result].count("submitted") == 1


def test_a_watcher_that_is_submitting_waits_for_nobody_who_does_so_by_hand(
    server: KfpServer, scene: Scene, kubeflow: Kubeflow
) -> None:
    output = scene.push(1)
    digest = source_digest(output, str(scene.examples))
    with kubeflow.locked(scene.plan.run_name(digest)):
        assert scene.look() is None
    assert server.runs() == []
    assert scene.figures()["paring_watch_waiting_outputs"] == 1
    assert scene.look() is None
    assert len(server.runs()) == 1


def test_many_watchers_on_one_prefix_submit_each_output_once(
    server: KfpServer, scene: Scene
) -> None:
    outputs = [scene.push(version) for version in range(12)]
    patient = [Kubeflow(Connection(server.url, timeout=2.0)) for _ in range(4)]
    watchers = [scene.watcher(item, lease=60.0) for item in patient]
    threads = [threading.Thread(target=item.look) for item in watchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for item in watchers:
        item.look()
    assert sorted(_models(server)) == sorted(outputs)
    assert server.requests.count("POST /apis/v2beta1/runs") == len(outputs)


def test_a_watcher_goes_on_when_its_claims_can_not_be_read_for_a_while(
    server: KfpServer, scene: Scene
) -> None:
    looks = 0

    def looked() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            # No folder of claims: it can't be listed, nor written to.
            scene.state.rename(scene.state.with_name("away"))
            scene.state.symlink_to(scene.state)
            scene.push(2)
        elif looks == 2:
            scene.state.unlink()
            scene.state.with_name("away").rename(scene.state)
        elif looks == 3:
            raise KeyboardInterrupt

    scene.push(1)
    with pytest.raises(KeyboardInterrupt):
        scene.watcher().go_on(0.01, looked)
    assert len(server.runs()) == 2
    assert scene.figures()["paring_watch_failures_total"] >= 1


def test_a_lease_that_a_request_could_outlast_is_refused(scene: Scene) -> None:
    with pytest.raises(ParameterError, match="--lease"):
        scene.watcher(lease=4 * TIMEOUT)


def test_claims_below_what_is_watched_are_refused(scene: Scene) -> None:
    scene.state = scene.prefix / "claims"
    with pytest.raises(ParameterError, match="--state"):
        scene.watcher()


def test_prometheus_reads_it(scene: Scene, tmp_path: Path) -> None:
    scene.push(1)
    scene.look()
    port = scene.metrics.serve(0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        served = answer.read().decode()
    scene.metrics.write(tmp_path / "metrics.prom")
    for text in (served, (tmp_path / "metrics.prom").read_text()):
        names = {family.name for family in text_string_to_metric_families(text)}
        assert {"paring_watch_lag_seconds", "paring_watch_submissions"} <= names
