"""Runs of recipes that train on models without a Keras form."""

from pathlib import Path

import pytest

from paring.artifacts import PrunedModel
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.runners.session import run

RECIPES = """
[recipes.pruned]
steps = [
  { step = "prune", epochs = 1 },
  { step = "cluster", preserve_sparsity = true, epochs = 1 },
  { step = "convert_tflite" },
]
"""


@pytest.mark.slow
def test_a_bare_saved_model_is_pruned_clustered_and_measured(
    bare_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipes.toml").write_text(RECIPES)
    recipes = load_recipes(tmp_path / "recipes.toml")
    settings = Settings(brief=True)
    outcome = run(bare_model, digits_npz, recipes=recipes, settings=settings, out=tmp_path / "out")
    rows = {item.id: item for item in outcome.selection.candidates}
    assert rows["pruned"].outcome in ("selected", "passed", "rejected")
    assert rows["pruned"].agreement is not None
    assert rows["pruned"].p50_ms is not None
    (folder,) = (tmp_path / "out").glob("pipeline/artifacts/prune-pruned/pruned/*")
    pruned = PrunedModel.load(folder)
    assert (pruned.sparsity, pruned.trained_form) == (0.5, "graph")
