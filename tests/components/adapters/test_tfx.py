"""Steps as TFX components: who runs them, and their facts as properties."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.orchestration.pipeline import Pipeline
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
from paring.steps.select import select


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


def test_a_selection_is_blessed_as_evaluator_blesses_where_a_candidate_passed(
    family: Any, tmp_path: Path
) -> None:
    family.add("int8", speedup=5.0, size_bytes=250_000)
    importers = {
        (kind, name): Importer(
            source_uri=str(path), artifact_type=tfx_type(select.inputs[kind].type)
        ).with_id(f"{kind}-{name}")
        for kind, paths in family.inputs.items()
        for name, path in paths.items()
    }
    families: dict[str, dict[str, Any]] = {kind: {} for kind in family.inputs}
    for (kind, name), importer in importers.items():
        families[kind][name] = importer.outputs["result"]
    config = sqlite_metadata_connection_config(str(tmp_path / "metadata.sqlite"))
    nodes = [
        tfx.component(select, node_id="within", **families),
        tfx.component(select, node_id="beyond", max_size_mb=1e-9, **families),
        tfx.component(select, node_id="broken", recipes="[", tolerate=True, **families),
    ]
    root = tmp_path / "root"
    LocalDagRunner().run(Pipeline("p", str(root), config, components=[*importers.values(), *nodes]))
    store = MetadataStore(config)
    blessings = {
        Path(item.uri).relative_to(root).parts[0]: item
        for item in store.get_artifacts_by_type("ModelBlessing")
    }
    for node, blessed, file, current in (
        ("within", 1, "BLESSED", "int8"),
        ("beyond", 0, "NOT_BLESSED", "source"),
        ("broken", 0, "NOT_BLESSED", ""),
    ):
        properties = blessings[node].custom_properties
        assert properties["blessed"].int_value == blessed
        assert [item.name for item in Path(blessings[node].uri).iterdir()] == [file]
        assert properties["baseline_model"].string_value == str(family.path("candidates", "source"))
        if current:
            uri = str(family.path("candidates", current))
            assert properties["current_model"].string_value == uri
            (model,) = store.get_artifacts_by_uri(uri)
            assert properties["current_model_id"].int_value == model.id
        else:
            assert "current_model" not in properties
