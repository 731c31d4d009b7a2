"""Every pod of the compiled package is placed where the files say, by the real scheduler.

The machines are objects only: as many for each pool as it has pods, with the labels and
taints of the pool and the capacity of the machines that the docs name for it. Nothing runs
on them; what the scheduler does with pods is the same.
"""

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.api import wait
from tests.cluster.cluster import Cluster
from tests.cluster.packages import PLAIN, RUNTIMES, TARGETS, default_tasks, step_of
from tests.conformance.kfp_pods import pod, shown
from tests.conformance.kfp_runner import Task

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]

# Keeps all pods away that are not the test's own.
_TAINT = {"key": "paring.test/object-only", "value": "true", "effect": "NoSchedule"}

# The steps whose figures count only where nothing runs beside them.
MEASURING = ("benchmark", "optimize_savedmodel", "tune_batch")


class Runtime:
    """Runtime files, read independently of the compiler: pools, and the pool of each task."""

    def __init__(self, files: Sequence[Path], target: str) -> None:
        read = [tomllib.loads(item.read_text()) for item in files]
        self.pools: dict[str, dict[str, Any]] = {}
        rules: list[Mapping[str, Any]] = []
        late: list[Mapping[str, Any]] = []
        for item in read:
            for name, pool in item.get("pools", {}).items():
                self.pools[name] = self.pools.get(name, {}) | pool
            rules += [item.get("defaults", {}), *item.get("place", [])]
            own = item.get("targets", {}).get(target, {})
            late += [own.get("defaults", {}), *own.get("place", [])]
        self._rules = [*rules, *late]

    def pool_of(self, task: Task) -> str:
        """Return the pool of the last rule that matches this task and has a pool."""
        said = [
            rule["pool"]
            for rule in self._rules
            if "pool" in rule
            and fnmatchcase(step_of(task), rule.get("step", "*"))
            and fnmatchcase(task.name, rule.get("node", "*").replace("_", "-"))
        ]
        return str(said[-1])


def _capacity(name: str, pool: Mapping[str, Any]) -> dict[str, str]:
    """Return the capacity of a machine of the pool, as docs/operations.md describes it."""
    capacity = {"cpu": "8", "memory": "32Gi", "pods": "110", "ephemeral-storage": "100Gi"}
    if "machine_cpu" in pool:
        capacity["cpu"] = str(pool["machine_cpu"])
    if "resource" in pool:
        width, _, height = pool.get("topology", "1x1").partition("x")
        chips = int(width) * int(height)
        capacity[pool["resource"]] = str(pool.get("machine_accelerators", chips))
    if pool.get("resource") == "google.com/tpu":
        capacity |= {"cpu": "112", "memory": "192Gi"}
    return capacity


@dataclass
class Machines:
    """Machines that are objects only, for the pods of one namespace."""

    cluster: Cluster
    namespace: str

    def add(self, pool: str, number: int, settings: Mapping[str, Any]) -> None:
        # Of its own name: the scheduler remembers machines for a while.
        name = f"{pool}-{number}-{self.namespace}"
        taints = [
            {"key": item["key"], "value": item.get("value", "present"), "effect": item["effect"]}
            for item in settings.get("tolerations", [])
        ]
        api = self.cluster.api()
        api.create(
            "/api/v1/nodes",
            {
                "metadata": {
                    "name": name,
                    "labels": {**settings.get("labels", {}), "paring.test/pool": pool},
                },
                "spec": {"taints": [*taints, _TAINT]},
            },
        )
        capacity = _capacity(pool, settings)
        ready = {"type": "Ready", "status": "True", "reason": "Test", "message": "an object"}
        api.merge(
            f"/api/v1/nodes/{name}/status",
            {"status": {"capacity": capacity, "allocatable": capacity, "conditions": [ready]}},
        )

    def wait_ready(self) -> None:
        """Wait until the controller has removed the taint of machines that are not ready."""

        def ready() -> bool:
            keys = [taint["key"] for node in self._nodes() for taint in node["spec"]["taints"]]
            return not any(key.startswith("node.kubernetes.io/") for key in keys)

        wait("the machines to be ready", ready)

    def _nodes(self) -> list[dict[str, Any]]:
        return self.cluster.api().items("/api/v1/nodes?labelSelector=paring.test/pool")

    def pools(self) -> dict[str, str]:
        """Return the pool of each machine."""
        nodes = self._nodes()
        return {
            item["metadata"]["name"]: item["metadata"]["labels"]["paring.test/pool"]
            for item in nodes
        }

    def remove(self) -> None:
        # Nobody there would say that a pod has ended.
        self.cluster.api().delete(f"/api/v1/namespaces/{self.namespace}/pods", grace_seconds=0)
        self.cluster.api().delete("/api/v1/nodes?labelSelector=paring.test/pool")


