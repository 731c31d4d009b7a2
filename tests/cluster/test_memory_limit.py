"""A step that needs more memory than its pod may take says so, and its pod is not killed."""

import json
from pathlib import Path
from typing import Any

import pytest
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from tests.cluster.cluster import Cluster
from tests.cluster.manifests import RUNS
from tests.cluster.pods import PodStarter
from tests.conformance.kfp_runner import Task
from tests.images.test_cpu_image import copied

from paring.artifacts import TFLiteModel

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(600, func_only=True),
    pytest.mark.usefixtures("applied"),
]

# Less than TensorFlow takes before it has done anything.
LIMIT = "300Mi"


@pytest.mark.parametrize(
    ("name", "options", "code"), [("lite", ["--tolerate"], 0), ("own", [], 19)]
)
def test_a_step_ends_before_its_pod_is_out_of_memory(
    cluster: Cluster,
    image: str,
    shared: Path,
    digits_model: Path,
    name: str,
    options: list[str],
    code: int,
) -> None:
    model, out = copied(digits_model, shared / "model"), shared / "out"
    out.mkdir()
    result = shared / "executor_output.json"
    artifact: dict[str, Any] = {"name": "converted", "uri": str(out / "converted")}
    message = {
        "inputs": {
            "parameterValues": {"quantization": "none"},
            "artifacts": {"model": {"artifacts": [{"name": "model", "uri": str(model)}]}},
        },
        "outputs": {
            "artifacts": {"converted": {"artifacts": [artifact]}},
            "outputFile": str(result),
        },
    }
    command = ["paring", "step", "convert_tflite", "--executor-input", json.dumps(message)]
    resources = {
        "resourceCpuRequest": "100m",
        "resourceCpuLimit": "2",
        "resourceMemoryRequest": LIMIT,
        "resourceMemoryLimit": LIMIT,
    }
    container = {"image": image, "resources": resources}
    task = Task(name, (*command, *options), container, KubernetesExecutorConfig(), 0)
    pods = PodStarter(cluster, RUNS["kind"], "paring-runner", shared)
    done = pods(task)
    (attempt,) = pods.attempts
    assert (attempt.end, attempt.code) == ("Failed" if code else "Succeeded", code), done.stdout
    if code:
        assert "out of memory: 0.2" in done.stdout
        assert not (out / "converted").exists()
        return
    failure = TFLiteModel.load(out / "converted").failure
    assert failure is not None
    assert failure.reason.startswith("out of memory: 0.2")
    assert "of 0.29 GiB used" in failure.reason
    (answer,) = json.loads(result.read_text())["artifacts"]["converted"]["artifacts"]
    assert answer["metadata"]["outcome"] == "failed"
