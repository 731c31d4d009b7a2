"""Sample weights in every step that trains, from a column or from imported examples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.saved_models import save_signature

from paring.artifacts import Model
from paring.errors import ExamplesError
from paring.execution import Call, execute
from paring.models.loading import load_keras
from paring.step import Step
from paring.steps.cluster import cluster
from paring.steps.distill import distill
from paring.steps.import_examples import import_examples
from paring.steps.prune import prune
from paring.steps.prune_channels import prune_channels
from paring.steps.quantize import quantize

STEPS: dict[str, tuple[Step, dict[str, Any]]] = {
    "prune": (prune, {"allocation": "sensitivity"}),
    "cluster": (cluster, {"clusters": 4}),
    "quantize": (quantize, {}),
    "prune_channels": (prune_channels, {}),
    "distill": (distill, {"student": f"{__name__}:student", "feature_weight": 0.1}),
}
COUNT = 200


def student(shape: tuple[int, ...], units: int) -> Any:
    import tf_keras

    return tf_keras.Sequential(
        [
            tf_keras.Input(shape),
            tf_keras.layers.Dense(4, "relu"),
            tf_keras.layers.Dense(units, "softmax"),
        ]
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small classifier, weighted examples, and those of them with weights above 0."""
    import tf_keras

    folder = tmp_path_factory.mktemp("weighted")
    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    network = tf_keras.Sequential(
        [tf_keras.Input((8,), name="x"), layers.Dense(16, "relu"), layers.Dense(3, "softmax")]
    )
    save_signature(network, folder / "model")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(COUNT, 8)).astype(np.float32)
    given = {"x": x, "y": x[:, :3].argmax(axis=1), "w": generator.integers(0, 4, COUNT) / 2}
    kept = {name: array[given["w"] > 0] for name, array in given.items()}
    for name, item in {"weighted": given, "kept": kept}.items():
        both = {f"{key}_{part}": value for key, value in item.items() for part in ("train", "eval")}
        np.savez(folder / f"{name}.npz", **both)
    return {name: folder / name for name in ("model", "weighted.npz", "kept.npz")}


@pytest.fixture
def train(files: dict[str, Path], tmp_path: Path) -> Callable[..., Model]:
    """Runs a step briefly."""

    def run(name: str, examples: Path, out: str, **more: Any) -> Model:
        step, parameters = STEPS[name]
        outputs = dict.fromkeys(step.outputs, tmp_path / out)
        inputs = {"model": files["model"], "examples": examples}
        given = {"epochs": 2, "batch_size": 16, **parameters, **more}
        result = next(iter(execute(step, Call(inputs, outputs, given)).values()))
        assert isinstance(result, Model)
        return result

    return run


def _kernels(model: Model) -> list[Any]:
    result: list[Any] = load_keras(model).get_weights()
    return result


@pytest.mark.parametrize("name", STEPS)
def test_every_training_step_takes_weights_and_names_them(
    name: str, train: Callable[..., Model], files: dict[str, Path]
) -> None:
    weighted = train(name, files["weighted.npz"], "weighted", weights="w")
    assert weighted.sample_weights == "w"
    left_out = train(name, files["kept.npz"], "kept", weights="w")
    plain = train(name, files["kept.npz"], "plain")
    assert plain.sample_weights == ""
    pairs = zip(_kernels(weighted), _kernels(left_out), _kernels(plain), strict=True)
    differ = []
    for item, same, other in pairs:
        np.testing.assert_array_equal(item, same)
        differ.append(item.shape != other.shape or not np.array_equal(item, other))
    assert any(differ)
    with pytest.raises(ExamplesError, match="no column of weights 'v'"):
        train(name, files["weighted.npz"], "refused", weights="v")


def test_imported_weights_are_used_without_being_named_again(
    train: Callable[..., Model], files: dict[str, Path], tmp_path: Path
) -> None:
    inputs = {"original": files["weighted.npz"], "model": files["model"]}
    imported = tmp_path / "imported"
    execute(import_examples, Call(inputs, {"examples": imported}, {"weights": "w"}))
    once = train("prune", imported, "once")
    named = train("prune", files["weighted.npz"], "named", weights="w")
    assert once.sample_weights == named.sample_weights == "w"
    for item, other in zip(_kernels(once), _kernels(named), strict=True):
        np.testing.assert_array_equal(item, other)
