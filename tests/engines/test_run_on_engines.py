"""`paring run` evaluates its candidates on the engine of its Beam options."""

from pathlib import Path

import pytest
from tests.engines.commands import PARING, options
from tests.engines.conftest import Inputs
from tests.engines.engines import Engines, Flink

from paring.selection.candidates import SelectionResult

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]

RECIPE = """\
[recipes.tflite-float16]
about = "Half precision."
steps = [{ step = "convert_tflite", quantization = "fp16" }]
"""


def test_a_run_evaluates_on_the_engine(
    tmp_path: Path, engines: Engines, flink: Flink, environments: dict[str, str], inputs: Inputs
) -> None:
    out, recipes = tmp_path / "run", tmp_path / "recipes.toml"
    recipes.write_text(RECIPE)
    command = [
        *PARING,
        "run",
        f"--model={inputs.source}",
        f"--examples={inputs.examples}",
        f"--recipes={recipes}",
        "--brief",
        f"--out={out}",
        # Both are evaluated at the same time, which are two jobs; a pool serves one.
        f"--beam-options={options(flink, environments['PROCESS'])}",
        f"--shared-dir={tmp_path / 'shared'}",
    ]
    before = flink.jobs()
    process = engines.start("run", command)
    assert process.wait() == 0, engines.log("run").read_text()
    # The source and the candidate.
    assert flink.jobs() == before + 2
    rows = SelectionResult.read(out / "selection.json").candidates
    assert {row.id: row.agreement for row in rows} == {"source": 1, "tflite-float16": 1}
