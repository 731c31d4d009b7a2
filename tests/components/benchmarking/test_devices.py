"""Devices that a split model needs, against those that are there."""

import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from paring.artifacts import Model, Servable, SplitModel
from paring.benchmarking.devices import check_devices
from paring.errors import MissingDependencyError
from paring.execution import Call, execute
from paring.step import Step
from paring.steps.benchmark import benchmark
from paring.steps.tune_batch import tune_batch


def _split(folder: Path, devices: int, device_type: str) -> Path:
    folder.mkdir(exist_ok=True)
    SplitModel(folder, devices=devices, device_type=device_type).save()
    return folder


def test_a_model_over_more_gpus_than_there_are_is_refused(tmp_path: Path) -> None:
    split = Servable(_split(tmp_path / "split", 3, "GPU"))
    with pytest.raises(MissingDependencyError, match=r"split over 3 GPUs, .* sees 2") as caught:
        check_devices(split, ["NVIDIA L4", "NVIDIA L4"])
    assert caught.value.received == "NVIDIA L4, NVIDIA L4"
    check_devices(split, ["NVIDIA L4"] * 3)


def test_other_models_need_no_gpu(tmp_path: Path) -> None:
    check_devices(Servable(_split(tmp_path / "split", 2, "CPU")), [])
    (tmp_path / "bare").mkdir()
    check_devices(Servable(tmp_path / "bare"), [])
    Model(tmp_path / "bare").save()
    check_devices(Servable(tmp_path / "bare"), [])


@pytest.mark.parametrize("step", [benchmark, tune_batch])
def test_a_split_model_is_not_measured_on_a_processor(
    step: Step, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    shutil.copytree(digits_model, tmp_path / "split" / "Format-Serving")
    candidate = _split(tmp_path / "split", 2, "GPU")
    inputs = {"source": digits_model, "candidate": candidate, "examples": digits_npz}
    output = "metrics" if step is benchmark else "configuration"
    with pytest.raises(MissingDependencyError, match="split over 2 GPUs, and TensorFlow sees 0"):
        execute(step, Call(inputs, {output: tmp_path / "out"}))
