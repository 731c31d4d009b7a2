"""TPUs that are there, and errors about those that are not."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from paring.errors import MissingDependencyError
from paring.system import tpu


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `libtpu` on the path, and no variable of a TPU."""
    folder = tmp_path / "packages"
    folder.mkdir()
    (folder / "libtpu.py").touch()
    monkeypatch.syspath_prepend(folder)
    for name in ("TPU_NAME", "TPU_WORKER_ID", "TPU_SKIP_MDS_QUERY"):
        monkeypatch.delenv(name, raising=False)


def _device(root: Path, name: str) -> Path:
    file = root / "dev" / name
    file.parent.mkdir(parents=True)
    file.touch()
    return root


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["", "local"])
def test_a_tpu_of_this_machine_that_is_not_there_is_an_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPU_NAME", name)
    with pytest.raises(MissingDependencyError, match="no TPU that this process can use") as caught:
        tpu.require_tpu(tmp_path)
    assert "no device /dev/accel0" in caught.value.received
    assert f"TPU_NAME={name or 'not set'}" in caught.value.received
    assert "google.com/tpu" in caught.value.remedy


def test_without_the_library_that_is_named(tmp_path: Path) -> None:
    root = _device(tmp_path, "accel0")
    with pytest.raises(MissingDependencyError, match="no TPU") as caught:
        tpu.require_tpu(root)
    assert caught.value.received.startswith("libtpu not installed")
    assert "tensorflow-tpu" in caught.value.remedy


@pytest.mark.usefixtures("library")
def test_a_device_of_the_driver_is_a_tpu(tmp_path: Path) -> None:
    assert tpu.require_tpu(_device(tmp_path, "accel0")) == "local"


@pytest.mark.usefixtures("library")
def test_a_vfio_device_is_a_tpu_where_a_variable_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _device(tmp_path, "vfio/0")
    assert not tpu.has_chips(root)
    monkeypatch.setenv("TPU_WORKER_ID", "0")
    assert tpu.require_tpu(root) == "local"


@pytest.fixture
def server() -> Iterator[tuple[socket.socket, int]]:
    """A server on loopback, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening, listening.getsockname()[1]


@pytest.mark.usefixtures("library")
def test_an_address_that_does_not_answer_is_named(
    server: tuple[socket.socket, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listening, port = server
    name = f"grpc://127.0.0.1:{port}"
    monkeypatch.setenv("TPU_NAME", name)
    assert tpu.require_tpu(tmp_path) == name
    listening.close()
    with pytest.raises(MissingDependencyError, match=f"127.0.0.1:{port} does not") as caught:
        tpu.require_tpu(tmp_path)
    assert caught.value.received == f"TPU_NAME={name}"


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("name", ["grpc://10.255.255.1:8470", "my-tpu"])
def test_what_never_answers_is_given_up_after_a_while(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_: object, **__: object) -> None:
        time.sleep(60)

    # A network that drops packets, and a name server that does not answer.
    monkeypatch.setattr(socket, "create_connection", hang)
    monkeypatch.setattr(tpu, "_SECONDS", 0.1)
    monkeypatch.setenv("TPU_NAME", name)
    with pytest.raises(MissingDependencyError, match="can't be reached"):
        tpu.require_tpu(tmp_path)


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("grpc://10.0.0.2:8471", [("10.0.0.2", 8471)]),
        ("grpc://10.0.0.2", [("10.0.0.2", 8470)]),
        ("grpc://a:1,grpc://b:2", [("a", 1), ("b", 2)]),
        ("my-tpu", [("169.254.169.254", 80)]),
    ],
)
def test_what_must_answer_follows_from_the_name(
    name: str, addresses: list[tuple[str, int]]
) -> None:
    assert tpu._addresses(name) == addresses


@pytest.mark.usefixtures("library")
def test_the_metadata_server_is_asked_where_there_is_a_tpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tpu.skip_metadata_server(_device(tmp_path / "with", "accel0"))
    assert "TPU_SKIP_MDS_QUERY" not in os.environ
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "0")
    tpu.skip_metadata_server(tmp_path)
    assert os.environ["TPU_SKIP_MDS_QUERY"] == "0"
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY")
    tpu.skip_metadata_server(tmp_path)
    assert os.environ.pop("TPU_SKIP_MDS_QUERY") == "1"


def test_without_the_library_nothing_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    tpu.skip_metadata_server(tmp_path)
    assert "TPU_SKIP_MDS_QUERY" not in os.environ
