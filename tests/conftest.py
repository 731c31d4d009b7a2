"""Fixtures for all tests: real digits, and a small network trained on them."""

import os
from pathlib import Path

# Before anything imports TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from paring_pipelines.demo import (
    Digits,
    build_network,
    fit_network,
    read_digits,
    write_digits_examples,
)


@pytest.fixture(scope="session")
def digits() -> Digits:
    """x_train, y_train, x_eval, y_eval: float32 [n, 32, 32, 1] and int64 [n]."""
    return read_digits()


@pytest.fixture(scope="session")
def digits_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file with the arrays of `digits`."""
    file = tmp_path_factory.mktemp("examples") / "digits.npz"
    write_digits_examples(file)
    return file


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """The trained network in both forms: `saved_model/` and `model.keras`."""
    import tf_keras

    folder = tmp_path_factory.mktemp("model")
    tf_keras.utils.set_random_seed(0)
    network = build_network((12, 24, 48, 64))
    accuracy = fit_network(network, digits, epochs=4)
    if accuracy < 0.9:
        raise RuntimeError(f"the test model did not learn: accuracy {accuracy}")
    network.save(folder / "saved_model", save_format="tf", include_optimizer=False)
    network.save(folder / "model.keras")
    return folder


@pytest.fixture(scope="session")
def digits_model(digits_folder: Path) -> Path:
    """A SavedModel folder: input `image`, output `digit`, over 90% accurate."""
    return digits_folder / "saved_model"


@pytest.fixture(scope="session")
def digits_keras(digits_folder: Path) -> Path:
    """The same network as a tf_keras `.keras` file."""
    return digits_folder / "model.keras"
