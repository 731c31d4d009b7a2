"""Steps in other people's Kubeflow pipelines: files of components, and the example."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conformance.kfp_release import without_release

from paring.adapters.kfp import kfp_type
from paring.catalog import STEPS
from paring.errors import OutputError
from paring_pipelines.cli.compiling import IMAGE
from paring_pipelines.kubeflow.compile import write_components

ROOT = Path(__file__).parents[3]
FILES = ROOT / "components" / "yaml"
EXAMPLE = ROOT / "examples" / "kfp_pipeline.py"
WITHOUT_FAMILIES = [
    name for name, step in STEPS.items() if not any(item.family for item in step.inputs.values())
]


def _compiled(pipeline: Any, folder: Path) -> dict[str, Any]:
    from kfp import compiler

    compiler.Compiler().compile(pipeline, str(folder / "package.yaml"))
    spec: dict[str, Any] = yaml.safe_load((folder / "package.yaml").read_text())
    return spec


def test_the_files_are_those_of_the_catalog(tmp_path: Path) -> None:
    written = write_components(tmp_path, image=IMAGE)
    assert [item.stem for item in written] == WITHOUT_FAMILIES
    assert {path.name for path in FILES.iterdir()} == {item.name for item in written}
    for item in written:
        expected = without_release((FILES / item.name).read_text())
        assert without_release(item.read_text()) == expected, (
            f"the component of {item.stem} changed: look at the difference, and if it is "
            "meant, run `make golden` and commit components/yaml"
        )


@pytest.mark.parametrize("name", WITHOUT_FAMILIES)
def test_a_file_can_be_loaded_and_used_with_another_image(name: str, tmp_path: Path) -> None:
    from kfp import components, dsl

    made = components.load_component_from_file(str(FILES / f"{name}.yaml"))
    step = STEPS[name]
    needed = {key: spec for key, spec in step.inputs.items() if not spec.optional}

    @dsl.pipeline(name="own")
    def own(uri: str) -> None:
        given = {
            key: dsl.importer(artifact_uri=uri, artifact_class=kfp_type(spec.type)).output
            for key, spec in needed.items()
        }
        made(**given).set_container_image("mine@sha256:1")

    spec = _compiled(own, tmp_path)
    (executor,) = [
        item["container"]
        for item in spec["deploymentSpec"]["executors"].values()
        if "container" in item
    ]
    assert executor["image"] == "mine@sha256:1"
    assert executor["command"][:3] == ["paring", "step", name]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--out"):
        write_components(tmp_path / "file", image="i")


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLE))


def test_the_example_pipeline_compiles(example: dict[str, Any], tmp_path: Path) -> None:
    build: Callable[[str], Any] = example["build"]
    spec = _compiled(build("mine@sha256:1"), tmp_path)
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {
        *("importer", "importer-2"),
        *("prune", "convert-tflite", "benchmark", "release"),
    }
    artifacts = tasks["release"]["inputs"]["artifacts"]
    assert {key: item["taskOutputArtifact"]["producerTask"] for key, item in artifacts.items()} == {
        "model": "convert-tflite",
        "figures": "benchmark",
    }
    images = {
        name: item["container"]["image"]
        for name, item in spec["deploymentSpec"]["executors"].items()
        if "container" in item
    }
    assert images.pop("exec-release").startswith("python:")
    assert set(images.values()) == {"mine@sha256:1"}


def test_the_examples_own_component_goes_by_parings_facts(
    example: dict[str, Any], tmp_path: Path
) -> None:
    from kfp import dsl

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_text("weights")
    model = dsl.Model(uri=str(tmp_path / "model"), metadata={"paring_type": "TFLiteModel"})
    figures = dsl.Metrics(uri=str(tmp_path / "figures"), metadata={"speedup_low": 1.4})
    released = dsl.Model(uri=str(tmp_path / "released"))
    arguments = {"model": model, "figures": figures, "released": released}
    with pytest.raises(RuntimeError, match=r"1\.4 times as fast, 1\.5 is required"):
        example["release"].python_func(**arguments, min_speedup=1.5)
    example["release"].python_func(**arguments, min_speedup=1.3)
    assert (tmp_path / "released" / "file").read_text() == "weights"
    assert released.metadata["paring_type"] == "TFLiteModel"
