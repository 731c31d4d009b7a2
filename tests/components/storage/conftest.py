"""Buckets on servers that look at each request before moto answers it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.conformance.gcs_server import GcsServer, serving


@contextmanager
def _serving(look: Callable[[dict[str, Any]], None]) -> Iterator[str]:
    """The address of an S3 server that shows each request to `look`."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    moto = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Any) -> Any:
        look(environ)
        return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def careless_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a server that takes no notice of If-None-Match."""
    with _serving(lambda environ: environ.pop("HTTP_IF_NONE_MATCH", None)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield bucket


@pytest.fixture
def copied(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Paths of the copies that were requested of the server, in order."""
    paths: list[str] = []

    def look(environ: dict[str, Any]) -> None:
        if "HTTP_X_AMZ_COPY_SOURCE" in environ:
            paths.append(environ["PATH_INFO"])

    with _serving(look) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        yield paths


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    """Google Cloud Storage's API on loopback."""
    with serving() as server:
        yield server


@pytest.fixture
def gcs(gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[GcsServer]:
    """The same with one empty bucket, `models`; the environment says where it is."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server.address)
    # Only loopback gets requests for credentials, or for the kind of a bucket.
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    gcs_server.objects["models"] = {}
    yield gcs_server
    gcs_server.ignores_conditions = False
