"""`paring.optimize`, as a script or a notebook calls it."""

import doctest
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paring
from paring.adapters import in_memory
from paring.errors import ExamplesError, ModelError, OutputError, ParameterError
from paring.runtimes import open_runtime
from paring.selection.candidates import SelectionResult
from paring_pipelines import api

RECIPES = """
[recipes.float32]
steps = [{ step = "convert_tflite" }]
"""


@pytest.fixture(scope="module")
def arrays() -> dict[str, Any]:
    """Points, and on which side of a line they are."""
    points = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    labels = (points.sum(1) > 0).astype(np.int64)
    return {
        **{"x_train": points[:200], "y_train": labels[:200]},
        **{"x_eval": points[200:], "y_eval": labels[200:]},
    }


@pytest.fixture(scope="module")
def model(arrays: dict[str, Any]) -> Any:
    """A small network that was trained on them."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    layers = [tf_keras.layers.Dense(8, "relu"), tf_keras.layers.Dense(2, "softmax")]
    made = tf_keras.Sequential([tf_keras.Input((2,), name="point"), *layers], name="sides")
    made.compile(tf_keras.optimizers.Adam(0.05), "sparse_categorical_crossentropy")
    made.fit(arrays["x_train"], arrays["y_train"], epochs=10, verbose=0)
    return made


@pytest.fixture(scope="module")
def result(
    model: Any, arrays: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> api.Result:
    file = tmp_path_factory.mktemp("recipes") / "own.toml"
    file.write_text(RECIPES)
    return paring.optimize(model, arrays, recipes=file, brief=True)


def test_a_model_in_memory_is_optimized(
    result: api.Result, model: Any, arrays: dict[str, Any]
) -> None:
    assert {candidate.id for candidate in result.candidates} == {"source", "float32"}
    assert result.verdict == str(result)
    predicted = model(arrays["x_eval"]).numpy()
    accuracy = (predicted.argmax(1) == arrays["y_eval"]).mean()
    assert result.selection.source.score == pytest.approx(accuracy, abs=1e-6)
    runtime = open_runtime(result.selected)
    (name,) = runtime.inputs
    (answer,) = runtime.run({name: arrays["x_eval"][:1]}).values()
    runtime.close()
    np.testing.assert_allclose(answer, predicted[:1], atol=1e-5)


def test_a_notebook_shows_the_table_and_the_report(result: api.Result) -> None:
    shown = result._repr_html_()
    HTMLParser().feed(shown)
    assert shown.count("<tr") == 3
    assert "Latency p50" in shown
    assert "srcdoc=" in shown
    assert "<script" not in shown


def test_what_is_saved_outlives_the_result(result: api.Result, tmp_path: Path) -> None:
    folder = result.save(tmp_path / "kept")
    assert SelectionResult.read(folder / "selection.json") == result.selection
    assert (folder / "report.html").read_text() == result.report.read_text()
    paring.SelectedModel.load(folder / "selected").verify(thoroughly=True)
    with pytest.raises(OutputError, match="must be new or empty"):
        result.save(folder)
    assert result.save(tmp_path / "empty" / "new").is_dir()


def test_an_unknown_recipe_is_named_beside_those_there_are() -> None:
    with pytest.raises(ParameterError, match="no-such-recipe") as caught:
        paring.optimize("model", "examples.npz", recipes=["no-such-recipe"])
    assert "tflite-float32" in str(caught.value)


def test_the_temporary_folder_of_a_call_that_fails_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ModelError):
        paring.optimize("missing", "missing.npz")
    assert not list(tmp_path.iterdir())


def test_an_unknown_runner_is_named(tmp_path: Path) -> None:
    runner: Any = "airflow"
    with pytest.raises(ParameterError, match="runner: input should be 'local' or 'beam'"):
        paring.optimize("missing", "missing.npz", out=tmp_path, runner=runner)


def test_arrays_are_written_under_any_name(tmp_path: Path) -> None:
    given = {name: np.arange(3) for name in ("file", "allow_pickle", "x_eval", "größe/1")}
    with np.load(in_memory.examples_path(given, tmp_path)) as written:
        assert {name: list(written[name]) for name in written} == {
            name: [0, 1, 2] for name in given
        }


@pytest.mark.slow
def test_the_example_of_the_docstring_runs(
    model: Any, arrays: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = doctest.DocTestFinder(recurse=False).find(
        api.optimize, "optimize", globs={"model": model, "examples": arrays}
    )
    assert doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize(
    ("model", "examples", "error", "message"),
    [
        (object(), {}, ModelError, "must be a path, or a model of tf_keras or Keras 3"),
        ("missing", "missing.npz", ModelError, "path does not exist"),
        ("", "missing.npz", ModelError, "must be a path, or a model"),
        ("missing", [1, 2], ExamplesError, "must be a path, or arrays by name"),
        ("missing", {"x_train": [[1], [1, 2]]}, ExamplesError, "x_train is no array of numbers"),
        ("missing", {"x_train": [object()]}, ExamplesError, "x_train is no array of numbers"),
    ],
)
def test_wrong_sources_are_refused(
    model: Any, examples: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        paring.optimize(model, examples)
