"""Subjects of the rules, built from a Python function by way of a SavedModel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from paring.audit import Subject
from paring.graphs.graph import frozen_graph, load_function
from paring.models.saved_model import SavedModel


def read(folder: Path) -> Subject:
    """The subject of a SavedModel."""
    signature = SavedModel(folder).signature()
    function = load_function(SavedModel(folder))
    return Subject(SavedModel(folder).meta_graph, signature, frozen_graph(function, signature))


@pytest.fixture
def subject_of(tmp_path: Path) -> Callable[..., Subject]:
    """The subject of a function of tensors, of variables that are given, or of a Keras model."""
    import tensorflow as tf

    def made(function: Any, *specs: Any, **variables: Any) -> Subject:
        module = tf.Module()
        for name, item in variables.items():
            setattr(module, name, item)
        module.serve = tf.function(function, input_signature=specs)
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        tf.saved_model.save(module, str(folder), signatures=module.serve)
        return read(folder)

    return made


@pytest.fixture(scope="session")
def digits_subject(digits_model: Path) -> Subject:
    """The digits network, in which nothing is wrong."""
    return read(digits_model)


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """MobileNetV2 of Keras 3 at full size, in which nothing is wrong."""
    import keras

    folder = tmp_path_factory.mktemp("mobilenet") / "model"
    keras.utils.set_random_seed(0)
    keras.applications.MobileNetV2(weights=None).export(folder, verbose=False)
    return read(folder)
