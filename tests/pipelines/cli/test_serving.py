"""`paring versions` and `paring rollback`, and the node that pushes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.pipelines.conftest import Paring

from paring.serving.versions import Version, publish
from paring_pipelines.kubeflow.compile import compile_dag
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings


@pytest.fixture
def serving(tmp_path: Path, bare_model: Path) -> Path:
    """A destination with two versions."""
    import tensorflow as tf

    place = tmp_path / "serving"
    lite = tmp_path / "lite"
    lite.mkdir()
    converter = tf.lite.TFLiteConverter.from_saved_model(str(bare_model))
    (lite / "model.tflite").write_bytes(converter.convert())
    for folder, candidate in ((bare_model, "source"), (lite, "float32")):
        publish(str(place), folder, Version(action="push", candidate=candidate, run="paring run"))
    return place


def test_versions_are_listed_with_what_became_of_them(paring: Paring, serving: Path) -> None:
    code, shown, _ = paring("versions", serving)
    assert code == 0
    assert "float32" in shown
    assert "(newest)" in shown
    assert "rolled back" not in shown
    _, text, _ = paring("versions", serving, "--json")
    assert [load["candidate"] for load in json.loads(text)] == ["source", "float32"]


def test_a_rollback_is_told_and_listed(paring: Paring, serving: Path) -> None:
    code, shown, _ = paring("rollback", serving)
    assert code == 0
    assert f"{serving}/3 is the newest version now, of the bytes of 1" in shown
    _, shown, _ = paring("versions", serving)
    assert "push, rolled back" in shown
    assert "rollback to 1 (newest)" in shown
    code, shown, _ = paring("rollback", serving, "--to", 1)
    assert code == 0
    assert "/3 is the newest version, and holds these bytes" in shown
    code, shown, _ = paring("rollback", serving, "--to", 2)
    assert "/4 is the newest version now, of the bytes of 2" in shown


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["versions", "absent"], "no versions"),
        (["rollback", "absent"], "no versions"),
        (["versions", "s3x://bucket/x"], "'s3'"),
        (["plan", "--push-source"], "--push-to"),
    ],
)
def test_what_can_not_be_done_is_named(arguments: list[str], named: str, paring: Paring) -> None:
    code, _, error = paring(*arguments)
    assert code == 2
    assert named in error
    assert "to fix it:" in error


def test_the_push_is_the_last_node_where_it_is_asked_for() -> None:
    recipes = load_recipes(target="cpu-server")
    assert "push" not in build(recipes, Settings()).nodes
    dag = build(recipes, Settings(push_to="s3://bucket/serving", push_source=True, command="it"))
    *_, (name, node) = dag.nodes.items()
    assert name == "push"
    assert node.parameters == {
        "destination": "s3://bucket/serving",
        "push_source": True,
        "run": "it",
        "trust_model": False,
        "trust_engine": True,
        "signature": "",
    }
    assert not node.tolerate


def test_kubeflow_does_not_cache_the_push(tmp_path: Path) -> None:
    dag = build(load_recipes(target="cpu-server"), Settings(push_to="s3://bucket/serving"))
    compile_dag(dag, tmp_path / "pipeline.yaml", image="paring:1")
    spec: dict[str, Any] = yaml.safe_load((tmp_path / "pipeline.yaml").read_text())
    tasks = spec["root"]["dag"]["tasks"]
    assert tasks["push"]["cachingOptions"] == {}
    assert tasks["report"]["cachingOptions"] == {"enableCache": True}
    assert set(tasks["push"]["dependentTasks"]) == {"select"}


def test_tfx_does_not_cache_the_push() -> None:
    from tfx import types

    from paring.adapters import tfx
    from paring.steps.push import push
    from paring.steps.select import select

    def identity(step: Any, **arguments: Any) -> str:
        made = tfx.component(step, identity="work", **arguments)
        return str(made.exec_properties["paring_identity"])

    channels = {
        name: types.Channel(type=tfx.tfx_type(spec.type)) for name, spec in push.inputs.items()
    }
    assert identity(push, **channels) != identity(push, **channels)
    family = {name: {} for name in select.inputs}
    assert identity(select, **family) == "work"
