"""Steps as TFX components: who runs them, and their facts as properties."""

from contextlib import ExitStack
from pathlib import Path

import pytest
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.types import standard_artifacts

from paring.adapters import tfx
from paring.adapters.tfx import ARTIFACT_CLASSES, publish, tfx_type
from paring.artifacts import (
    Artifact,
    Examples,
    PrunedModel,
    Servable,
    TFLiteModel,
    artifact_types,
)
from paring.execution import Call
from paring.step import Step
from paring.steps.import_model import import_model


def _runner(seen: list[str]) -> tfx.NodeRunner:
    def run(node: str, step: Step, call: Call) -> dict[str, Artifact]:
        seen.append(node)
        return {}

    return run


def _run(node: str, root: Path) -> dict[str, Artifact]:
    """Run a node as `StepExecutor` does, with an output where TFX puts it."""
    call = Call({"original": root / "absent"}, {"model": root / node / "model" / "1"})
    return tfx._node_runner(call)(node, import_model, call)


def test_pipelines_side_by_side_in_one_process_have_each_their_own_runner(tmp_path: Path) -> None:
    roots = [tmp_path / "out" / "artifacts", tmp_path / "other" / "artifacts"]
    seen: list[list[str]] = [[], []]
    with ExitStack() as stack:
        for root, nodes in zip(roots, seen, strict=True):
            stack.enter_context(tfx.nodes_run_by(_runner(nodes), root))
        _run("a", roots[0])
        _run("b", roots[1])
        _run("c", roots[0])
    assert seen == [["a", "c"], ["b"]]


def test_a_pipeline_of_ones_own_runs_its_steps_as_they_are(tmp_path: Path) -> None:
    seen: list[str] = []
    with (
        tfx.nodes_run_by(_runner(seen), tmp_path / "ours"),
        pytest.raises(Exception, match="absent"),
    ):
        _run("import_model", tmp_path / "theirs")
    with pytest.raises(Exception, match="absent"):
        _run("import_model", tmp_path / "ours")
    assert seen == []


def test_one_folder_has_one_runner_at_a_time(tmp_path: Path) -> None:
    with (
        tfx.nodes_run_by(_runner([]), tmp_path),
        pytest.raises(ValueError, match="is running in this process"),
        tfx.nodes_run_by(_runner([]), tmp_path),
    ):
        pass


def test_each_fact_becomes_a_property_of_a_type_that_the_store_holds(tmp_path: Path) -> None:
    pruned = PrunedModel(tmp_path, digest="sha256:1", sparsity=0.5, unpruned_layers=("a, b", "c"))
    stored = tfx_type(PrunedModel)()
    publish(pruned, stored)
    assert (stored.digest, stored.sparsity) == ("sha256:1", 0.5)
    assert (stored.unpruned_layers, stored.not_reached) == ('["a, b", "c"]', "[]")

    stored = tfx_type(TFLiteModel)()
    publish(TFLiteModel(tmp_path, holds_state=True), stored)
    assert type(stored.holds_state) is int
    assert stored.holds_state == 1


def test_facts_of_standard_types_are_custom_properties(tmp_path: Path) -> None:
    stored = standard_artifacts.Examples()
    publish(Examples(tmp_path, digest="sha256:1", train_count=3, labelled=True), stored)
    assert stored.get_string_custom_property("digest") == "sha256:1"
    assert stored.get_int_custom_property("train_count") == 3
    assert stored.get_int_custom_property("labelled") == 1


@pytest.mark.parametrize("name", sorted(ARTIFACT_CLASSES))
def test_each_type_is_a_kind_of_those_that_ml_metadata_knows(name: str, tmp_path: Path) -> None:
    kinds = mlmd.ArtifactType
    expected = kinds.MODEL if issubclass(artifact_types()[name], Servable) else kinds.METRICS
    others = {"Examples": kinds.DATASET, "CalibrationSet": kinds.DATASET, "Report": kinds.UNSET}
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = str(tmp_path / "metadata.sqlite")
    config.sqlite.connection_mode = config.sqlite.READWRITE_OPENCREATE
    store = MetadataStore(config)
    made = ARTIFACT_CLASSES[name]._get_artifact_type()
    # A folder of results of before has the type without a kind.
    earlier = mlmd.ArtifactType()
    earlier.CopyFrom(made)
    earlier.ClearField("base_type")
    for kind in (earlier, made):
        store.put_artifact_type(kind, can_add_fields=True, can_omit_fields=True)
    stored = store.get_artifact_type(ARTIFACT_CLASSES[name].TYPE_NAME)
    assert stored.base_type == others.get(name, expected)
