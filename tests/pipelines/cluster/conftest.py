"""A small compiled pipeline, and a Kubeflow on loopback that takes it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conformance.kfp_server import KfpServer

from paring.artifacts import Examples, Model
from paring.import_examples import import_examples
from paring.import_model import import_model
from paring_pipelines.cluster.client import Kubeflow
from paring_pipelines.cluster.connection import Connection
from paring_pipelines.cluster.package import Package, read_package
from paring_pipelines.dag import Dag
from paring_pipelines.on_kfp import compile_dag

TIMEOUT = 0.25
"""Seconds that the client waits for an answer. The server, where it stalls, takes twice."""

Compile = Callable[..., Path]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """Compiles two tasks; other text in `image` makes another plan."""

    def compile_small(image: str = "paring:test") -> Path:
        dag = Dag("small", {"model": Model, "examples": Examples})
        model = dag.add("import_model", import_model, {"original": dag.source("model")})
        inputs = {"original": dag.source("examples"), "model": model.out("model")}
        dag.add("import_examples", import_examples, inputs)
        file = tmp_path_factory.mktemp("package") / "pipeline.yaml"
        compile_dag(dag, file, image=image)
        return file

    return compile_small


@pytest.fixture(scope="session")
def package(compiled: Compile) -> Package:
    """A pipeline that Kubeflow takes."""
    return read_package(compiled())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KfpServer]:
    """A Kubeflow for one user; what it was asked must be what its API declares."""
    with KfpServer(tmp_path / "kfp.sqlite", stall=2 * TIMEOUT) as one:
        yield one
    assert one.violations == []


@pytest.fixture
def kubeflow(server: KfpServer) -> Kubeflow:
    """A client of `server` that has little patience."""
    return Kubeflow(Connection(server.url, timeout=TIMEOUT, first_wait=0.01))


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A file that stands for a model, which nobody reads here."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    return str(folder)


@pytest.fixture
def examples(tmp_path: Path) -> str:
    """A file that stands for examples."""
    (tmp_path / "examples.npz").write_bytes(b"arrays")
    return str(tmp_path / "examples.npz")
