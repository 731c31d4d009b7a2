"""The driver's library as it is called, with a fake one in its place in a child process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import graphs

from paring.execution import Call, execute
from paring.steps.build_tensorrt import build_tensorrt

Run = Callable[..., Any]

BEGIN = """
import json
from pathlib import Path
import numpy as np
from paring.artifacts import Servable
from paring.tensorrt.device import Device
from paring.tensorrt.driver import Driver, find_gpu
from paring.errors import ParingError
from paring.runtimes import open_runtime

def refused(call):
    try:
        call()
    except ParingError as error:
        return [type(error).__name__, error.what, error.received]
"""


@pytest.fixture
def run(fake_driver: Path) -> Run:
    """Runs code in a process that finds the fake driver; what it prints, as JSON."""

    def run_code(code: str, **environment: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + code],
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(fake_driver),
                "PYTHONPATH": os.pathsep.join(sys.path),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run_code


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For compute capability 8.9, by TensorRT for RTX."""
    folder = tmp_path_factory.mktemp("engine")
    graphs.product(folder / "model.onnx", graphs.FLOAT)
    parameters = {"product": "rtx", "compute_capability": "8.9"}
    outputs = {"engine": folder / "engine"}
    return execute(build_tensorrt, Call({"model": folder}, outputs, parameters))["engine"].path


def test_the_gpu_is_named_with_its_capability_and_driver(run: Run) -> None:
    result = run("print(json.dumps(vars(find_gpu())))", FAKE_CAPABILITY="120")
    assert result == {
        "name": "NVIDIA L4",
        "compute_capability": "12.0",
        "driver_version": "580.82.07",
    }


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"FAKE_GPUS": "0"}, "the driver counts 0 GPUs"),
        ({"FAKE_INIT": "100"}, "cuInit failed: CUDA error 100: an error of the fake driver"),
    ],
)
def test_a_driver_without_a_gpu_is_as_good_as_none(
    environment: dict[str, str], words: str, run: Run
) -> None:
    kind, what, received = run("print(json.dumps(refused(find_gpu)))", **environment)
    assert (kind, received) == ("MissingDependencyError", words)
    assert what == "there is no NVIDIA GPU that this process can use"


def test_arrays_come_back_from_the_gpu_as_they_went(run: Run) -> None:
    same, handle, error = run("""
device = Device(Driver())
array = np.arange(1 << 16, dtype=np.float32)
back = np.zeros_like(array)
address = device.allocate(array.nbytes)
device.enter()
device.copy_in(address, array)
device.copy_out(back, address)
device.wait()
device.free(address)
device.free(device.allocate(0))
error = refused(lambda: device.allocate(1 << 40))
handle = device.stream
device.close()
print(json.dumps([bool((array == back).all()), handle, error]))
""")
    assert same
    assert handle == 0x7FFF00002222
    assert error[0] == "UnsupportedError"
    assert error[2] == "CUDA error 2: out of memory"


def test_an_engine_for_another_gpu_is_refused_before_it_is_loaded(run: Run, engine: Path) -> None:
    opened = f"open_runtime(Servable(Path({str(engine)!r}), engine_trusted=True))"
    code = f"print(json.dumps(refused(lambda: {opened})))"
    kind, what, received = run(code, FAKE_CAPABILITY="86")
    assert (kind, what) == (
        "UnsupportedError",
        f"{engine}/Format-Serving/model.engine does not load on this machine",
    )
    assert received == (
        "it is for compute capability 8.9, and here is NVIDIA L4 of compute capability 8.6"
    )


MEMORY = """
from paring.tensorrt.nvml import MemoryMeter, memory_in_use

driver = Driver()
meter = MemoryMeter(driver.pci_bus_id())
before = memory_in_use(driver.pci_bus_id(), scope="device")
device = Device(driver)
device.allocate(5_000_000)
print(json.dumps([before, memory_in_use(driver.pci_bus_id()), meter.read()]))
"""


def test_the_memory_of_this_process_is_read_among_those_of_many(run: Run) -> None:
    before, now, metered = run(MEMORY, FAKE_LISTED="own")
    assert before == [1_000_000, "device"]
    assert now == metered == [5_200_000, "process"]


@pytest.mark.parametrize("listed", ["others", "hidden"])
def test_where_the_driver_does_not_list_this_process_the_rise_on_the_gpu_counts(
    run: Run, listed: str
) -> None:
    before, now, metered = run(MEMORY, FAKE_LISTED=listed)
    assert before == [1_000_000, "device"]
    assert now == [6_200_000, "device"]
    assert metered == [5_200_000, "device"]


def test_a_driver_that_tells_no_memory_gives_none(run: Run) -> None:
    assert run(MEMORY, FAKE_NO_MEMORY="1") == [None, None, None]
