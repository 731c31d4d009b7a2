"""The quota of the runs' namespace: it holds back what is too much, and nothing that is over."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.api import RefusedError, Resource, wait
from tests.cluster.cluster import PAUSE, Cluster
from tests.cluster.manifests import RUNS
from tests.cluster.packages import GKE, TARGETS, default_tasks
from tests.conformance.kfp_pods import pod

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(300, func_only=True),
    pytest.mark.usefixtures("applied"),
]

# The overlay whose runs have the quota.
NAMESPACE = RUNS["gke"]
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"

OF_A_RUN = 66
"""Pods that a run of 32 tasks leaves: a driver's and a step's for each task, and two more."""


@pytest.fixture(autouse=True)
def tidied(cluster: Cluster) -> Iterator[None]:
    yield
    api = cluster.api()
    api.delete(PODS, grace_seconds=0)

    def unused() -> bool:
        used = _quota(cluster)["status"]["used"]
        return bool(used["requests.cpu"] == used["requests.memory"] == "0")

    # The controller counts what is gone some time later.
    wait("the quota to be free again", unused)


def _quota(cluster: Cluster) -> Resource:
    (quota,) = cluster.api().items(f"/api/v1/namespaces/{NAMESPACE}/resourcequotas")
    return quota


def _pod(name: str, **requests: str) -> Resource:
    container: Resource = {"name": "main", "image": PAUSE}
    if requests:
        container["resources"] = {"requests": requests, "limits": requests}
    # Nobody places it, so that it stays as it is.
    spec = {"containers": [container], "schedulerName": "nobody"}
    return {"metadata": {"name": name}, "spec": spec}


def test_two_runs_that_are_over_leave_room_for_a_third(cluster: Cluster) -> None:
    api = cluster.api()
    for number in range(2 * OF_A_RUN):
        api.create(PODS, _pod(f"over-{number}"))
        api.merge(f"{PODS}/over-{number}/status", {"status": {"phase": "Succeeded"}})
    assert len(api.items(f"{PODS}?fieldSelector=status.phase=Succeeded")) == 2 * OF_A_RUN
    for number in range(OF_A_RUN):
        api.create(PODS, _pod(f"third-{number}"))


def test_a_pod_that_names_no_resources_gets_what_the_quota_counts(cluster: Cluster) -> None:
    quota = _quota(cluster)
    made = cluster.api().create(PODS, _pod("plain"))
    resources: dict[str, Any] = made["spec"]["containers"][0]["resources"]
    every = {"requests.cpu", "requests.memory", "requests.ephemeral-storage"}
    counted = {item.partition(".")[2] for item in every & set(quota["spec"]["hard"])}
    assert set(resources["requests"]) == counted


def test_more_cores_than_the_quota_has_are_refused(cluster: Cluster) -> None:
    api = cluster.api()
    cores = _quota(cluster)["spec"]["hard"]["requests.cpu"]
    api.create(PODS, _pod("all", cpu=cores, memory="1Gi"))
    with pytest.raises(RefusedError, match="exceeded quota") as refused:
        api.create(PODS, _pod("one-more", cpu="1", memory="1Gi"))
    assert refused.value.code == 403


@pytest.mark.parametrize("target", TARGETS)
def test_every_pod_of_the_package_is_let_in(cluster: Cluster, target: str) -> None:
    wanted = default_tasks(target, GKE)
    for task in wanted:
        made = pod(task, task.name, service_account="paring-runner")
        cluster.api().create(PODS, made, dry=True)
    assert wanted
