"""A whole run on a signature that the user names."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.signatures import expected, save_estimator, save_examples

from paring.errors import UnsupportedError
from paring.models.saved_model import SavedModel
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.runners.session import run

RECIPES = """
[recipes.optimized]
steps = [{ step = "optimize_savedmodel", keep = "accurate", xla = false, precision = "float32" }]

[recipes.float32]
steps = [{ step = "convert_tflite" }]
"""


@pytest.mark.timeout(540)
def test_an_estimator_is_optimized_and_pushed_by_its_predict(tmp_path: Path) -> None:
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter

    (tmp_path / "recipes.toml").write_text(RECIPES)
    recipes = load_recipes(tmp_path / "recipes.toml")
    save_estimator(tmp_path / "model")
    x = save_examples(tmp_path / "examples.npz")
    given = (tmp_path / "model", tmp_path / "examples.npz")
    settings = Settings(
        brief=True, signature="predict", push_to=str(tmp_path / "serving"), push_source=True
    )
    made = run(*given, recipes=recipes, settings=settings, out=tmp_path / "out")
    rows = {row.id: row for row in made.selection.candidates}
    assert rows["optimized"].agreement == rows["float32"].agreement == 1
    assert rows["optimized"].speedup
    assert rows["float32"].speedup
    optimized, converted = (Path(rows[name].artifact) for name in ("optimized", "float32"))
    assert SavedModel(optimized / "Format-Serving").keys == SavedModel(tmp_path / "model").keys
    loaded = tf.saved_model.load(str(optimized / "Format-Serving"))
    result = loaded.signatures["predict"](x=tf.constant(x))["scores"].numpy()
    np.testing.assert_allclose(result, expected(x)["predict"], atol=1e-6)
    file = converted / "Format-Serving" / "model.tflite"
    assert list(Interpreter(str(file)).get_signature_list()) == ["predict"]
    record = json.loads((tmp_path / "serving" / "1" / "paring.json").read_text())
    assert record["facts"]["signature"] == "predict"
    # No figure of the other signature answers for this one.
    with pytest.raises(UnsupportedError, match="--signature predict"):
        run(*given, recipes=recipes, settings=Settings(brief=True), out=tmp_path / "out")
