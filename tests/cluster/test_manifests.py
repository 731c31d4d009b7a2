"""The manifests below k8s/, applied to a real API server that knows their fields."""

import copy
from typing import Any

import pytest
import yaml
from tests.cluster.api import RefusedError, Resource
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import K8S, OVERLAYS, RUNS, WATCH, apply, built

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300, func_only=True)]

Applied = dict[str, list[Resource]]


def _key(resource: Resource) -> tuple[str, str, str]:
    metadata = resource["metadata"]
    return (resource["kind"], metadata.get("namespace", ""), metadata["name"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_of_an_overlay_is_taken_strictly_and_without_a_warning(
    cluster: Cluster, applied: Applied, overlay: str
) -> None:
    made = [_key(item) for item in applied[overlay]]
    assert sorted(made) == sorted(_key(item) for item in built(cluster, K8S / "overlays" / overlay))
    assert {item[1] for item in made} == {"", WATCH, RUNS[overlay]}
    assert all(item["metadata"]["uid"] for item in applied[overlay])


def test_an_overlay_that_is_applied_again_changes_nothing(
    cluster: Cluster, applied: Applied
) -> None:
    overlay = OVERLAYS[-1]
    again = apply(cluster, K8S / "overlays" / overlay)
    assert {_key(item): _content(item) for item in again} == {
        _key(item): _content(item) for item in applied[overlay]
    }


def _content(resource: Resource) -> Resource:
    """Return the parts of an object that the server does not write."""
    metadata = {key: resource["metadata"].get(key) for key in ("annotations", "labels", "uid")}
    return {**resource, "metadata": metadata, "status": None}


def test_the_pipeline_as_resources_is_taken_strictly(prepared: Cluster) -> None:
    made = apply(prepared, K8S / "gitops")
    assert sorted(item["kind"] for item in made) == ["Pipeline", "PipelineVersion"]
    (version,) = (item for item in made if item["kind"] == "PipelineVersion")
    committed = list(yaml.safe_load_all((K8S / "gitops" / "pipeline.yaml").read_text()))
    # Nothing of it was pruned by the server.
    assert version["spec"] == committed[1]["spec"]


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("CronJob", "concurrencyPolicies"),
        ("NetworkPolicy", "egres"),
        ("Sensor", "dependencys"),
        ("EventSource", "minios"),
    ],
)
def test_a_field_that_does_not_exist_is_refused(
    cluster: Cluster, applied: Applied, kind: str, field: str
) -> None:
    (resource,) = (item for item in applied["argo-events"] if item["kind"] == kind)
    changed: dict[str, Any] = copy.deepcopy(resource)
    changed["spec"][field] = {}
    changed["metadata"] = {"name": "odd", "namespace": WATCH}
    path = f"/apis/{resource['apiVersion']}/namespaces/{WATCH}/{_plural(kind)}"
    with pytest.raises(RefusedError, match=f'unknown field "spec.{field}"'):
        cluster.api().create(path, changed)


def _plural(kind: str) -> str:
    return {"NetworkPolicy": "networkpolicies"}.get(kind, f"{kind.lower()}s")
