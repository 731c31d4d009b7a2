"""The pods that the tests make of a package have what its placements ask for."""

import dataclasses
from pathlib import Path

import pytest
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from tests.conformance.kfp_pods import Pod, pod, tasks

from paring.artifacts import Model
from paring.steps.import_model import import_model
from paring_pipelines.kubeflow.compile import compile_dag
from paring_pipelines.kubeflow.placement import Placement, Retry
from paring_pipelines.kubeflow.placement_file import Toleration
from paring_pipelines.pipeline.dag import Dag


def _compiled(folder: Path, placement: Placement) -> Path:
    dag = Dag("small", {"model": Model})
    dag.add("import_model", import_model, {"original": dag.source("model")})
    file = folder / "pipeline.yaml"
    compile_dag(dag, file, image="paring:test", placements={"import_model": placement})
    return file


def _pod(folder: Path, placement: Placement) -> Pod:
    (task,) = tasks(_compiled(folder, placement))
    return pod(task, "model-0", service_account="runner")


def test_a_placement_becomes_the_pods_resources_and_machine(tmp_path: Path) -> None:
    made = _pod(
        tmp_path,
        Placement(
            cpu="500m",
            cpu_limit="2",
            memory="1Gi",
            memory_limit="2Gi",
            accelerator="nvidia-l4",
            resource="nvidia.com/gpu",
            accelerator_count=2,
            labels={"pool": "a"},
            tolerations=(Toleration(key="x", value="y", effect="NoSchedule"),),
            shm="1Gi",
            timeout_seconds=60,
        ),
    )
    spec = made["spec"]
    (container,) = spec["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "500m", "memory": "1Gi"},
        "limits": {"cpu": "2", "memory": "2Gi", "nvidia.com/gpu": "2"},
    }
    assert spec["nodeSelector"] == {"pool": "a"}
    assert spec["tolerations"] == [
        {"key": "x", "operator": "Equal", "value": "y", "effect": "NoSchedule"}
    ]
    assert spec["activeDeadlineSeconds"] == 60
    shared = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
    assert shared in spec["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert (spec["serviceAccountName"], spec["restartPolicy"]) == ("runner", "Never")


def test_a_task_has_its_command_image_and_retries(tmp_path: Path) -> None:
    (task,) = tasks(_compiled(tmp_path, Placement(retry=Retry(3))))
    assert task.retries == 3
    (container,) = pod(task, "model-0")["spec"]["containers"]
    assert container["command"][:3] == ["paring", "step", "import_model"]
    assert container["image"] == "paring:test"
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_what_is_not_translated_into_a_pod_is_refused(tmp_path: Path) -> None:
    (task,) = tasks(_compiled(tmp_path, Placement()))
    config = KubernetesExecutorConfig()
    config.generic_ephemeral_volume.add().volume_name = "scratch"
    with pytest.raises(ValueError, match="genericEphemeralVolume"):
        pod(dataclasses.replace(task, kubernetes=config), "model-0")
