"""Commands that open a model without running steps of a pipeline: limits, and crashes."""

import shutil
from pathlib import Path

import pytest
from tests.helpers.endless_model import write_endless_model
from tests.helpers.step_server import STEPS
from tests.pipelines.conftest import Paring

BROKEN = """
import ctypes
from dataclasses import replace
from paring.catalog import STEPS as OURS

def crash(*arguments, **named):
    ctypes.string_at(0)

def hoard(*arguments, **named):
    held = []
    while True:
        held.append(b"x" * (8 << 20))

STEPS = {{"import_model": replace(OURS["import_model"], function={})}}
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of steps for the server, in which a test puts how the import of a model ends."""
    file = tmp_path / "steps.py"
    monkeypatch.setenv(STEPS, str(file))
    return file


@pytest.mark.parametrize("command", [["advise"], ["run", "--recipes", "auto"]])
def test_a_crash_of_a_model_that_is_looked_at_is_an_error(
    paring: Paring, tmp_path: Path, bare_model: Path, digits_npz: Path, broken: Path, command: list
) -> None:
    broken.write_text(BROKEN.format("crash"))
    out = ["--out", tmp_path / "out"] if command[0] == "run" else []
    code, _, error = paring(*command, "--model", bare_model, "--examples", digits_npz, *out)
    assert code == 16
    assert "ended by SIGSEGV" in error


@pytest.mark.parametrize("command", [["advise"], ["run", "--recipes", "auto"]])
def test_the_limits_hold_where_a_model_is_looked_at(
    paring: Paring, tmp_path: Path, bare_model: Path, digits_npz: Path, broken: Path, command: list
) -> None:
    broken.write_text(BROKEN.format("hoard"))
    out = ["--out", tmp_path / "out"] if command[0] == "run" else []
    given = [*command, "--model", bare_model, "--examples", digits_npz, *out]
    code, _, error = paring(*given, "--step-memory-limit", "1GiB")
    assert code == 19
    assert "the step's memory limit (given by --step-memory-limit)" in " ".join(error.split())
    broken.write_text("STEPS = {}\n")
    code, _, error = paring(*given, "--step-time-limit", "0.05s")
    assert code == 23
    assert "time limit of 0.05 s was reached (given by --step-time-limit)" in " ".join(
        error.split()
    )


def test_a_rollback_to_a_model_that_never_ends_changes_nothing(
    paring: Paring, tmp_path: Path, bare_model: Path
) -> None:
    serving = tmp_path / "serving"
    serving.mkdir()
    write_endless_model(serving / "1")
    shutil.copytree(bare_model, serving / "2")
    code, _, error = paring("rollback", serving, "--step-time-limit", "10s")
    assert code == 23
    assert "time limit of 10 s was reached (given by --step-time-limit)" in " ".join(error.split())
    assert {path.name for path in serving.iterdir()} <= {"1", "2", ".paring"}
    assert not [path for path in serving.rglob("*") if path.is_file() and ".paring" in path.parts]


@pytest.mark.parametrize("command", [["advise", "--model", "m", "--examples", "e"], ["rollback"]])
def test_a_limit_that_is_none_is_named(paring: Paring, tmp_path: Path, command: list) -> None:
    place = [tmp_path] if command == ["rollback"] else []
    code, _, error = paring(*command, *place, "--step-time-limit", "soon")
    assert code == 2
    assert "--step-time-limit" in error