@pytest.fixture
def machines(cluster: Cluster, namespace: str) -> Iterator[Machines]:
    made = Machines(cluster, namespace)
    yield made
    made.remove()


def _create(cluster: Cluster, namespace: str, task: Task) -> None:
    made = pod(task, task.name)
    made["spec"]["tolerations"].append({"key": _TAINT["key"], "operator": "Exists"})
    cluster.api().create(f"/api/v1/namespaces/{namespace}/pods", made)


def _scheduled(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    """Wait until the scheduler has decided on each pod, and return the pods."""
    pods = f"/api/v1/namespaces/{namespace}/pods"

    def looked_at() -> bool:
        return all(item["status"].get("conditions") for item in cluster.api().items(pods))

    wait("the scheduler", looked_at)
    return cluster.api().items(pods)


def _requests(pod: Mapping[str, Any], resource: str) -> bool:
    """Return whether a container of the pod asks for some of a resource."""
    containers = pod["spec"]["containers"]
    return any(resource in item.get("resources", {}).get("limits", {}) for item in containers)


@pytest.mark.parametrize("files", RUNTIMES.values(), ids=RUNTIMES)
@pytest.mark.parametrize("target", TARGETS)
def test_every_pod_is_bound_to_the_pool_that_was_meant(
    cluster: Cluster, namespace: str, machines: Machines, target: str, files: Sequence[Path]
) -> None:
    runtime = Runtime(files, target)
    wanted = default_tasks(target, files)
    meant = {item.name: runtime.pool_of(item) for item in wanted}
    # The other pools have machines too, which nothing is meant for.
    counts = Counter({**dict.fromkeys(runtime.pools, 1), **Counter(meant.values())})
    for pool, count in counts.items():
        for number in range(count):
            machines.add(pool, number, runtime.pools[pool])
    machines.wait_ready()
    for task in wanted:
        _create(cluster, namespace, task)
    pods = _scheduled(cluster, namespace)
    assert all("nodeName" in item["spec"] for item in pods), shown(pods)
    pool_of = machines.pools()
    nodes = {item["metadata"]["name"]: item["spec"]["nodeName"] for item in pods}
    assert {name: pool_of[node] for name, node in nodes.items()} == meant
    on_tpu = {item["metadata"]["name"] for item in pods if _requests(item, "google.com/tpu")}
    assert on_tpu == {name for name, pool in meant.items() if pool.startswith("tpu-")}
    assert bool(on_tpu) == (target == "tpu")
    measuring = Counter(nodes[item.name] for item in wanted if step_of(item) in MEASURING)
    assert measuring
    shared = [node for node, count in measuring.items() if count > 1]
    assert not shared, f"{shared} measure two candidates at once:\n{shown(pods)}"


@pytest.mark.parametrize("files", RUNTIMES.values(), ids=RUNTIMES)
@pytest.mark.parametrize("target", TARGETS)
def test_a_machine_takes_one_measuring_pod_and_the_others_wait(
    cluster: Cluster, namespace: str, machines: Machines, target: str, files: Sequence[Path]
) -> None:
    runtime = Runtime(files, target)
    measuring = [item for item in default_tasks(target, files) if step_of(item) in MEASURING]
    pools = {runtime.pool_of(item) for item in measuring}
    for pool in pools:
        machines.add(pool, 0, runtime.pools[pool])
    machines.wait_ready()
    for task in measuring:
        _create(cluster, namespace, task)
    pods = _scheduled(cluster, namespace)
    placed = [item for item in pods if "nodeName" in item["spec"]]
    assert len(measuring) > len(pools)
    assert len(placed) == len(pools), shown(pods)


def test_a_pod_whose_pool_has_no_machine_stays_pending(
    cluster: Cluster, namespace: str, machines: Machines
) -> None:
    runtime = Runtime(PLAIN, "cpu-server")
    wanted = default_tasks("cpu-server", PLAIN)
    (task,) = (item for item in wanted if item.name == "benchmark-source")
    machines.add("general", 0, runtime.pools["general"])
    machines.wait_ready()
    _create(cluster, namespace, task)
    (only,) = _scheduled(cluster, namespace)
    assert "nodeName" not in only["spec"]
    assert only["status"]["phase"] == "Pending"
