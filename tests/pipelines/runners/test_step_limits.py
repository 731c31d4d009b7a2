"""A run whose steps crash or take too much memory."""

from pathlib import Path

import pytest
from tests.helpers.step_server import STEPS
from tests.pipelines.conftest import SETTINGS

from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import LocalSettings, RunnerName
from paring_pipelines.runners.session import run

pytestmark = pytest.mark.slow

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

# Of steps that nothing else in the run needs.
STEPS = {
    "prune": replace(OURS["prune"], function=crash),
    "cluster": replace(OURS["cluster"], function=hoard),
}
"""

RECIPES = """
[recipes.crashes]
steps = [{ step = "prune" }, { step = "convert_tflite" }]

[recipes.hoards]
steps = [{ step = "cluster" }, { step = "convert_tflite" }]

[recipes.float32]
steps = [{ step = "convert_tflite" }]
"""


@pytest.mark.parametrize("runner", ["local", "beam"])
def test_a_run_goes_on_without_the_candidates_whose_steps_crash_or_reach_a_limit(
    tmp_path: Path,
    bare_model: Path,
    digits_npz: Path,
    monkeypatch: pytest.MonkeyPatch,
    runner: RunnerName,
) -> None:
    steps, recipes = tmp_path / "steps.py", tmp_path / "recipes.toml"
    steps.write_text(BROKEN)
    recipes.write_text(RECIPES)
    monkeypatch.setenv(STEPS, str(steps))
    outcome = run(
        bare_model,
        digits_npz,
        recipes=load_recipes(recipes),
        settings=SETTINGS,
        out=tmp_path / "out",
        local=LocalSettings(runner=runner, step_time_limit="10m", step_memory_limit="3GiB"),
    )
    rows = {candidate.id: candidate for candidate in outcome.selection.candidates}
    assert {name: str(row.outcome) for name, row in rows.items() if name != "source"} == {
        "crashes": "failed",
        "hoards": "failed",
        "float32": str(rows["float32"].outcome),
    }
    assert str(rows["float32"].outcome) in ("passed", "selected")
    assert "ended by SIGSEGV" in rows["crashes"].reasons[0]
    assert "of 3.00 GiB used, the step's memory limit" in rows["hoards"].reasons[0]
