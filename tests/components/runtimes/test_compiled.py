"""SavedModels that XLA compiles for each shape of batch, as it does for a TPU."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from paring.artifacts import Servable
from paring.benchmarking.measure import Spec, run_solo, time_latency
from paring.errors import UnsupportedError
from paring.graphs.xla import check_before_tpu, check_signature_compiles
from paring.runtimes import open_runtime, run_rows

X = tf.TensorSpec((None, 8), tf.float32, name="x")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of SavedModels: with variables, with weights in bfloat16, and some XLA refuses."""
    made = tmp_path_factory.mktemp("models")
    weights = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)

    def in_bfloat16(x: Any) -> dict[str, Any]:
        half = tf.constant(weights, tf.bfloat16)
        return {"y": tf.cast(tf.matmul(tf.cast(x, tf.bfloat16), half), tf.float32)}

    module = tf.Module()
    module.weights = tf.Variable(weights)
    keys = tf.constant([0, 1], tf.int64)
    module.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, keys), -1)
    functions: dict[str, Callable[[Any], dict[str, Any]]] = {
        "variables": lambda x: {"y": tf.matmul(x, module.weights), "z": tf.reduce_sum(x, 1)},
        "bfloat16": in_bfloat16,
        "text": lambda x: {"y": tf.strings.length(tf.strings.as_string(x))},
        "distinct": lambda x: {"y": tf.unique(tf.reshape(x, [-1])).y},
        "table": lambda x: {"y": module.table.lookup(tf.cast(x, tf.int64))},
    }
    for name, function in functions.items():
        module.serve = tf.function(function, input_signature=[X])
        tf.saved_model.save(module, str(made / name), signatures=module.serve)
    np.save(made / "weights.npy", weights)
    return made


def _batch(size: int) -> Any:
    return np.random.default_rng(size).normal(size=(size, 8)).astype(np.float32)


@pytest.mark.parametrize("size", [1, 5])
def test_a_compiled_model_computes_what_its_weights_say(folder: Path, size: int) -> None:
    weights, x = np.load(folder / "weights.npy"), _batch(size)
    runtime = open_runtime(Servable(folder / "variables"), compiled=True)
    outputs = runtime.run({"x": x})
    np.testing.assert_allclose(outputs["y"], x @ weights, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs["z"], x.sum(1), rtol=1e-5, atol=1e-5)
    runtime.close()
    half = open_runtime(Servable(folder / "bfloat16"), compiled=True)
    (y,) = run_rows(half, {"x": x}).values()
    np.testing.assert_allclose(y, x @ weights, atol=0.1)
    half.close()


@pytest.mark.parametrize("name", ["text", "distinct", "table"])
def test_what_xla_refuses_is_named_before_a_tpu_is_opened(folder: Path, name: str) -> None:
    operator = {"text": "AsString", "distinct": "Unique", "table": "LookupTableFindV2"}[name]
    with pytest.raises(UnsupportedError, match=rf"\({operator}\)") as raised:
        check_signature_compiles(Servable(folder / name), 4)
    assert str(folder / name) in str(raised.value)
    check_signature_compiles(Servable(folder / "variables"), 4)


def test_a_compiled_call_that_xla_refuses_names_the_operator(folder: Path) -> None:
    runtime = open_runtime(Servable(folder / "text"), compiled=True)
    with pytest.raises(UnsupportedError, match="AsString"):
        runtime.run({"x": _batch(2)})
    runtime.close()


def test_savedmodels_are_checked_in_another_process_and_other_files_are_not(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="AsString"):
        check_before_tpu([Servable(folder / "variables"), Servable(folder / "text")], 4)
    lite = tmp_path / "model.tflite"
    lite.touch()
    check_before_tpu([Servable(lite)], 4)


def test_a_measurement_has_both_sides_compiled(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", **{"0": np.stack([_batch(2)] * 3)})
    common: dict[str, Any] = {
        "source": str(folder / "variables"),
        "inputs": str(tmp_path / "inputs.npz"),
        "names": ["x"],
        "folder": str(tmp_path),
        "threads": 0,
        "compiled": True,
    }
    timing = {"rounds": 1, "windows": 1, "window_seconds": 0.001}
    spec = Spec("latency", candidate=str(folder / "bfloat16"), **common, **timing)
    assert json.loads(json.dumps(time_latency(spec)))["libraries"]["tensorflow"]
    with np.load(spec.latencies) as seconds:
        assert (seconds["source"] > 0).all()
        assert (seconds["candidate"] > 0).all()
    # A model that XLA refuses shows that the calls are compiled.
    refused = Spec("solo", candidate=str(folder / "text"), **common)
    with pytest.raises(UnsupportedError, match="AsString"):
        run_solo(refused)
