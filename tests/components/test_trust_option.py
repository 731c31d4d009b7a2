"""Trust comes from the option of the step that opens a model, never from a record."""

import json
from pathlib import Path

import pytest

from paring.artifacts import Model, PrunedModel, Servable
from paring.catalog import STEPS
from paring.errors import UntrustedModelError
from paring.execution import Call, execute
from paring.step import TRUST_MODEL, Input, Output, step


@step
def copy(model: Input[Model], copied: Output[PrunedModel]) -> None:
    """Copy `model`."""
    copied.note = str(model.trusted)


def test_every_step_that_opens_a_model_takes_the_option() -> None:
    for item in STEPS.values():
        takes = any(issubclass(s.type, Servable) for s in item.inputs.values())
        # The report only describes them.
        assert (TRUST_MODEL in item.parameters) == (takes and item.name != "report")


def test_a_record_that_calls_its_model_trusted_is_not_believed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    record = {"type": "Model", "facts": {"trusted": 1, "keras": "tf_keras"}, "failure": None}
    record["lineage"] = {"step": "import_model", "parameters": {"trust_model": True}}
    (folder / "paring.json").write_text(json.dumps(record))
    assert not Model.load(folder).trusted
    assert "trusted" not in Model.fact_types()
    for parameters, seen in (({}, "False"), ({"trust_model": True}, "True")):
        call = Call({"model": folder}, {"copied": tmp_path / "out"}, parameters)
        assert execute(copy, call)["copied"].facts()["note"] == seen
        assert "trusted" not in json.loads((tmp_path / "out" / "paring.json").read_text())["facts"]


def test_a_step_by_hand_refuses_a_folder_that_calls_itself_trusted(tmp_path: Path) -> None:
    import h5py
    import numpy as np

    folder, witness = tmp_path / "model", tmp_path / "witness"
    (folder / "Format-Keras").mkdir(parents=True)
    layer = {
        "class_name": "TFOpLambda",
        "config": {"name": "hostile", "function": "io.write_file"},
        "name": "hostile",
        "inbound_nodes": [["_CONSTANT_VALUE", -1, str(witness), {"contents": "x"}]],
    }
    config = {"class_name": "Functional", "config": {"name": "model", "layers": [layer]}}
    with h5py.File(folder / "Format-Keras" / "model.keras", "w") as stored:
        stored.attrs["model_config"] = json.dumps(config)
        stored.attrs["keras_version"] = "2.21.0"
    record = {"type": "Model", "facts": {"trusted": 1}, "failure": None, "lineage": {}}
    (folder / "paring.json").write_text(json.dumps(record))
    examples = tmp_path / "examples.npz"
    np.savez(examples, x=np.zeros((4, 2), np.float32), y=np.zeros(4, np.int64))
    call = Call({"model": folder, "examples": examples}, {"pruned": tmp_path / "out"})
    with pytest.raises(UntrustedModelError, match=r"io\.write_file"):
        execute(STEPS["prune"], call)
    assert not witness.exists()


def test_the_option_reaches_every_step_of_a_pipeline() -> None:
    from paring_pipelines.pipeline.optimize import build
    from paring_pipelines.pipeline.recipes import load_recipes
    from paring_pipelines.pipeline.settings import Settings

    for trusted in (False, True):
        dag = build(list(load_recipes()), Settings(trust_model=trusted))
        values = {
            node.id: node.parameters[TRUST_MODEL]
            for node in dag.nodes.values()
            if TRUST_MODEL in node.parameters
        }
        assert set(values.values()) == {trusted}
        assert len(values) > 20
