"""Pod Security on Kubeflow's own terms: `baseline` is enforced, and `restricted` warned of."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.cluster.cluster import PAUSE, Cluster
from tests.cluster.manifests import OVERLAYS, WATCH
from tests.cluster.packages import RUNTIMES, TARGETS, default_tasks
from tests.conformance.kfp_pods import Pod, pod

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]


def _warnings(cluster: Cluster, namespace: str, made: Pod) -> list[str]:
    api = cluster.api()
    api.create(f"/api/v1/namespaces/{namespace}/pods", made, dry=True)
    return api.warnings


@pytest.mark.parametrize("files", RUNTIMES.values(), ids=RUNTIMES)
@pytest.mark.parametrize("target", TARGETS)
def test_no_pod_of_the_package_gives_cause_for_a_warning(
    cluster: Cluster, namespace: str, target: str, files: Sequence[Path]
) -> None:
    wanted = default_tasks(target, files)
    warnings = {
        warning
        for item in wanted
        for warning in _warnings(cluster, namespace, pod(item, item.name))
    }
    assert wanted
    assert not warnings


def test_a_pod_that_is_not_held_to_the_standard_is_warned_of(
    cluster: Cluster, namespace: str
) -> None:
    lax = {"metadata": {"name": "lax"}, "spec": {"containers": [{"name": "a", "image": PAUSE}]}}
    (warning,) = _warnings(cluster, namespace, lax)
    assert "restricted" in warning
    assert "runAsNonRoot" in warning


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_watch_is_let_in_where_restricted_is_enforced(
    cluster: Cluster, overlay: str, applied: dict[str, list[Pod]]
) -> None:
    (namespace,) = (item for item in applied[overlay] if item["kind"] == "Namespace")
    label = "pod-security.kubernetes.io/enforce"
    assert namespace["metadata"]["labels"][label] == "restricted"
    (job,) = (item for item in applied[overlay] if item["kind"] == "CronJob")
    template = job["spec"]["jobTemplate"]["spec"]["template"]
    made = {"metadata": {**template["metadata"], "name": "watch"}, "spec": template["spec"]}
    assert _warnings(cluster, WATCH, made) == []
