"""A small compiled pipeline, and a Kubeflow on loopback that takes it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conformance.kfp_server import KfpServer

from paring.artifacts import Examples, Model
from paring.steps.import_examples import import_examples
from paring.steps.import_model import import_model
from paring_pipelines.kubeflow.client import Kubeflow
from paring_pipelines.kubeflow.compile import compile_dag
from paring_pipelines.kubeflow.connection import Connection
from paring_pipelines.kubeflow.package import Package, read_package
from paring_pipelines.kubeflow.placement import Placement, Retry
from paring_pipelines.pipeline.dag import Dag
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings

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
    with KfpServer(tmp_path / "kfp.sqlite", stall=2 * TIMEOUT) as item:
        yield item
    assert item.violations == []


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


@pytest.fixture
def endpoint(server: KfpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has commands in this process ask `server`."""
    monkeypatch.setenv("KFP_ENDPOINT", server.url)
    # Set by the command where it is not, which would then stay.
    monkeypatch.setenv("PYTHONWARNINGS", os.environ.get("PYTHONWARNINGS", ""))


RECIPES = """
[recipes.float32]
steps = [{ step = "convert_tflite" }]

[recipes.pruned]
steps = [{ step = "prune" }, { step = "convert_tflite" }]
"""


@pytest.fixture(scope="session")
def optimizing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pipeline with two recipes, compiled; its training is tried again twice."""
    folder = tmp_path_factory.mktemp("optimizing")
    (folder / "recipes.toml").write_text(RECIPES)
    dag = build(load_recipes(folder / "recipes.toml"), Settings())
    placements = {"prune-pruned": Placement(retry=Retry(2, 30, 2, 3600))}
    compile_dag(dag, folder / "pipeline.yaml", image="paring:test", placements=placements)
    return folder / "pipeline.yaml"
