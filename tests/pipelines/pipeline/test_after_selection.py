"""Optional steps after the selection: tuning, and the check for TPUs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.pipelines.conftest import Paring

from paring_pipelines.kubeflow.compile import compile_dag
from paring_pipelines.kubeflow.placement_rules import place
from paring_pipelines.pipeline.dag import Dag, Edge
from paring_pipelines.pipeline.optimize import Sample, build
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings

RUNTIME = Path(__file__).parents[3] / "k8s" / "runtime.toml"


def _dag(sample: Sample | None = None, **settings: Any) -> Dag:
    return build(load_recipes(target="cpu-server"), Settings(**settings), sample)


def test_the_selected_model_is_tuned_where_it_is_asked_for() -> None:
    assert not {"tune_batch", "check_tpu"} & set(_dag().nodes)
    dag = _dag(tune_batch=True, push_to="serving")
    assert list(dag.nodes)[-4:] == ["select", "tune_batch", "report", "push"]
    tuned = dag.nodes["tune_batch"]
    assert tuned.inputs["source"] == Edge("import_model", "model")
    assert tuned.inputs["candidate"] == Edge("select", "selected")
    assert tuned.tolerate
    for taker in ("report", "push"):
        assert dag.nodes[taker].inputs["configuration"] == Edge("tune_batch", "configuration")


@pytest.mark.parametrize(
    ("megabytes", "mebibytes"), [(0.0, 0), (0.5, 1), (100.0, 95), (1048.576, 1000)]
)
def test_the_budgets_are_the_limits(megabytes: float, mebibytes: int) -> None:
    dag = _dag(tune_batch=True, max_latency_ms=8.5, max_memory_mb=megabytes)
    parameters = dag.nodes["tune_batch"].parameters
    assert (parameters["max_latency_ms"], parameters["max_memory_mb"]) == (8.5, mebibytes)


def test_a_limit_that_can_not_be_is_refused_before_anything_runs(paring: Paring) -> None:
    code, _, error = paring("plan", "--tune-batch", "--max-memory-mb", -1)
    assert code == 2
    assert "--max-memory-mb" in error
    assert "received:  -1" in error


def test_a_brief_run_measures_as_on_a_sample() -> None:
    node = "benchmark-tflite-int8"
    measured = _dag(brief=True).nodes[node].parameters
    assert measured == _dag(sample=Sample(100, 50)).nodes[node].parameters
    assert measured["rounds"] < _dag().nodes[node].parameters["rounds"]


def test_the_source_beside_itself_is_measured_in_fewer_rounds() -> None:
    nodes = _dag().nodes
    source, candidate = (nodes[f"benchmark-{of}"].parameters for of in ("source", "tflite-int8"))
    assert source == {**candidate, "rounds": 3}


def test_a_sample_is_neither_tuned_nor_checked() -> None:
    dag = _dag(sample=Sample(100, 50), tune_batch=True, target="tpu")
    assert not {"tune_batch", "check_tpu", "report"} & set(dag.nodes)


def test_the_source_is_checked_where_it_will_run_on_a_tpu(paring: Paring) -> None:
    for target, checked in (("tpu", True), ("gpu", False)):
        code, shown, _ = paring("plan", "--target", target)
        assert code == 0
        assert ("check_tpu" in shown) == checked
    dag = _dag(target="tpu")
    assert dag.nodes["check_tpu"].inputs == {"model": Edge("import_model", "model")}
    assert dag.nodes["report"].inputs["readiness"] == Edge("check_tpu", "readiness")


def test_kubeflow_tunes_where_it_measures(tmp_path: Path) -> None:
    dag = _dag(tune_batch=True, target="tpu", push_to="s3://bucket/serving")
    placements = place(dag, [RUNTIME], target="cpu-server")
    compile_dag(dag, tmp_path / "p.yaml", image="paring:1", placements=placements)
    spec: dict[str, Any] = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks["tune-batch"]["dependentTasks"]) == {
        *("import-examples", "import-model", "select")
    }
    assert {"check-tpu", "tune-batch"} <= set(tasks["report"]["dependentTasks"])
    assert set(tasks["push"]["dependentTasks"]) == {"select", "tune-batch"}
    # As with benchmark, an earlier figure may be another machine's.
    assert tasks["tune-batch"]["cachingOptions"] == {}
    assert placements["tune_batch"].labels == placements["benchmark-source"].labels


def test_the_command_compiles_what_is_asked_for(paring: Paring, tmp_path: Path) -> None:
    out = tmp_path / "p.yaml"
    code, _, _ = paring("compile", "--tune-batch", "--target", "tpu", "--out", out)
    assert code == 0
    tasks = yaml.safe_load(out.read_text())["root"]["dag"]["tasks"]
    assert {"tune-batch", "check-tpu"} <= set(tasks)


def test_weights_are_named_once_for_the_whole_run() -> None:
    for dag in (_dag(weights="importance"), _dag(sample=Sample(64, 64), weights="importance")):
        named = {
            name: node.parameters["weights"]
            for name, node in dag.nodes.items()
            if node.parameters.get("weights")
        }
        # Later steps use those that are kept with the examples.
        assert named == {"import_examples": "importance"}
