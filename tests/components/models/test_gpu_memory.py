"""Limit on TensorFlow's memory of a GPU; on a GPU, and on a stand-in for its settings."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from paring.errors import ParameterError
from paring.models.gpu_memory import _set_one, peak_memory, set_gpu_memory


@dataclass
class _Config:
    """Settings of one GPU in `tf.config`; `started` refuses changes, as TensorFlow does."""

    started: bool = False
    growth: bool | None = None
    limits: list[Any] | None = None
    experimental: Any = field(init=False)
    LogicalDeviceConfiguration: Any = SimpleNamespace

    def __post_init__(self) -> None:
        self.experimental = SimpleNamespace(set_memory_growth=self._set_growth)

    def get_logical_device_configuration(self, gpu: str) -> list[Any] | None:
        return self.limits

    def set_logical_device_configuration(self, gpu: str, limits: list[Any]) -> None:
        self._refuse()
        self.limits = limits

    def _set_growth(self, gpu: str, enable: bool) -> None:
        self._refuse()
        self.growth = enable

    def _refuse(self) -> None:
        if self.started:
            raise RuntimeError("Physical devices cannot be modified after being initialized")


def _set(config: _Config, limit_mb: int) -> None:
    _set_one(SimpleNamespace(config=config), "GPU:0", limit_mb)


def test_without_a_limit_memory_grows() -> None:
    config = _Config()
    _set(config, 0)
    assert (config.growth, config.limits) == (True, None)


def test_a_limit_is_that_of_one_logical_device() -> None:
    config = _Config()
    _set(config, 512)
    assert config.limits is not None
    assert [limit.memory_limit for limit in config.limits] == [512]
    assert config.growth is None
    # TensorFlow refuses growth beside logical devices.
    _set(config, 0)
    assert config.growth is None


def test_another_limit_is_refused_once_tensorflow_has_started() -> None:
    config = _Config()
    _set(config, 512)
    config.started = True
    _set(config, 512)
    _set(config, 0)
    with pytest.raises(ParameterError, match="already started with another limit"):
        _set(config, 1024)


def test_no_limit_is_no_error_once_tensorflow_has_started() -> None:
    config = _Config(started=True)
    _set(config, 0)
    assert config.growth is None


@pytest.mark.parametrize("limit_mb", [0, 512])
def test_without_a_gpu_nothing_happens(limit_mb: int) -> None:
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a GPU")
    set_gpu_memory(limit_mb)


def test_a_negative_limit_is_refused() -> None:
    with pytest.raises(ParameterError, match="gpu_memory_mb: must be 0 or more"):
        set_gpu_memory(-1)


GPU_CODE = """
import sys
from paring.models.gpu_memory import set_gpu_memory
set_gpu_memory(int(sys.argv[1]))
import tensorflow as tf
with tf.device("GPU:0"):
    tf.ones([1 << 20]).numpy()
(gpu, *_) = tf.config.list_physical_devices("GPU")
limits = tf.config.get_logical_device_configuration(gpu)
print([one.memory_limit for one in limits] if limits else tf.config.experimental
      .get_memory_growth(gpu))
try:
    tf.ones([1 << 28], name="gibibyte").numpy()
    print("fits")
except tf.errors.ResourceExhaustedError:
    print("exhausted")
"""


# Names and answers of `tf.config` for each kind of device; None is an error.
RECORDED = {
    "/device:CPU:0": None,
    "/device:TPU_SYSTEM:0": None,
    "/device:XLA_GPU:0": None,
    "/device:GPU:0": {"current": 1_280, "peak": 412_000_256},
    "/device:GPU:1": {"current": 0, "peak": 1_024},
}


def _answering(*names: str) -> Any:
    """TensorFlow with these devices, as far as it is called."""
    devices = [SimpleNamespace(name=name, device_type=name.split(":")[1]) for name in names]

    def get_memory_info(name: str) -> dict[str, int]:
        answer = RECORDED[f"/device:{name}"]
        if answer is None:
            raise ValueError(f"Allocator stats not available for device '{name}'")
        return answer

    experimental = SimpleNamespace(get_memory_info=get_memory_info)
    config = SimpleNamespace(list_logical_devices=lambda: devices, experimental=experimental)
    return SimpleNamespace(config=config, errors=SimpleNamespace(OpError=LookupError))


@pytest.mark.parametrize(
    ("names", "peak"),
    [
        (["/device:CPU:0", "/device:GPU:0"], 412_000_256),
        (["/device:CPU:0", "/device:GPU:0", "/device:GPU:1"], 412_001_280),
        (["/device:CPU:0", "/device:TPU_SYSTEM:0", "/device:XLA_GPU:0"], None),
        (["/device:CPU:0"], None),
    ],
)
def test_the_peak_is_that_of_all_devices_that_count(names: list[str], peak: int | None) -> None:
    assert peak_memory(_answering(*names)) == peak


def test_without_a_gpu_there_is_no_peak() -> None:
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    assert peak_memory(tf) is None


@pytest.mark.gpu
@pytest.mark.parametrize(("limit_mb", "said"), [(0, "True\nfits\n"), (512, "[512]\nexhausted\n")])
def test_tensorflow_keeps_to_it_on_a_gpu(limit_mb: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GPU_CODE, str(limit_mb)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == said


@pytest.mark.gpu
def test_the_peak_on_a_gpu_holds_what_was_computed() -> None:
    code = """
import tensorflow as tf
from paring.models.gpu_memory import peak_memory, set_gpu_memory

set_gpu_memory(0)
tf.ones([1 << 26]).numpy()
print(peak_memory(tf) >= 4 << 26)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "True\n"
