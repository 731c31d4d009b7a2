"""Fixtures for all tests: real digits, a small network trained on them, an S3 server."""

import logging
import os
import uuid
from collections.abc import Iterator
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


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of moto's S3 server, on loopback."""
    from moto.server import ThreadedMotoServer

    # One line for each request, on stderr.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket; the environment says where it is."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    from paring.storage import filesystem

    name = f"bucket-{uuid.uuid4().hex[:12]}"
    filesystem(f"s3://{name}").mkdir(name)
    return name
