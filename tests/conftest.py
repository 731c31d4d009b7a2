"""Fixtures for all tests: real digits, a small network trained on them, an S3 server."""

import faulthandler
import gc
import inspect
import logging
import os
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Before anything imports TensorFlow, which reads it once.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import pytest
from tests.helpers.warm_measuring import Subprocess

from paring_pipelines.demo import (
    Digits,
    build_network,
    fit_network,
    read_digits,
    write_digits_examples,
)

# More new objects than Python waits for by default until it looks at them: with TensorFlow
# loaded, which makes objects by the hundred thousand, it looks a seventh of all time.
_GC_THRESHOLDS = (20_000, 20, 20)

_GRACE_SECONDS = 60
"""How long after its timeout a test that hangs in native code ends its process."""


# No test is timed: what else the machine does must not decide.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests, so that no process ends long after the others.

    Each process gets whole files, in this order.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def _frames_without_source(context: int = 0) -> list[inspect.FrameInfo]:
    """As `inspect.stack`, but for the lines of source.

    For these it goes through all modules for each frame, and the tests have thousands of
    both. KFP's compiler asks for a method's name by it dozens of times, TensorFlow for frames.
    """
    result = []
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        item = (frame, code.co_filename, frame.f_lineno, code.co_name, None, None)
        result.append(inspect.FrameInfo(*item))
        frame = frame.f_back
    return result


inspect.stack = _frames_without_source


def pytest_collection_finish() -> None:
    """Collect garbage less often; see `_GC_THRESHOLDS`."""
    gc.set_threshold(*_GC_THRESHOLDS)


_LONG_SECONDS = 0.1
"""Processor time of a full collection of garbage after which its objects are frozen."""

_is_collecting_long = False


@contextmanager
def _timed_collections() -> Iterator[None]:
    """Note within it whether a full collection of garbage took long."""
    begin = 0.0

    def note(phase: str, about: dict[str, int]) -> None:
        nonlocal begin
        global _is_collecting_long
        if about["generation"] < 2:
            return
        if phase == "start":
            begin = time.thread_time()
        else:
            _is_collecting_long |= time.thread_time() - begin > _LONG_SECONDS

    gc.callbacks.append(note)
    try:
        yield
    finally:
        gc.callbacks.remove(note)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop() -> Iterator[object]:
    with _timed_collections():
        return (yield)


def pytest_runtest_setup() -> None:
    """Keep what imports and other tests leave behind out of further collections of garbage.

    Steps collect it after each model, dozens of times for one export, a second each time among
    all that TensorFlow, TFX and their like hold for ever.
    """
    global _is_collecting_long
    if _is_collecting_long:
        gc.collect()
        gc.freeze()
        _is_collecting_long = False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the process where a test hangs in native code, which no signal handler interrupts.

    pytest-timeout fails any other test that hangs. With `--max-worker-restart 0` the end
    of the process fails the run, and names the test.
    """
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0] if marker else item.config.getini("timeout"))
    faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True, file=sys.__stderr__)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name what has failed at once: a run that is ended before its summary shows nothing."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        reason = getattr(getattr(report.longrepr, "reprcrash", None), "message", "").split("\n")[0]
        sys.stdout.write(f"\nFAILED {report.nodeid} ({report.when}): {reason[:200]}\n")
        sys.stdout.flush()


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


@pytest.fixture
def warm_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork measuring children from a process that has imported TensorFlow already."""
    monkeypatch.setattr("paring.benchmarking.process.subprocess", Subprocess)


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
