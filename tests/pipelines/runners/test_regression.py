"""A run on a regressor: another metric from the labels to the report."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.runners.session import run

RECIPES = """
[recipes.int8]
steps = [{ step = "convert_tflite", quantization = "int8" }]

[recipes.pruned]
steps = [
  { step = "prune", sparsity = 0.9, epochs = 1 },
  { step = "convert_tflite", quantization = "int8" },
]
"""

METRIC = """
import numpy as np

def error(predictions, labels):
    return np.abs(predictions[:, 0] - labels)

error.lower_is_better = True
"""


@pytest.fixture
def regressor(tmp_path: Path) -> tuple[Path, Path]:
    """A network on scikit-learn's diabetes data as a .keras file, and those data."""
    import tf_keras

    x, y = load_diabetes(return_X_y=True)
    x = (x / x.std(axis=0)).astype(np.float32)
    tf_keras.utils.set_random_seed(0)
    measures = tf_keras.Input((10,), name="measures")
    hidden = tf_keras.layers.Dense(32, activation="relu")(measures)
    network = tf_keras.Model(measures, tf_keras.layers.Dense(1, name="progression")(hidden))
    network.compile(tf_keras.optimizers.Adam(0.01), "mse")
    network.fit(x[:350], y[:350], epochs=20, verbose=0)
    network.save(tmp_path / "model.keras")
    examples = tmp_path / "diabetes.npz"
    np.savez(examples, x_train=x[:350], y_train=y[:350], x_eval=x[350:], y_eval=y[350:])
    return tmp_path / "model.keras", examples


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_regressor_is_optimized_and_an_edited_metric_is_looked_at_anew(
    regressor: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "recipes.toml"
    file.write_text(RECIPES)
    recipes = load_recipes(file)
    out = tmp_path / "out"
    first = run(
        *regressor,
        recipes=recipes,
        settings=Settings(objective="size", brief=True),
        out=out,
    )
    rows = {row.id: row for row in first.selection.candidates}
    assert first.selection.metric.name == "rmse"
    assert first.selection.selected == "int8"
    assert rows["pruned"].outcome == "rejected"
    assert rows["pruned"].reasons[0].startswith("RMSE grows by")
    assert rows["int8"].score == pytest.approx(rows["source"].score, rel=0.01)
    assert first.selection.verdict.endswith("RMSE.")
    assert "Latency against RMSE" in first.report.read_text()

    monkeypatch.chdir(tmp_path)
    module = tmp_path / "metric_of_a_run.py"
    evaluated = {f"evaluate-{name}" for name in rows}
    settings = Settings(objective="size", brief=True, metric="metric_of_a_run:error")
    for text in (METRIC, METRIC + "# edited\n"):
        module.write_text(text)
        again = run(*regressor, recipes=recipes, settings=settings, out=out)
        assert not evaluated & set(again.cached)
        assert "prune-pruned" in again.cached
    unchanged = run(*regressor, recipes=recipes, settings=settings, out=out)
    assert evaluated <= set(unchanged.cached)
    assert unchanged.selection.source.score == pytest.approx(mean_error(*regressor), rel=1e-4)


def mean_error(model: Path, examples: Path) -> float:
    """The mean absolute error on the eval split, by Keras alone."""
    import tf_keras

    with np.load(examples) as arrays:
        predicted = tf_keras.models.load_model(model, compile=False)(arrays["x_eval"]).numpy()
        return float(np.abs(predicted[:, 0] - arrays["y_eval"]).mean())
