"""The examples in the docstrings of the steps, as a reader would run them."""

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.warm_measuring import ShortSubprocess

import paring
from paring.catalog import STEPS

LATER = {"select": ("select",), "report": ("select", "report"), "push": ("select", "push")}
"""Steps whose examples go on after those of others."""


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """`paring`, a small network that was trained on the images of `arrays`, and these."""
    import tf_keras

    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    images = random.normal(0, 0.3, (200, 8, 8, 1)).astype(np.float32)
    images[labels == 1, :, :4] += 1
    arrays = {
        **{"x_train": images[:160], "y_train": labels[:160]},
        **{"x_eval": images[160:], "y_eval": labels[160:]},
    }
    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    network = tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(2, "softmax", name="side"),
        ]
    )
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(images[:160], labels[:160], epochs=5, verbose=0)
    return {"paring": paring, "network": network, "arrays": arrays}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_the_example_of_each_step_runs(
    name: str,
    names: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("paring.benchmarking.process.subprocess", ShortSubprocess)
    known = dict(names)
    for item in LATER.get(name, (name,)):
        text = STEPS[item].function.__doc__ or ""
        example = doctest.DocTestParser().get_doctest(text, known, item, None, 0)
        assert example.examples, item
        result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(
            example, clear_globs=False
        )
        assert not result.failed
        known = example.globs
