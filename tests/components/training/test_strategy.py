"""Trainings on several devices and machines give the results of one device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from paring.artifacts import Model
from paring.errors import MissingDependencyError, ParameterError, UnsupportedError
from paring.models.loading import load_keras
from paring.training.strategy import Devices, open_devices
from paring_pipelines.demo import Digits

PARING = Path(sys.executable).with_name("paring")
TWO_DEVICES = Path(__file__).with_name("two_devices.py")
SHORT = {"epochs": 1, "batch_size": 32}
STEPS: dict[str, list[Any]] = {
    "pruned": ["prune", {"pattern": "1x4"}],
    "clustered": ["cluster", {}],
    "quantized": ["quantize", {}],
    "narrow": ["prune_channels", {}],
    "distilled": ["distill", {"student": "two_devices:student"}],
}


@pytest.fixture(scope="module")
def few(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many digits as make ten training steps of 32."""
    file = tmp_path_factory.mktemp("few") / "few.npz"
    np.savez(
        file,
        x_train=digits.x_train[:356],
        y_train=digits.y_train[:356],
        x_eval=digits.x_eval,
        y_eval=digits.y_eval,
    )
    return file


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of few layers: on two devices each of them takes long to set up."""
    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    network = tf_keras.Sequential(
        [
            tf_keras.Input((32, 32, 1), name="image"),
            layers.Conv2D(16, 3, strides=4, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(16, 3, strides=2, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", name="digit"),
        ]
    )
    file = tmp_path_factory.mktemp("small") / "model.keras"
    network.save(file)
    return file


@pytest.fixture(scope="module")
def folder(small: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the steps' outputs on one device, and `mirrored-NAME` on two."""
    made = tmp_path_factory.mktemp("made")
    runs = {
        f"{prefix}{name}": [step, {**SHORT, **parameters, "strategy": strategy}]
        for name, (step, parameters) in STEPS.items()
        for prefix, strategy in (("", "one_device"), ("mirrored-", "mirrored"))
    }
    command = [sys.executable, str(TWO_DEVICES), str(small), str(few), str(made)]
    subprocess.run([*command, json.dumps(runs)], check=True, timeout=600)
    return made


def _scores(folder: Path, digits: Digits) -> Any:
    serve = tf.saved_model.load(str(folder / "Format-Serving")).signatures["serving_default"]
    (scores,) = serve(tf.constant(digits.x_eval)).values()
    return scores.numpy()


