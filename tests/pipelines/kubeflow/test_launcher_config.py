"""Kubeflow's default pipeline root, read from a cluster's API on loopback."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from paring.errors import ParameterError
from paring_pipelines.kubeflow.launcher_config import BUILT_IN_ROOT, default_root, runs_namespace


@dataclass
class Cluster:
    """Cluster's API as it answers requests for the ConfigMap.

    Attributes:
        status: The HTTP status.
        data: Of the ConfigMap.
        requests: Path and token of each request.
    """

    status: int = 200
    data: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster that a kubeconfig names."""
    cluster = Cluster()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            cluster.requests.append((self.path, self.headers.get("authorization", "")))
            result = {"kind": "ConfigMap", "apiVersion": "v1", "data": cluster.data}
            refused = {"kind": "Status", "message": "configmaps is forbidden"}
            content = json.dumps(result if cluster.status == 200 else refused).encode()
            self.send_response(cluster.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    _write_kubeconfig(tmp_path / "config", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    try:
        yield cluster
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _write_kubeconfig(file: Path, url: str) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "ann"}}],
        "clusters": [{"name": "test", "cluster": {"server": url}}],
        "users": [{"name": "ann", "user": {"token": "secret"}}],
    }
    file.write_text(yaml.safe_dump(document))


def test_the_root_that_the_config_map_names_is_taken(cluster: Cluster) -> None:
    cluster.data = {"defaultPipelineRoot": "gs://artifacts/kfp", "providers": ""}
    assert default_root("team", timeout=5) == "gs://artifacts/kfp"
    assert cluster.requests == [
        ("/api/v1/namespaces/team/configmaps/kfp-launcher", "Bearer secret")
    ]


@pytest.mark.parametrize("data", [{}, {"defaultPipelineRoot": ""}])
def test_without_one_it_is_kubeflows_own(data: dict[str, str], cluster: Cluster) -> None:
    cluster.data = data
    assert default_root("kubeflow", timeout=5) == BUILT_IN_ROOT


def test_without_the_config_map_it_is_kubeflows_own(cluster: Cluster) -> None:
    cluster.status = 404
    assert default_root("kubeflow", timeout=5) == BUILT_IN_ROOT


def test_an_account_that_may_not_is_told_the_option(cluster: Cluster) -> None:
    cluster.status = 403
    with pytest.raises(ParameterError, match="403") as raised:
        default_root("team", timeout=5)
    assert "namespace team" in str(raised.value)
    assert raised.value.remedy.startswith("give --pipeline-root")
    assert len(cluster.requests) == 1


def test_a_cluster_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    with pytest.raises(ParameterError, match="kube-config"):
        default_root("kubeflow", timeout=5)
    _write_kubeconfig(tmp_path / "absent", "http://127.0.0.1:9")
    with pytest.raises(ParameterError, match=r"127\.0\.0\.1"):
        default_root("kubeflow", timeout=5)


@pytest.mark.parametrize(
    ("host", "namespace", "expected"),
    [
        ("http://ml-pipeline.kubeflow.svc.cluster.local:8888", "", "kubeflow"),
        ("http://ml-pipeline.pipelines:8888", "", "pipelines"),
        ("http://ml-pipeline.kubeflow:8888", "team", "team"),
        ("http://localhost:8888", "", "kubeflow"),
        ("https://kfp.example.com/", "", "kubeflow"),
    ],
)
def test_runs_are_in_the_users_namespace_or_in_that_of_the_api(
    host: str, namespace: str, expected: str
) -> None:
    assert runs_namespace(host, namespace) == expected
