"""The record of a complete run, which answers for the same run."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.pipelines.conftest import RECIPES, SETTINGS

from paring.artifacts import Artifact, Failure, artifact
from paring_pipelines.pipeline.dag import Dag
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import Recipe
from paring_pipelines.runners.base import RunResult
from paring_pipelines.runners.recorded_run import find_recorded_run, record_run
from paring_pipelines.runners.session import PublishedRun

PROGRAM = """
import json, sys
from pathlib import Path
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.runners.session import run
model, examples, recipes, out = map(Path, sys.argv[1:])
done = run(
    model, examples, recipes=load_recipes(recipes), settings=Settings(brief=True), out=out
)
imported = [name for name in ("tensorflow", "tfx", "apache_beam") if name in sys.modules]
print(json.dumps([imported, done.cached, done.selection.selected]))
"""


@pytest.fixture
def recorded(
    first_run: tuple[Path, PublishedRun], few_recipes: list[Recipe], tmp_path: Path
) -> tuple[Path, Dag, dict[str, str], RunResult]:
    """A copy of the folder of a run, its graph, identities and result."""
    shutil.copytree(first_run[0] / "pipeline", tmp_path / "pipeline")
    root = tmp_path / "pipeline"
    nodes = json.loads((root / "last_run.json").read_text())
    dag = build(few_recipes, replace(SETTINGS, title="model"))
    identities = {node: item["identity"] for node, item in nodes.items()}
    result = find_recorded_run(root, dag, identities)
    assert result is not None
    assert set(result.outputs) == set(dag.nodes)
    assert result.cached == list(dag.nodes)
    return root, dag, identities, result


def test_the_same_run_in_another_process_imports_neither_tfx_nor_tensorflow(
    first_run: tuple[Path, PublishedRun], bare_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    out, first = first_run
    recipes = tmp_path / "recipes.toml"
    recipes.write_text(RECIPES)
    arguments = [bare_model, digits_npz, recipes, out]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    imported, cached, selected = json.loads(done.stdout)
    assert imported == []
    assert len(cached) == first.nodes
    assert selected == first.selection.selected


def test_other_work_is_not_answered(
    recorded: tuple[Path, Dag, dict[str, str], RunResult],
) -> None:
    root, dag, identities, _ = recorded
    assert find_recorded_run(root, dag, identities | {"select": "other"}) is None
    assert find_recorded_run(root, dag, identities | {"more": "x"}) is None


@pytest.mark.parametrize("change", ["content", "record", "facts", "missing", "metadata", "cut off"])
def test_what_is_not_as_it_was_written_is_not_answered(
    change: str, recorded: tuple[Path, Dag, dict[str, str], RunResult]
) -> None:
    root, dag, identities, result = recorded
    converted = result.outputs["convert_tflite-float32"]["converted"]
    if change == "content":
        file = converted / "Format-Serving" / "model.tflite"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif change == "record":
        (converted / "paring.json").unlink()
    elif change == "facts":
        file = result.outputs["evaluate-float32"]["evaluation"] / "paring.json"
        content = json.loads(file.read_text())
        content["facts"]["drop"] = 0.5
        file.write_text(json.dumps(content))
    elif change == "missing":
        shutil.rmtree(result.outputs["prune_channels-pruned"]["pruned"])
    elif change == "metadata":
        (root / "metadata.sqlite").unlink()
    else:
        file = root / "last_run.json"
        file.write_text(file.read_text()[:-20])
    assert find_recorded_run(root, dag, identities) is None


@pytest.mark.parametrize(
    ("node", "output", "name"),
    [
        ("select", "selected", "Format-Serving/saved_model.pb"),
        ("select", "selection", "selection.json"),
        ("report", "report", "report.html"),
    ],
)
def test_results_are_read_before_they_are_put_in_place_again(
    recorded: tuple[Path, Dag, dict[str, str], RunResult],
    monkeypatch: pytest.MonkeyPatch,
    node: str,
    output: str,
    name: str,
) -> None:
    root, dag, identities, result = recorded
    folder = result.outputs[node][output]
    file = folder / name
    if not file.is_file():
        (file,) = (folder / "Format-Serving").glob("model.*")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    # As a fault of the disk would leave it, which changes no time.
    monkeypatch.setattr(artifact, "_newest", lambda folder: 0)
    assert find_recorded_run(root, dag, identities) is None


def test_a_failure_that_is_to_be_tried_again_leaves_no_record(
    recorded: tuple[Path, Dag, dict[str, str], RunResult],
) -> None:
    root, dag, identities, answer = recorded
    path = answer.outputs["prune_channels-pruned"]["pruned"]
    loaded = Artifact.load(path)
    assert loaded.failure is not None
    assert loaded.failure.outcome == "unsupported"
    loaded.failure = Failure("failed", "prune_channels", "out of memory")
    loaded.save()
    record_run(root, dag, identities=identities, result=answer)
    assert not (root / "last_run.json").exists()
