"""`make gpu-test` without a GPU, and what it writes where the driver names one."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from paring.errors import MissingDependencyError
from paring.tensorrt.driver import find_gpu

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "benchmarks" / "gpu_test.py"

TESTS = """
import json
import pytest

@pytest.mark.gpu
def test_fast(record_property):
    record_property("figures", json.dumps({"p50_ms": 0.5}))

@pytest.mark.gpu
def test_wrong():
    assert 1 == 2, "one is not two"

@pytest.mark.gpu
def test_elsewhere():
    pytest.skip("no TensorRT here")

def test_of_no_gpu():
    raise AssertionError
"""


def test_without_a_gpu_it_ends_at_once_and_installs_nothing() -> None:
    with contextlib.suppress(MissingDependencyError):
        pytest.skip(f"this machine has a GPU, {find_gpu().name}")
    before = (ROOT / ".venv-gpu").exists()
    start = time.monotonic()
    done = subprocess.run(
        ["make", "gpu-test", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # A bound that an installation would break, and not a measurement.
    assert time.monotonic() - start < 10
    assert done.returncode != 0
    assert "gpu-test: there is no NVIDIA GPU" in done.stderr
    assert "libcuda.so.1" in done.stderr
    assert (ROOT / ".venv-gpu").exists() == before


def test_it_writes_the_gpu_the_versions_and_what_came_of_each_test(
    fake_driver: Path, tmp_path: Path
) -> None:
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    (tmp_path / "test_it.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", "out/gpu.json", "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "LD_LIBRARY_PATH": str(fake_driver)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    result = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert result["gpu"]["name"] == "NVIDIA L4"
    assert result["gpu"]["driver_version"] == "580.82.07"
    assert result["versions"]["paring"] == "0.1.0"
    assert result["exit_code"] == 1
    rows = {test["name"].partition("::")[2]: test for test in result["tests"]}
    assert {name: item["outcome"] for name, item in rows.items()} == {
        "test_fast": "passed",
        "test_wrong": "failed",
        "test_elsewhere": "skipped",
    }
    assert rows["test_fast"]["figures"] == {"p50_ms": 0.5}
    assert "one is not two" in rows["test_wrong"]["reason"]
    assert rows["test_elsewhere"]["reason"] == "no TensorRT here"
