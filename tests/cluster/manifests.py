"""Manifests below k8s/, applied to a cluster."""

import json
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.api import Resource, condition, wait
from tests.cluster.cluster import Cluster
from tests.cluster.custom_resources import definitions

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = tuple(sorted(item.name for item in (K8S / "overlays").iterdir()))

RUNS = {"argo-events": "kubeflow", "bare": "kubeflow", "gke": "paring-runs", "kind": "kubeflow"}
"""Namespace of each overlay's runs, which exists before: Kubeflow's, or a profile's."""

WATCH = "paring"
"""Namespace that the overlays create."""


def prepare_cluster(cluster: Cluster) -> None:
    """Create the objects that exist before our manifests: namespaces and definitions."""
    api = cluster.api()
    # As Kubeflow Pipelines 2.17 labels its own.
    labels = {
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    for name in sorted(set(RUNS.values())):
        api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    kinds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    for item in definitions():
        name = api.create(kinds, item)["metadata"]["name"]

        def established(path: str = f"{kinds}/{name}") -> bool:
            return condition(api.get(path), "Established") == "True"

        wait(f"the definition of {name}", established)


def apply(cluster: Cluster, folder: Path) -> list[Resource]:
    """Apply a folder as docs/operations.md says, strictly, and return the stored objects.

    Raises:
        RuntimeError: The server refused an object, or gave a warning.
    """
    done = cluster.kubectl(
        "apply", "--server-side", "--validate=strict", "--output=json", "-k", str(folder)
    )
    if done.stderr:
        raise RuntimeError(f"applying {folder} gave warnings:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return list(answer["items"])


def built(cluster: Cluster, folder: Path) -> list[Resource]:
    """Return the objects that kustomize builds from a folder."""
    return list(yaml.safe_load_all(cluster.kubectl("kustomize", str(folder)).stdout))
