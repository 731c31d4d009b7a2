"""The CronJob as pods of our image, two of them at once, with a Kubeflow that they can call."""

import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cluster import kubeflow_stand_in as stand_in
from tests.cluster.api import Resource, condition, wait
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import K8S, WATCH, apply, built
from tests.cluster.namespaces import ADDRESS
from tests.conformance.kfp_store import Store

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500, func_only=True)]

JOBS = f"/apis/batch/v1/namespaces/{WATCH}/jobs"
PODS = f"/api/v1/namespaces/{WATCH}/pods"


OVERLAY = K8S / "overlays" / "kind" / "watch"


@pytest.fixture
def settings(cluster: Cluster) -> dict[str, str]:
    """Environment that the overlay gives to `watch`."""
    maps = [item for item in built(cluster, OVERLAY) if item["kind"] == "ConfigMap"]
    (result,) = (item["data"] for item in maps if "PARING_SOURCE" in item["data"])
    return dict(result)


@pytest.fixture
def kubeflow(cluster: Cluster, settings: dict[str, str], tmp_path: Path) -> Iterator[Store]:
    """State of the Kubeflow API inside the cluster."""
    # It imports from tests/, of which pytest alone knows where it is.
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    command = [sys.executable, stand_in.__file__, str(tmp_path)]
    command += [settings["PARING_SOURCE"], settings["PARING_EXAMPLES"]]
    cluster.spawn("kubeflow", "env", f"PYTHONPATH={path}", *command)
    wait("Kubeflow's stand-in", (tmp_path / "ready").exists)
    store = Store(tmp_path / "kfp.sqlite")
    yield store
    store.close()
    cluster.kill("kubeflow")


def _overlay(folder: Path, image: str) -> Path:
    """`kind` with this image, and this Kubeflow and store, as an overlay of one's own."""
    name, _, tag = image.rpartition(":")
    base = os.path.relpath(OVERLAY, folder)
    environment = {
        "KFP_ENDPOINT": f"http://{ADDRESS}:{stand_in.API_PORT}",
        "AWS_ENDPOINT_URL": f"http://{ADDRESS}:{stand_in.STORE_PORT}",
    }
    # Outputs of training are a minute old before they count as finished, but for this.
    settle = {"op": "add", "path": "/spec/jobTemplate/spec/template/spec/containers/0/args/-"}
    patch = yaml.safe_dump([{**settle, "value": "--settle=1"}])
    kustomization: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": WATCH,
        "resources": [base],
        "images": [{"name": "localhost/paring-cpu", "newName": name, "newTag": tag}],
        "patches": [{"target": {"kind": "CronJob"}, "patch": patch}],
        "configMapGenerator": [
            {
                "name": "paring-watch",
                "behavior": "merge",
                "literals": [f"{key}={value}" for key, value in environment.items()],
            }
        ],
        "secretGenerator": [
            {
                "name": "paring-storage",
                "options": {"disableNameSuffixHash": True},
                "literals": [f"{key}={value}" for key, value in stand_in.KEYS.items()],
            }
        ],
    }
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


@pytest.mark.usefixtures("applied")
def test_two_jobs_of_watch_at_once_start_each_output_once(
    cluster: Cluster, image: str, settings: dict[str, str], kubeflow: Store, tmp_path: Path
) -> None:
    api = cluster.api()
    apply(cluster, _overlay(tmp_path / "overlay", image))
    # Those of the other overlays, which have no image here, would keep this one's waiting.
    api.delete(JOBS)

    def jobs() -> list[Resource]:
        return [item for item in api.items(JOBS) if _image(item) == image]

    wait("the schedule to start a job", jobs, 90)
    cluster.kubectl(
        "create", "job", f"--namespace={WATCH}", "--from=cronjob/paring-watch", "by-hand"
    )
    cronjob = f"/apis/batch/v1/namespaces/{WATCH}/cronjobs/paring-watch"
    api.merge(cronjob, {"spec": {"suspend": True}})

    def ended() -> bool:
        return all(
            "True" in (condition(item, "Complete"), condition(item, "Failed")) for item in jobs()
        )

    wait("both jobs", ended, 180)
    assert len(jobs()) == 2
    assert all(condition(item, "Complete") == "True" for item in jobs()), _shown(cluster)
    sources = Counter(
        item["runtime_config"]["parameters"]["model_uri"] for item in kubeflow.rows("run")
    )
    expected = {f"{settings['PARING_SOURCE']}/{item + 1}" for item in range(stand_in.OUTPUTS)}
    assert sources == dict.fromkeys(expected, 1), _shown(cluster)


def _image(job: Resource) -> str:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return str(container["image"])


def _shown(cluster: Cluster) -> str:
    """Return the logs of the pods."""
    api = cluster.api()
    names = [item["metadata"]["name"] for item in api.items(PODS)]
    return "\n".join(f"{item}:\n{api.get(f'{PODS}/{item}/log')}" for item in names)
