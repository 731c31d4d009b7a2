"""Nodes of the pipeline that tries all recipes."""

from pathlib import Path

import pytest

from paring.errors import ParameterError
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import TARGETS, load_recipes
from paring_pipelines.pipeline.settings import Settings

RECIPES = """
[recipes.twice]
steps = [{ step = "prune", sparsity = 0.2 }, { step = "prune", sparsity = 0.5 }]

[recipes.on]
steps = [
  { step = "prune", sparsity = 0.2 },
  { step = "prune", sparsity = 0.5 },
  { step = "convert_tflite" },
]
"""


def test_a_node_states_the_candidate_that_it_builds_or_measures(tmp_path: Path) -> None:
    (tmp_path / "recipes.toml").write_text(RECIPES)
    dag = build(load_recipes(tmp_path / "recipes.toml"), Settings(tune_batch=True))
    assert {name: node.candidate for name, node in dag.nodes.items()} == {
        "import_model": "",
        "import_examples": "",
        "profile": "",
        "draw_calibration": "",
        "prune-twice": "twice",
        "prune-twice.2": "twice",
        # What it shares with the recipe before stands with that one.
        "convert_tflite-on": "on",
        **{
            f"{step}-{name}": name
            for step in ("evaluate", "benchmark")
            for name in ("source", "twice", "on")
        },
        "select": "",
        "tune_batch": "",
        "report": "",
    }


@pytest.mark.parametrize("target", TARGETS)
def test_every_recipe_is_a_candidate_beside_the_source(target: str) -> None:
    recipes = load_recipes(target=target)
    dag = build(recipes, Settings())
    measured = [node.candidate for node in dag.nodes.values() if node.step.name == "benchmark"]
    assert measured == ["source", *(recipe.name for recipe in recipes)]


def test_the_signature_is_that_of_the_source_alone_and_changes_every_identity() -> None:
    recipes = load_recipes(target="cpu-server")
    dag, plain = (build(recipes, Settings(signature=name)) for name in ("predict", ""))
    taken = {n: node.parameters.get("signature") for n, node in dag.nodes.items()}
    assert taken.pop("import_model") == "predict"
    # What is made of it has it in its record. This one opens no model.
    assert {name for name, value in taken.items() if value != ""} == {"report"}
    digests = {"model": "m", "examples": "e"}
    before, after = (item.identities(digests, "machine") for item in (plain, dag))
    assert not [name for name in before if before[name] == after[name]]


def test_a_recipe_can_not_name_a_signature(tmp_path: Path) -> None:
    file = tmp_path / "recipes.toml"
    file.write_text('[recipes.x]\nsteps = [{ step = "convert_tflite", signature = "predict" }]\n')
    with pytest.raises(ParameterError, match="signature is said of a whole run"):
        load_recipes(file)
