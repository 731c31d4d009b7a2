"""Tuning real models in real processes, which may also be killed."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tests.components.runtimes.test_open_runtime import convert

from paring.artifacts import RuntimeConfiguration
from paring.errors import ModelError, ParameterError, StepFailedError, UnsupportedError
from paring.execution import Call, execute
from paring.steps.convert_openvino import convert_openvino
from paring.steps.export_onnx import export_onnx
from paring.steps.tune_batch import device_memory, tune_batch

QUICK = {"trial_seconds": 0.1, "max_trials": 3, "max_batch": 4}


@pytest.fixture(scope="module")
def tflite(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(digits_model, tmp_path_factory.mktemp("lite") / "model.tflite")


def _tune(
    source: Path, candidate: Path | None, examples: Path, out: Path, **parameters: Any
) -> tuple[RuntimeConfiguration, dict[str, Any]]:
    inputs = {"source": source, "examples": examples}
    if candidate is not None:
        inputs["candidate"] = candidate
    done = execute(tune_batch, Call(inputs, {"configuration": out}, {**QUICK, **parameters}))
    made = done["configuration"]
    assert isinstance(made, RuntimeConfiguration)
    return made, json.loads(made.file.read_text())


def test_the_best_setting_is_stated_with_all_that_were_tried(
    digits_model: Path, tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    made, details = _tune(digits_model, tflite, digits_npz, tmp_path / "out")
    table = details["table"]
    first, *_, again, baseline = table
    assert made.trials == len(table) - 2 == 3
    for row in (first, baseline):
        assert (row["batch_size"], row["threads"], row["instances"]) == (1, 1, 1)
    assert made.baseline_throughput == baseline["throughput"]
    assert (made.throughput, made.p99_ms) == (again["throughput"], again["p99_ms"])
    assert (made.batch_size, made.threads) == (again["batch_size"], again["threads"])
    assert made.instances == again["instances"]
    assert all(row["why_not"] is None for row in table)
    for row in table:
        assert row["batch_size"] <= 4
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        # One process's own memory, without TensorFlow, for each.
        assert 10e6 < row["peak_memory_bytes"] / row["instances"] < 200e6
    assert details["ended"] == "max_trials were tried"
    assert details["environment"]["runtime"] == "tflite"
    assert RuntimeConfiguration.load(tmp_path / "out").facts() == made.facts()


def test_a_limit_that_nothing_keeps_to_is_named_with_what_was_tried(
    digits_model: Path, tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="no setting keeps to the limits") as caught:
        _tune(digits_model, tflite, digits_npz, tmp_path / "out", max_latency_ms=1e-6)
    assert "batch 1, 1 threads, 1 processes: a p99 of" in caught.value.received
    assert not (tmp_path / "out").exists()


def test_memory_limits_the_processes(
    digits_model: Path, tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    _, result = _tune(digits_model, tflite, digits_npz, tmp_path / "one", max_trials=1)
    alone = result["table"][0]["peak_memory_bytes"]
    # Room for one process, and half of another.
    limit = int(1.5 * alone / (1 << 20))
    chosen, details = _tune(
        *(digits_model, tflite, digits_npz, tmp_path / "out"),
        max_memory_mb=limit,
        max_trials=8,
        max_batch=1,
    )
    assert chosen.instances == 1
    assert chosen.peak_memory_bytes < limit << 20
    refused = [row for row in details["table"] if row["why_not"]]
    # On a machine of one core there are no two.
    assert bool(refused) == (details["environment"]["cores"] > 1)
    assert all("MiB" in row["why_not"] and row["instances"] > 1 for row in refused)


def test_a_model_that_does_not_fit_at_all_is_an_error(
    digits_model: Path, tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    with pytest.raises(StepFailedError, match="more than 8 MiB"):
        _tune(digits_model, tflite, digits_npz, tmp_path / "out", max_memory_mb=8)


@pytest.mark.parametrize(
    ("counted", "peaks", "expected"),
    [
        ("allocator", [300, 400], 700),
        ("process", [300, 400], 700),
        # The rise on the whole GPU holds all processes.
        ("device", [300, 400], None),
        ("device", [300], 300),
        (None, [None, None], None),
    ],
)
def test_memory_on_a_gpu_is_summed_where_each_process_has_its_own(
    counted: str | None, peaks: list[int | None], expected: int | None
) -> None:
    results = [
        {"peak_device_memory_bytes": peak, "device_memory_counted": counted} for peak in peaks
    ]
    assert device_memory(results) == expected


def _kill_one(killed: list[int], stop: threading.Event) -> None:
    """End the first process that times the second batch, as Linux does without memory."""
    while not killed and not stop.is_set():
        for child in psutil.Process().children():
            try:
                spec = Path(child.cmdline()[-1])
                result = json.loads(spec.read_text())
                if Path(result["inputs"]).stem == "inputs-2":
                    os.kill(child.pid, signal.SIGKILL)
                    killed.append(child.pid)
                    return
            except (psutil.Error, OSError, ValueError, IndexError, KeyError):
                # It has just begun, or ended.
                continue
        time.sleep(0.005)


def test_the_search_goes_on_below_a_trial_that_was_killed(
    digits_model: Path, tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    killed: list[int] = []
    stop = threading.Event()
    killer = threading.Thread(target=_kill_one, args=(killed, stop), daemon=True)
    killer.start()
    try:
        made, details = _tune(digits_model, tflite, digits_npz, tmp_path / "out")
    finally:
        stop.set()
        killer.join()
    assert killed
    lost = [row for row in details["table"] if row["why_not"]]
    assert [(row["batch_size"], row["throughput"]) for row in lost] == [(2, None)]
    assert "SIGKILL" in lost[0]["why_not"]
    assert made.throughput > 0
    # What is larger in the same threads and processes was not tried any more.
    larger = [row for row in details["table"] if row["batch_size"] > 2]
    assert all(row["threads"] != lost[0]["threads"] for row in larger)


def test_a_model_of_a_fixed_batch_keeps_it(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    fixed = convert(digits_model, tmp_path / "four.tflite", batch=4)
    made, details = _tune(digits_model, fixed, digits_npz, tmp_path / "out")
    assert made.batch_size == 4
    assert {row["batch_size"] for row in details["table"]} == {4}


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of two inputs for each runtime, and `examples` for it."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("two")
    module = tf.Module()
    module.serve = tf.function(
        lambda a, b: {"y": tf.nn.relu(a) + tf.reduce_sum(b, axis=2)},
        input_signature=[
            tf.TensorSpec([None, 4], tf.float32, "a"),
            tf.TensorSpec([None, 4, 2], tf.float32, "b"),
        ],
    )
    saved = folder / "saved"
    tf.saved_model.save(module, str(saved), signatures={"serving_default": module.serve})
    lite = folder / "model.tflite"
    lite.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(saved)).convert())
    execute(export_onnx, Call({"model": saved}, {"exported": folder / "onnx"}, {}))
    execute(convert_openvino, Call({"model": folder / "onnx"}, {"converted": folder / "ov"}, {}))
    random = np.random.default_rng(0)
    np.savez(
        folder / "examples.npz",
        a=random.normal(size=(40, 4)).astype(np.float32),
        b=random.normal(size=(40, 4, 2)).astype(np.float32),
    )
    return {
        "tensorflow": saved,
        "tflite": lite,
        "onnxruntime": folder / "onnx",
        "openvino": folder / "ov",
        "examples": folder / "examples.npz",
    }


@pytest.mark.parametrize(
    "name",
    [pytest.param("tensorflow", marks=pytest.mark.slow), "tflite", "onnxruntime", "openvino"],
)
@pytest.mark.usefixtures("warm_measuring")
def test_every_runtime_is_tuned_with_all_inputs(
    name: str, two_inputs: dict[str, Path], tmp_path: Path
) -> None:
    saved, examples = two_inputs["tensorflow"], two_inputs["examples"]
    # The source is what is tuned where no candidate is given.
    candidate = None if name == "tensorflow" else two_inputs[name]
    made, details = _tune(saved, candidate, examples, tmp_path / "out", max_trials=2)
    assert details["environment"]["runtime"] == name
    assert len(details["table"]) == 4
    assert made.throughput > 0


def test_a_trial_out_of_time_is_an_error_where_it_is_the_first(
    digits_model: Path, tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    with pytest.raises(StepFailedError, match=r"longer than 0\.01 s"):
        _tune(digits_model, tflite, digits_npz, tmp_path / "out", timeout_seconds=0.01)


def test_what_is_no_model_is_named(digits_model: Path, digits_npz: Path, tmp_path: Path) -> None:
    (tmp_path / "model.tflite").write_bytes(b"none")
    with pytest.raises(ModelError, match=r"model\.tflite"):
        _tune(digits_model, tmp_path / "model.tflite", digits_npz, tmp_path / "out")


def test_a_limit_of_gpu_memory_is_for_tensorflow_alone(
    digits_model: Path, tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="only TensorFlow"):
        _tune(digits_model, tflite, digits_npz, tmp_path / "out", gpu_memory_mb=100)
