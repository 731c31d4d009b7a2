"""A store that does less than it says."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def careless_store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket on a server that takes no notice of If-None-Match."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    moto = DomainDispatcherApplication(create_backend_app)

    def careless(environ: dict[str, Any], start_response: Any) -> Any:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return moto(environ, start_response)

    server = make_server("127.0.0.1", 0, careless, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    yield bucket
    server.shutdown()
    thread.join()
    server.server_close()
