"""Each finished output of training gets one run."""

import os
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.conformance.kfp_server import KfpServer
from tests.pipelines.cluster.conftest import TIMEOUT

from paring.errors import ClusterError, ParameterError, ParingError
from paring_pipelines.cluster.client import Kubeflow
from paring_pipelines.cluster.connection import Connection
from paring_pipelines.cluster.lag import WatchMetrics
from paring_pipelines.cluster.package import Package
from paring_pipelines.cluster.submit import Plan
from paring_pipelines.cluster.watch import Watched, Watcher

LEASE = 4.5 * TIMEOUT


class Scene:
    """A prefix with outputs, and watchers of it."""

    def __init__(self, folder: Path, package: Package, kubeflow: Kubeflow) -> None:
        self.prefix = folder / "pushed"
        self.examples = folder / "examples.npz"
        self.examples.write_bytes(b"arrays")
        self.state = folder / "claims"
        self.metrics = WatchMetrics()
        self.told: list[tuple[str, dict[str, Any]]] = []
        self._plan = Plan(package)
        self._kubeflow = kubeflow

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
        return Watcher(kubeflow or self._kubeflow, self._plan, watched, self.metrics, self._tell)

    def look(self) -> ParingError | None:
        return self.watcher().look()

    def figures(self) -> dict[str, float]:
        """What Prometheus would read, by name."""
        return {
            sample.name: sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if not sample.labels
        }

    def _tell(self, what: str, **facts: Any) -> None:
        self.told.append((what, facts))


@pytest.fixture
def scene(tmp_path: Path, package: Package, kubeflow: Kubeflow) -> Scene:
    return Scene(tmp_path, package, kubeflow)


def _models(server: KfpServer) -> list[str]:
    return [one["runtime_config"]["parameters"]["model_uri"] for one in server.runs()]


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
    lags = [facts["lag_seconds"] for what, facts in scene.told if what == "submitted"]
    assert [round(one, -1) for one in lags] == [100.0, 70.0]
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
    assert scene.look() is None
    assert len(server.runs()) == 1


def test_a_run_whose_watcher_was_killed_before_it_said_so_is_found(
    server: KfpServer, scene: Scene
) -> None:
    scene.push(1)
    scene.look()
    for file in scene.state.glob("*/*"):
        file.unlink()
    scene.told.clear()
    scene.look()
    assert len(server.runs()) == 1
    assert [what for what, _ in scene.told] == ["was submitted before", "looked"]


def test_many_watchers_on_one_prefix_submit_each_output_once(
    server: KfpServer, scene: Scene
) -> None:
    outputs = [scene.push(version) for version in range(12)]
    patient = [Kubeflow(Connection(server.url, timeout=2.0)) for _ in range(4)]
    watchers = [scene.watcher(one, lease=60.0) for one in patient]
    threads = [threading.Thread(target=one.look) for one in watchers]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    for one in watchers:
        one.look()
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
