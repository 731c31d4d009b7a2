"""The TPU of a host: whether there is one, and which process may hold it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from paring.errors import UnsupportedError
from paring.models.tpu import has_tpu, leave_tpu_to_child
from paring.system.children import module_environment


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment of a process that may open a TPU elsewhere; the host's own has device files."""
    (tmp_path / "libtpu.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TPU_NAME", "grpc://127.0.0.1:8470")
    monkeypatch.delenv("TPU_LOAD_LIBRARY", raising=False)


def test_a_tpu_needs_its_library_and_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TPU_NAME", "local")
    assert not has_tpu()


@pytest.mark.usefixtures("host")
def test_children_have_no_tpu_unless_they_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_tpu()
    assert module_environment()["TPU_LOAD_LIBRARY"] == "0"
    monkeypatch.setenv("TPU_LOAD_LIBRARY", "0")
    assert not has_tpu()
    assert "TPU_LOAD_LIBRARY" not in module_environment(with_tpu=True)


@pytest.mark.usefixtures("host")
def test_a_process_that_holds_the_tpu_cannot_leave_it_to_a_child() -> None:
    import tensorflow  # noqa: F401

    with pytest.raises(UnsupportedError, match="TensorFlow is imported"):
        leave_tpu_to_child()


LEAVE = """
import json, os, sys
import paring.steps.benchmark
from paring.models.tpu import has_tpu, leave_tpu_to_child

seen = [has_tpu(), leave_tpu_to_child(), has_tpu(), "tensorflow" in sys.modules]
print(json.dumps([*seen, os.environ["TPU_LOAD_LIBRARY"]]))
"""


@pytest.mark.usefixtures("host")
def test_a_step_that_measures_leaves_the_tpu_before_tensorflow_is_imported() -> None:
    environment = module_environment(with_tpu=True)
    command = [sys.executable, "-c", LEAVE]
    shown = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
    assert json.loads(shown) == [True, True, False, False, "0"]
    assert "TPU_LOAD_LIBRARY" not in os.environ
