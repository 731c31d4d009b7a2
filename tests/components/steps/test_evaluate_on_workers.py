"""Workers in other processes give the same results as one in this process."""

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers import beam_servers
from tests.helpers.beam_servers import POOL, free_port, is_open, python_module, wait_for
from tests.helpers.saved_models import save_signature

from paring.errors import ModelError, OutputError, ParameterError, StepFailedError
from paring.execution import Call, execute
from paring.steps.evaluate import evaluate
from paring.storage import list_below
from paring.system import interruption

TWO_PROCESSES = "--direct_num_workers=2 --direct_running_mode=multi_processing"
ROWS = 157
"""In batches of 16, so that the last one is smaller."""


def judge(pair: dict[str, Path], out: Path, **parameters: object) -> dict[str, Any]:
    """Return the content of evaluation.json."""
    result = execute(evaluate, Call(pair, {"evaluation": out}, {"batch_size": 16, **parameters}))
    written: dict[str, Any] = json.loads(
        (result["evaluation"].path / "evaluation.json").read_text()
    )
    return written


def save_network(folder: Path, name: str, seed: int, activation: str) -> Path:
    import tf_keras

    tf_keras.utils.set_random_seed(seed)
    image = tf_keras.Input((8, 8, 1), name="image")
    digit = tf_keras.layers.Dense(10, activation, name="digit")(tf_keras.layers.Flatten()(image))
    save_signature(tf_keras.Model(image, digit), folder / name)
    return folder / name


def in_tflite(model: Path) -> Path:
    import tensorflow as tf

    file = model.with_suffix(".tflite")
    file.write_bytes(tf.lite.TFLiteConverter.from_saved_model(str(model)).convert())
    return file


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two different ones, the candidate in TFLite, with images and labels."""
    folder = tmp_path_factory.mktemp("classifiers")
    generator = np.random.default_rng(0)
    images = generator.normal(size=(ROWS, 8, 8, 1)).astype(np.float32)
    labels = generator.integers(0, 10, ROWS)
    np.savez(folder / "images.npz", x_train=images, y_train=labels, x_eval=images, y_eval=labels)
    candidate = in_tflite(save_network(folder, "candidate", 1, "softmax"))
    source = save_network(folder, "source", 0, "softmax")
    return {"source": source, "candidate": candidate, "examples": folder / "images.npz"}


@pytest.fixture(scope="module")
def regressors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two different ones, with images and values."""
    folder = tmp_path_factory.mktemp("regressors")
    generator = np.random.default_rng(0)
    images = generator.normal(size=(ROWS, 8, 8, 1)).astype(np.float32)
    values = generator.normal(size=(ROWS, 10)).astype(np.float32)
    np.savez(folder / "values.npz", x_train=images, y_train=values, x_eval=images, y_eval=values)
    paths = [save_network(folder, name, seed, "linear") for seed, name in enumerate("ab")]
    return {"source": paths[0], "candidate": paths[1], "examples": folder / "values.npz"}


@pytest.fixture(scope="module")
def in_one_worker(
    tmp_path_factory: pytest.TempPathFactory, classifiers: dict[str, Path]
) -> dict[str, Any]:
    """Evaluation of the classifiers by one worker in this process."""
    return judge(classifiers, tmp_path_factory.mktemp("one") / "evaluation")


@pytest.fixture(scope="module")
def job_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Beam's own job server, in a process of its own."""
    with beam_servers.job_server(tmp_path_factory.mktemp("job-server")) as address:
        yield address


