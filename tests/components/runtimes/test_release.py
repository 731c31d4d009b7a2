"""Release of a runtime's memory when it is closed."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.execution import Call, execute
from paring.steps.convert_openvino import convert_openvino
from paring.steps.export_onnx import export_onnx

WIDTH = 1536
WEIGHT_BYTES = 4 * WIDTH * WIDTH
LOADS = 20
TOLERANCE = 30e6

# Some loads first, after which libraries hold what they always will.
CODE = """
import sys
from pathlib import Path
from paring.artifacts import Servable
from paring.runtimes import blank_batch, open_runtime

def load():
    runtime = open_runtime(Servable(Path(sys.argv[1])), threads=1)
    runtime.run(blank_batch(runtime))
    if sys.argv[2] == "close":
        runtime.close()
    else:
        kept.append(runtime)

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))

kept = []
for _ in range(5):
    load()
before = resident()
for _ in range(int(sys.argv[3])):
    load()
print(resident() - before)
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: Any) -> dict[str, Path]:
    """One wide layer for each runtime, by the runtime's name."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("wide")
    module = tf.Module()
    weights = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    module.weights = tf.Variable(weights)
    module.serve = tf.function(
        lambda x: {"y": tf.nn.relu(x @ module.weights)},
        input_signature=[tf.TensorSpec([None, WIDTH], tf.float32, "x")],
    )
    saved = folder / "saved"
    tf.saved_model.save(module, str(saved), signatures={"serving_default": module.serve})
    lite = folder / "model.tflite"
    lite.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert())
    execute(export_onnx, Call({"model": saved}, {"exported": folder / "onnx"}, {}))
    execute(convert_openvino, Call({"model": folder / "onnx"}, {"converted": folder / "ov"}, {}))
    onnx, openvino = folder / "onnx", folder / "ov"
    return {"tensorflow": saved, "tflite": lite, "onnxruntime": onnx, "openvino": openvino}


def _growth(model: Path, what: str) -> int:
    """Bytes by which resident memory is larger after more loads in a process of their own."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(model), what, str(LOADS)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.parametrize(
    "name",
    [pytest.param("tensorflow", marks=pytest.mark.slow), "tflite", "onnxruntime", "openvino"],
)
def test_memory_is_back_at_its_start_after_20_loads(name: str, served: dict[str, Path]) -> None:
    # Each load's weights alone, were they kept, would take six times as much.
    assert _growth(served[name], "close") < TOLERANCE


def test_what_is_not_closed_is_seen(served: dict[str, Path]) -> None:
    assert _growth(served["onnxruntime"], "keep") > 0.8 * LOADS * WEIGHT_BYTES
