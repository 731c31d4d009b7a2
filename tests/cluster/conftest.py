"""Fixtures: a cluster for all tests of a session, and a namespace for each test."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.cluster.api import Resource
from tests.cluster.cluster import Cluster, prepare
from tests.cluster.manifests import K8S, OVERLAYS, apply, prepare_cluster
from tests.images.conftest import Built, Podman, cpu_image, podman

__all__ = ["cpu_image", "podman"]


@pytest.fixture(scope="session")
def binaries() -> Path:
    """Folder of the built Kubernetes and etcd; the first build takes minutes."""
    return prepare()


@pytest.fixture(scope="session")
def cluster(binaries: Path) -> Iterator[Cluster]:
    """Running cluster with a machine that is ready."""
    with Cluster(binaries) as started:
        yield started


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """Name of an empty namespace with the Pod Security labels of Kubeflow's namespace."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    labels = {
        "pod-security.kubernetes.io/enforce": "baseline",
        "pod-security.kubernetes.io/warn": "restricted",
    }
    cluster.api().create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    yield name
    cluster.api().delete(f"/api/v1/namespaces/{name}")


@pytest.fixture(scope="session")
def prepared(cluster: Cluster) -> Cluster:
    """Cluster with the objects that exist before our manifests are applied."""
    prepare_cluster(cluster)
    return cluster


@pytest.fixture(scope="session")
def applied(prepared: Cluster) -> dict[str, list[Resource]]:
    """Objects of each overlay, after all overlays were applied in turn.

    They share the objects in the namespace `paring`, which are those of the last overlay.
    Pods of its CronJob find no image.
    """
    return {overlay: apply(prepared, K8S / "overlays" / overlay) for overlay in OVERLAYS}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that need the image last; it is imported while others run."""
    items.sort(key=_needs_image)


def _needs_image(item: pytest.Item) -> bool:
    return "image" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def importing(cluster: Cluster, podman: Podman, cpu_image: Built) -> Iterator[Future[str]]:
    """Future of the name of the cpu image of this checkout on the machine."""

    def run() -> str:
        name = f"localhost/{cpu_image.name}"
        with subprocess.Popen(
            ["podman", *podman.flags, "save", "--quiet", name],
            stdout=subprocess.PIPE,
            env=podman.environment,
        ) as saving:
            if saving.stdout is None:
                raise RuntimeError("a process without its pipe")
            cluster.import_image(saving.stdout)
        if saving.returncode:
            raise RuntimeError(f"podman save ended with {saving.returncode}")
        return name

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(run)


@pytest.fixture(scope="session", autouse=True)
def import_early(request: pytest.FixtureRequest) -> None:
    """Start to import the image if a test needs it."""
    if any(map(_needs_image, request.session.items)):
        request.getfixturevalue("importing")


@pytest.fixture(scope="session")
def image(importing: Future[str]) -> str:
    """Name of the cpu image of this checkout on the cluster's machine."""
    return importing.result()


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder that the image's user may write to, of a name that no other test's has."""
    parent = tmp_path_factory.mktemp("shared")
    before = os.umask(0)
    try:
        folder = parent / parent.name
        folder.mkdir()
        yield folder
    finally:
        os.umask(before)