@pytest.fixture(scope="module")
def worker_pool(tmp_path_factory: pytest.TempPathFactory, s3_endpoint: str) -> Iterator[str]:
    """The address of a pool that starts workers as processes, as a container beside Flink's."""
    port = free_port()
    store = {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        # The pool starts `python`.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    folder = tmp_path_factory.mktemp("pool")
    arguments = f"--service_port={port}"
    with python_module(folder, POOL, arguments, environment=store) as process:
        wait_for(process, lambda: is_open(port))
        yield f"localhost:{port}"


def on_loopback(job_server: str) -> str:
    return f"--runner=PortableRunner --job_endpoint={job_server} --environment_type=LOOPBACK"


def test_two_processes_find_what_one_worker_finds(
    tmp_path: Path, classifiers: dict[str, Path], in_one_worker: dict[str, Any]
) -> None:
    assert in_one_worker["count"] == ROWS
    assert 0 < in_one_worker["agreement"] < 1
    result = judge(classifiers, tmp_path / "evaluation", beam_options=TWO_PROCESSES)
    assert result == in_one_worker


def test_mean_errors_of_workers_are_the_same_bit_for_bit(
    tmp_path: Path, regressors: dict[str, Path], job_server: str
) -> None:
    alone = judge(regressors, tmp_path / "alone")
    result = judge(
        regressors,
        tmp_path / "portable",
        beam_options=on_loopback(job_server),
        shared_dir=str(tmp_path / "shared"),
    )
    assert alone["metric"] == "rmse"
    assert result == alone


def test_a_portable_runner_finds_the_same_and_leaves_nothing(
    tmp_path: Path,
    classifiers: dict[str, Path],
    in_one_worker: dict[str, Any],
    job_server: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared = tmp_path / "shared"
    with caplog.at_level(logging.WARNING):
        result = judge(
            classifiers,
            tmp_path / "evaluation",
            beam_options=on_loopback(job_server),
            shared_dir=str(shared),
        )
    assert result == in_one_worker
    assert list(shared.iterdir()) == []
    assert caplog.records == []


def test_workers_of_another_process_fetch_everything_from_a_store(
    tmp_path: Path,
    classifiers: dict[str, Path],
    in_one_worker: dict[str, Any],
    job_server: str,
    worker_pool: str,
    bucket: str,
) -> None:
    options = f"--runner=PortableRunner --job_endpoint={job_server}"
    options += f" --environment_type=EXTERNAL --environment_config={worker_pool}"
    result = judge(
        classifiers,
        tmp_path / "evaluation",
        beam_options=options,
        shared_dir=f"s3://{bucket}/shared",
    )
    assert result == in_one_worker
    assert list(list_below(f"s3://{bucket}")) == []


@pytest.mark.parametrize("place", ["processes", "portable"])
def test_the_error_of_a_worker_keeps_its_class_and_leaves_nothing(
    tmp_path: Path, classifiers: dict[str, Path], request: pytest.FixtureRequest, place: str
) -> None:
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no flatbuffer")
    shared = tmp_path / "shared"
    shared.mkdir()
    where = {"beam_options": TWO_PROCESSES}
    if place == "portable":
        options = on_loopback(request.getfixturevalue("job_server"))
        where = {"beam_options": options, "shared_dir": str(shared)}
    with pytest.raises(ModelError, match=r"broken\.tflite"):
        judge(classifiers | {"candidate": broken}, tmp_path / "evaluation", **where)
    assert list(shared.iterdir()) == []
    assert not (tmp_path / "evaluation").exists()


def test_a_pipeline_that_breaks_is_an_error_and_leaves_nothing(
    tmp_path: Path, classifiers: dict[str, Path], job_server: str
) -> None:
    nobody = f"localhost:{free_port()}"
    options = f"--runner=PortableRunner --job_endpoint={job_server}"
    options += f" --environment_type=EXTERNAL --environment_config={nobody}"
    shared = tmp_path / "shared"
    with pytest.raises(StepFailedError, match="did not run to its end on PortableRunner"):
        judge(
            classifiers,
            tmp_path / "evaluation",
            beam_options=options,
            shared_dir=str(shared),
        )
    assert list(shared.iterdir()) == []


def test_a_job_server_that_is_not_there_is_an_error_and_leaves_nothing(
    tmp_path: Path, classifiers: dict[str, Path]
) -> None:
    shared = tmp_path / "shared"
    server = f"localhost:{free_port()}"
    options = on_loopback(server) + " --job_server_timeout=1"
    with pytest.raises(StepFailedError, match=f"no answer from {server} within 1 s"):
        judge(classifiers, tmp_path / "evaluation", beam_options=options, shared_dir=str(shared))
    assert list(shared.iterdir()) == []


def test_a_shared_folder_that_cannot_be_written_is_an_error(
    tmp_path: Path, classifiers: dict[str, Path], job_server: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="can't be written"):
        judge(
            classifiers,
            tmp_path / "evaluation",
            beam_options=on_loopback(job_server),
            shared_dir=str(tmp_path / "file"),
        )


def test_a_worker_with_another_file_of_the_metric_is_an_error(
    tmp_path: Path,
    classifiers: dict[str, Path],
    job_server: str,
    worker_pool: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The pool's workers are in another working directory, which has no such module.
    (tmp_path / "metric_of_workers.py").write_text(
        "def right(predictions, labels):\n    return predictions.argmax(axis=1) == labels\n"
    )
    monkeypatch.chdir(tmp_path)
    options = f"--runner=PortableRunner --job_endpoint={job_server}"
    options += f" --environment_type=EXTERNAL --environment_config={worker_pool}"
    with pytest.raises(ParameterError, match="metric_of_workers"):
        judge(
            classifiers,
            tmp_path / "evaluation",
            metric="metric_of_workers:right",
            beam_options=options,
            shared_dir=str(tmp_path / "shared"),
        )


def test_an_interruption_leaves_nothing(
    tmp_path: Path,
    classifiers: dict[str, Path],
    job_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "metric_that_waits.py").write_text(
        "import pathlib, time\n"
        "def right(predictions, labels):\n"
        "    pathlib.Path(__file__).with_name('reached').touch()\n"
        "    while not pathlib.Path(__file__).with_name('go').exists():\n"
        "        time.sleep(0.05)\n"
        "    return predictions.argmax(axis=1) == labels\n"
    )
    monkeypatch.chdir(tmp_path)
    shared = tmp_path / "shared"
    held: list[str] = []

    def interrupt() -> None:
        while not (tmp_path / "reached").exists():
            time.sleep(0.05)
        held.extend(path.name for path in shared.iterdir())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt), interruption.handle_interrupts():
        judge(
            classifiers,
            tmp_path / "evaluation",
            metric="metric_that_waits:right",
            beam_options=on_loopback(job_server),
            shared_dir=str(shared),
        )
    thread.join()
    assert len(held) == 1
    assert list(shared.iterdir()) == []
    assert not (tmp_path / "evaluation").exists()
    (tmp_path / "go").touch()
