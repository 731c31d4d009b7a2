"""A bare SavedModel, whose layers no training step takes, and one run of the pipeline."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.helpers.step_server import lasting_server
from tests.helpers.warm_measuring import ShortSubprocess

from paring_pipelines.cli.main import main
from paring_pipelines.pipeline.recipes import Recipe, load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.runners.session import PublishedRun, run

Paring = Callable[..., tuple[int, str, str]]
"""Runs a command; gives its exit code, standard output and error."""

RECIPES = """
[recipes.float32]
steps = [{ step = "convert_tflite" }]

[recipes.pruned]
steps = [{ step = "prune_channels" }, { step = "convert_tflite" }]
"""


SETTINGS = Settings(brief=True)
"""Of `first_run`."""


@pytest.fixture(autouse=True)
def _short_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole pipelines measure often; what a measurement is, is tested with its step."""
    monkeypatch.setattr("paring.benchmarking.process.subprocess", ShortSubprocess)


@pytest.fixture(scope="session", autouse=True)
def _step_server() -> Iterator[None]:
    """One server of steps for all runs of these tests."""
    with lasting_server():
        yield


@pytest.fixture
def recipes(tmp_path: Path) -> Path:
    """A file with one recipe."""
    file = tmp_path / "recipes.toml"
    file.write_text('[recipes.float32]\nsteps = [{ step = "convert_tflite" }]\n')
    return file


@pytest.fixture
def paring(capsys: pytest.CaptureFixture[str]) -> Paring:
    """Runs a command in this process."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return call


@pytest.fixture(scope="session")
def bare_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel without Keras: one dense layer with fixed weights."""
    import tensorflow as tf

    class Dense(tf.Module):
        def __init__(self) -> None:
            weights = np.random.default_rng(0).normal(size=(32 * 32, 10))
            self.weights = tf.Variable(weights.astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec([None, 32, 32, 1], tf.float32, "image")])
        def serve(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
            flat = tf.reshape(image, [-1, 32 * 32])
            return {"digit": tf.nn.softmax(tf.matmul(flat, self.weights))}

    module = Dense()
    folder = tmp_path_factory.mktemp("bare") / "model"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


@pytest.fixture(scope="session")
def few_recipes(tmp_path_factory: pytest.TempPathFactory) -> list[Recipe]:
    """One recipe that works on a bare SavedModel, and one that can't."""
    path = tmp_path_factory.mktemp("recipes") / "few.toml"
    path.write_text(RECIPES)
    return load_recipes(path)


@pytest.fixture(scope="session")
def shared_run(
    tmp_path_factory: pytest.TempPathFactory,
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
) -> tuple[Path, PublishedRun]:
    """The output folder that all tests share, and what came of the first run in it."""
    out = tmp_path_factory.mktemp("run") / "out"
    return out, run(bare_model, digits_npz, recipes=few_recipes, settings=SETTINGS, out=out)


@pytest.fixture
def first_run(
    shared_run: tuple[Path, PublishedRun],
    bare_model: Path,
    digits_npz: Path,
    few_recipes: list[Recipe],
) -> tuple[Path, PublishedRun]:
    """The output folder of a run on the bare model, and what came of it.

    The folder holds that run's results, whatever other tests have run in it since.
    """
    run(bare_model, digits_npz, recipes=few_recipes, settings=SETTINGS, out=shared_run[0])
    return shared_run