@pytest.fixture(scope="module")
def compiled(small: Path, few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the steps' outputs, trained as on a TPU, beside a second logical device."""
    made = tmp_path_factory.mktemp("compiled")
    runs = {
        name: [step, {**SHORT, **parameters, "strategy": "xla"}]
        for name, (step, parameters) in STEPS.items()
    }
    command = [sys.executable, str(TWO_DEVICES), str(small), str(few), str(made)]
    subprocess.run([*command, json.dumps(runs)], check=True, timeout=600)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_xla_compiles_each_step_and_trains_in_bfloat16_what_one_device_does(
    name: str, compiled: Path, folder: Path, digits: Digits
) -> None:
    # bfloat16 has 8 bits of precision.
    np.testing.assert_allclose(
        _scores(compiled / name, digits), _scores(folder / name, digits), atol=3e-2
    )
    # Fake quantization needs float32.
    policy = "float32" if name == "quantized" else "mixed_bfloat16"
    result = Model.load(compiled / name)
    assert result.trained_on == f"xla, 1 replica, {policy}"
    layers = load_keras(result).layers
    assert {layer.compute_dtype for layer in layers} == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_two_devices_train_what_one_does(name: str, folder: Path, digits: Digits) -> None:
    item, two = folder / name, folder / f"mirrored-{name}"
    # Sums of two halves are rounded otherwise, and Adam makes more of that. The ranges of
    # fake quantization are the mean of both devices'.
    atol = 2e-2 if name == "quantized" else 5e-3
    np.testing.assert_allclose(_scores(two, digits), _scores(item, digits), atol=atol)
    result, alone = Model.load(two), Model.load(item)
    assert result.trained_on == "mirrored, 2 replicas, float32"
    assert alone.trained_on == "one_device, 1 replica, float32"
    # Nothing of the strategy is left in what is saved.
    shapes = [tuple(weight.shape) for weight in load_keras(alone).weights]
    assert [tuple(weight.shape) for weight in load_keras(result).weights] == shapes


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


@pytest.mark.slow
def test_two_workers_train_what_one_machine_does_and_the_first_one_writes_it(
    small: Path, few: Path, folder: Path, digits: Digits, tmp_path: Path
) -> None:
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    workers = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        out = tmp_path / f"out-{index}"
        command = [str(PARING), "step", "cluster", "--epochs=1"]
        command += [f"--model={small}", f"--examples={few}", f"--clustered={out}"]
        workers.append(subprocess.Popen(command, env={**os.environ, "TF_CONFIG": config}))
    assert [worker.wait(300) for worker in workers] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["out-0"]
    result = Model.load(tmp_path / "out-0")
    assert result.trained_on == "multi_worker, 2 replicas, float32"
    expected = _scores(folder / "clustered", digits)
    np.testing.assert_allclose(_scores(result.path, digits), expected, atol=5e-3)


def test_auto_takes_one_device_where_there_is_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_devices("auto") == Devices("one_device")
    # A job of one worker needs no other machine.
    alone = {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(alone))
    assert open_devices("auto").strategy == "one_device"


def test_several_workers_need_the_variable_and_a_process_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ParameterError, match="TF_CONFIG"):
        open_devices("multi_worker")
    tf.constant(0)
    pair = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(pair))
    with pytest.raises(ParameterError, match="a process of its own"):
        open_devices("multi_worker")


def test_copies_on_each_gpu_need_a_gpu() -> None:
    with pytest.raises(MissingDependencyError, match="no GPU here") as caught:
        open_devices("mirrored")
    assert "one_device" in caught.value.remedy


def test_without_a_tpu_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        open_devices("tpu")
    assert "libtpu not installed" in caught.value.received
    # The variable alone makes no TPU.
    monkeypatch.setenv("TPU_NAME", "local")
    assert open_devices("auto").strategy == "one_device"


def test_a_local_tpu_that_a_variable_names_and_is_not_there_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "libtpu.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TPU_NAME", "local")
    assert open_devices("auto").strategy == "one_device"
    assert "TPU_NAME=local, and there is no TPU here" in caplog.text
    with pytest.raises(MissingDependencyError, match="no TPU that this process can use"):
        open_devices("tpu")


def test_a_gpu_that_is_requested_and_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("PARING_ACCELERATOR", "nvidia-l4")
    with pytest.raises(MissingDependencyError, match="nvidia-l4, and TensorFlow sees no GPU"):
        open_devices("auto")


def test_replicas_get_equal_parts_of_a_batch() -> None:
    devices = Devices("mirrored", 3)
    assert devices.batch_size(32) == 30
    assert devices.batch_size(2) == 3
    assert devices.batch_size(32, None) == 30
    with pytest.raises(UnsupportedError, match="batches of 8 alone"):
        devices.batch_size(32, 8)
    assert Devices("one_device").batch_size(32, 8) == 8


def test_a_model_put_on_devices_and_taken_off_is_the_same(digits_keras: Path) -> None:
    model = load_keras(Model(digits_keras))
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    devices = Devices("mirrored", 1, "mixed_bfloat16", strategy.scope)
    with devices.scope():
        put = devices.put_on(model)
        assert {layer.compute_dtype for layer in put.layers[1:-1]} == {"bfloat16"}
        put.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy())
    taken = devices.take_off(put)
    assert {layer.compute_dtype for layer in taken.layers} == {"float32"}
    for item, other in zip(model.get_weights(), taken.get_weights(), strict=True):
        np.testing.assert_array_equal(item, other)
