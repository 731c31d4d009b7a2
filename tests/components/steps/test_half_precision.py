"""Steps that train give right models of one that was trained with mixed_float16."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Model
from paring.execution import Call, execute
from paring.models.loading import load_keras
from paring.step import Step
from paring.steps.cluster import cluster
from paring.steps.convert_tflite import convert_tflite
from paring.steps.import_model import import_model
from paring.steps.prune import prune
from paring.steps.prune_channels import prune_channels
from paring.steps.quantize import quantize

generator = np.random.default_rng(0)
IMAGES = generator.random((300, 8, 8, 1)).astype(np.float32)
IMAGES[:, :, :4] += (np.arange(300) % 2)[:, None, None, None]
LABELS = np.arange(300) % 2


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("examples") / "examples.npz"
    np.savez(file, x_train=IMAGES, y_train=LABELS, x_eval=IMAGES, y_eval=LABELS)
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tf_keras

    layers = tf_keras.layers
    tf_keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        tf_keras.utils.set_random_seed(0)
        network = tf_keras.Sequential(
            [
                tf_keras.Input((8, 8, 1), name="image"),
                layers.Conv2D(8, 3),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(16, 3, activation="relu"),
                layers.GlobalAveragePooling2D(),
                layers.Dense(2, activation="softmax", dtype="float32", name="scores"),
            ]
        )
    finally:
        tf_keras.mixed_precision.set_global_policy("float32")
    network.compile(tf_keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    network.fit(IMAGES, LABELS, epochs=6, verbose=0)
    original = tmp_path_factory.mktemp("trained") / "model.keras"
    network.save(original)
    out = original.with_name("imported")
    execute(import_model, Call({"original": original}, {"model": out}, {}))
    return out


def accuracy(scores: Any) -> float:
    return float(np.mean(np.asarray(scores).argmax(axis=1) == LABELS))


def zeros(network: Any) -> float:
    kernel = network.layers[3].get_weights()[0]
    return float(np.mean(kernel == 0))


@pytest.mark.parametrize(
    ("step", "changed"),
    [
        (prune, lambda model: zeros(load_keras(model)) > 0.4),
        (prune_channels, lambda model: model.channels_removed > 0),
        (cluster, lambda model: model.distinct_weights <= 16),
        (quantize, lambda model: model.quantized_tensors > 4),
    ],
    ids=["prune", "prune_channels", "cluster", "quantize"],
)
def test_training_steps_work_in_float32(
    step: Step, changed: Callable[[Any], bool], trained: Path, examples: Path, tmp_path: Path
) -> None:
    output = next(iter(step.outputs))
    call = Call({"model": trained, "examples": examples}, {output: tmp_path / "out"}, {"epochs": 1})
    model = execute(step, call)[output]
    assert isinstance(model, Model)
    assert model.source_precision == ("mixed_float16",)
    assert model.trained_on == "one_device, 1 replica, float32"
    assert changed(model)
    assert accuracy(load_keras(model)(IMAGES)) > 0.95
    call = Call(
        {"model": model.path, "examples": examples},
        {"converted": tmp_path / "int8"},
        {"quantization": "int8"},
    )
    execute(convert_tflite, call)
