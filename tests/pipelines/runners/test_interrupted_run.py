"""A run that the user interrupts."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.pipelines.conftest import Paring


@pytest.fixture
def run_arguments(tmp_path: Path, recipes: Path, bare_model: Path, digits_npz: Path) -> list[str]:
    """A run of one recipe on the bare model into `tmp_path / "out"`."""
    return [
        *("run", "--model", str(bare_model), "--examples", str(digits_npz)),
        *("--recipes", str(recipes), "--out", str(tmp_path / "out"), "--brief"),
    ]


def _interrupt(arguments: list[str], folder: Path) -> None:
    """Start a run and send Ctrl-C in the middle of its longest node."""
    command = [sys.executable, "-u", "-m", "paring_pipelines.cli.main", *arguments]
    artifacts = folder / "out" / "pipeline" / "artifacts"
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 300
        while not list(artifacts.glob("benchmark-*/metrics/*")):
            assert child.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        code = child.wait(60)
    text = (folder / "log").read_text()
    # Python ends by the signal itself where that came while it ran a text as code.
    assert code in (130, -signal.SIGINT), text
    assert "interrupted" in text
    assert "Traceback" not in text
    assert not (folder / "out" / "selection.json").exists()
    assert not list(artifacts.rglob("*.partial-*"))


@pytest.mark.slow
def test_an_interrupted_run_can_be_taken_up_again(
    run_arguments: list[str], paring: Paring, tmp_path: Path
) -> None:
    _interrupt(run_arguments, tmp_path)
    code, shown, error = paring(*run_arguments)
    assert code == 0, error
    assert "nodes were cached" in shown
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_an_interrupted_run_on_beam_ends_cleanly(run_arguments: list[str], tmp_path: Path) -> None:
    _interrupt([*run_arguments, "--runner", "beam"], tmp_path)
