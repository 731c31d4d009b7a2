"""A pipeline with each step in a container of its own, against the same run locally."""

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conformance.kfp_runner import PackageRun, run_package
from tests.images.conftest import Built, Podman

from paring.artifacts import read_record
from paring_pipelines.main import main
from paring_pipelines.optimize import Gate, Settings
from paring_pipelines.recipes import load_recipes
from paring_pipelines.running import Outcome, run

RECIPES = """
[recipes.after-training]
steps = [{ step = "convert_tflite", quantization = "int8" }]

[recipes.trained]
steps = [
  { step = "prune", sparsity = 0.5, epochs = 1 },
  { step = "convert_tflite", quantization = "int8" },
]
"""

# By size, since by latency the noise of two short runs might decide.
GATE = "--max-accuracy-drop 0.5 --objective size"
SETTINGS = Settings(gate=Gate(max_accuracy_drop=0.5, objective="size"))


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """A folder that the image's user, who is not this one, may write to."""
    folder = tmp_path / "shared"
    before = os.umask(0)
    try:
        folder.mkdir()
        yield folder
    finally:
        os.umask(before)


def _copied(source: Path, target: Path) -> Path:
    """`source` where containers see it, readable for all."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=shutil.copyfile)
        for folder in [target, *(one for one in target.rglob("*") if one.is_dir())]:
            folder.chmod(0o755)
    else:
        shutil.copyfile(source, target)
    return target


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_each_step_in_its_container_gives_what_the_local_run_gives(
    tmp_path: Path,
    shared: Path,
    podman: Podman,
    cpu_image: Built,
    digits_model: Path,
    digits_npz: Path,
) -> None:
    recipes = tmp_path / "recipes.toml"
    recipes.write_text(RECIPES)
    package = tmp_path / "package.yaml"
    with pytest.raises(SystemExit) as ended:
        main(
            shlex.split(
                f"compile --image {cpu_image.name} --recipes {recipes} --out {package} {GATE}"
            )
        )
    assert not ended.value.code
    (shared / "sources").mkdir()
    model = _copied(digits_model, shared / "sources" / "model")
    examples = _copied(digits_npz, shared / "sources" / "digits.npz")

    # Only below this path does a container share anything with what ran before it.
    in_image = podman.run_command(cpu_image.name, f"--volume={shared}:{shared}")
    by_containers = run_package(
        package,
        shared / "root",
        {"model_uri": str(model), "examples_uri": str(examples), "source_digest": "sha256:1"},
        in_image,
    )
    locally = run(model, examples, load_recipes(recipes), SETTINGS, tmp_path / "local")

    chosen = json.loads((by_containers.path("select", "selection") / "selection.json").read_text())
    assert chosen["selected"] == locally.selection["selected"] != "source"
    _compare_candidates(chosen, locally)
    _check_where_it_ran(by_containers)


def _compare_candidates(chosen: dict[str, Any], locally: Outcome) -> None:
    rows = {row["id"]: row for row in chosen["candidates"]}
    others = {row["id"]: row for row in locally.selection["candidates"]}
    assert rows.keys() == others.keys() == {"source", "after-training", "trained"}
    for name, row in rows.items():
        for figure in ("outcome", "recipe", "accuracy", "agreement", "size_bytes"):
            assert row[figure] == others[name][figure], (name, figure)


def _check_where_it_ran(made: PackageRun) -> None:
    """As the image's user, with the image's distribution of TensorFlow."""
    for task, outputs in made.artifacts.items():
        for output in outputs:
            path = made.path(task, output)
            record = read_record(path)
            if not task.startswith("importer") and record is not None:
                assert path.stat().st_uid == 65532, task
                assert record["lineage"]["environment"]["tensorflow"] != "absent"
