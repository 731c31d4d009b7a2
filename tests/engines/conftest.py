"""Fixtures: engines for all tests of a session, and models to evaluate on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.engines.engines import Engines, Flink, Spark, prepare, processes, worker_pool
from tests.helpers.saved_models import save_signature

BATCH = 16
METRIC = "metric_of_engines:right"
"""Metric top-1 that takes two seconds for a batch while there is a file `held`."""

WORKED = "worked-"
"""Prefix of the files that `METRIC` leaves beside itself, one for each process that it ran in."""

_METRIC = f"""\
import os, pathlib, time

def right(predictions, labels):
    folder = pathlib.Path(__file__).parent
    (folder / "reached").touch()
    (folder / f"{WORKED}{{os.getpid()}}").touch()
    end = time.monotonic() + 2
    while (folder / "held").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return predictions.argmax(axis=1) == labels
"""


@dataclass(frozen=True)
class Inputs:
    """Paths of what `evaluate` takes."""

    source: Path
    candidate: Path
    examples: Path


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    """Namespaces for engines, with a worker pool and `METRIC` in its folder."""
    with Engines(prepare()) as started:
        (started.folder / "metric_of_engines.py").write_text(_METRIC)
        yield started


@pytest.fixture(scope="session")
def flink(engines: Engines) -> Flink:
    """Flink session cluster with two slots, and Beam's job server for it."""
    result = Flink(engines)
    result.start()
    return result


@pytest.fixture(scope="session")
def spark(engines: Engines) -> Spark:
    """Spark master with a worker, and Beam's job server for it."""
    result = Spark(engines)
    result.start()
    return result


@pytest.fixture(scope="session", params=["flink", "spark"])
def engine(request: pytest.FixtureRequest) -> Flink | Spark:
    """Each engine."""
    result: Flink | Spark = request.getfixturevalue(request.param)
    return result


@pytest.fixture(scope="session")
def environments(engines: Engines) -> dict[str, str]:
    """Options of each environment of the workers."""
    return {
        "LOOPBACK": "--environment_type=LOOPBACK",
        "PROCESS": processes(engines),
        "EXTERNAL": f"--environment_type=EXTERNAL --environment_config={worker_pool(engines)}",
    }


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Two classifiers that differ, the candidate in TFLite, with 500 examples."""
    import tensorflow as tf
    import tf_keras

    folder = tmp_path_factory.mktemp("classifiers")
    for seed, name in enumerate(("source", "candidate")):
        tf_keras.utils.set_random_seed(seed)
        point = tf_keras.Input((4,), name="point")
        scores = tf_keras.layers.Dense(10, "softmax", name="digit")(point)
        save_signature(tf_keras.Model(point, scores), folder / name)
    candidate = folder / "candidate.tflite"
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "candidate"))
    candidate.write_bytes(converter.convert())
    return Inputs(folder / "source", candidate, save_examples(folder / "examples.npz", 500))


def save_examples(file: Path, rows: int) -> Path:
    """Write `rows` points with labels as the eval split."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(rows, 4)).astype(np.float32)
    labels = generator.integers(0, 10, rows)
    np.savez(file, x_train=points[:8], y_train=labels[:8], x_eval=points, y_eval=labels)
    return file
