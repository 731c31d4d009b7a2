"""The Dag: typed edges, order and identities."""

import pytest

from paring.artifacts import BenchmarkMetrics, Examples, Model, PrunedModel, Selection, TFLiteModel
from paring.errors import ParameterError
from paring.step import Input, Inputs, Output, step
from paring_pipelines.pipeline.dag import Dag, Edge


@step
def prune(
    model: Input[Model],
    examples: Input[Examples | None],
    pruned: Output[PrunedModel],
    *,
    sparsity: float = 0.5,
) -> None:
    """Stand for a step that trains."""


@step
def convert(model: Input[Model], converted: Output[TFLiteModel]) -> None:
    """Stand for a step that converts."""


@step(machine_dependent=True)
def measure(model: Input[TFLiteModel], metrics: Output[BenchmarkMetrics]) -> None:
    """Stand for a step that measures."""


@step
def choose(metrics: Inputs[BenchmarkMetrics], selection: Output[Selection]) -> None:
    """Stand for a step that reads a family."""


DIGESTS = {"model": "m1", "examples": "e1"}


def _dag(sparsity: float = 0.5) -> Dag:
    dag = Dag("toy", {"model": Model, "examples": Examples})
    pruned = dag.add(
        "prune",
        prune,
        {"model": dag.source("model"), "examples": dag.source("examples")},
        {"sparsity": sparsity},
    )
    dag.add("convert", convert, {"model": pruned.out("pruned")})
    dag.add("plain", convert, {"model": dag.source("model")})
    metrics = {}
    for name in ("convert", "plain"):
        edge = Edge(name, "converted")
        metrics[name] = dag.add(f"measure-{name}", measure, {"model": edge}).out("metrics")
    dag.add("choose", choose, {"metrics": metrics})
    return dag


def test_nodes_stand_behind_what_they_read() -> None:
    dag = _dag()
    order = list(dag.nodes)
    for node in dag.nodes.values():
        for edge in node.edges():
            if edge.node not in dag.sources:
                assert order.index(edge.node) < order.index(node.id)


def test_a_subtype_is_taken_and_another_type_is_refused() -> None:
    dag = _dag()
    dag.add("again", prune, {"model": Edge("prune", "pruned")})
    with pytest.raises(ParameterError, match=r"takes a Model[\s\S]*TFLiteModel of convert"):
        dag.add("wrong", prune, {"model": Edge("convert", "converted")})


@pytest.mark.parametrize(
    ("node_id", "inputs", "message"),
    [
        ("prune", {"model": Edge("model")}, "id is taken"),
        ("toy", {"model": Edge("model")}, "id is taken"),
        ("model", {"model": Edge("model")}, "id is taken"),
        ("new", {}, "input model is not wired"),
        ("new", {"modle": Edge("model")}, "did you mean 'model'"),
        ("new", {"model": Edge("prun", "pruned")}, "did you mean 'prune'"),
        ("new", {"model": {"a": Edge("model")}}, "takes one edge"),
    ],
)
def test_wiring_that_can_not_be_is_refused(
    node_id: str, inputs: dict[str, Edge], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        _dag().add(node_id, prune, inputs)


def test_a_family_takes_a_mapping_only() -> None:
    with pytest.raises(ParameterError, match="family of edges"):
        _dag().add("new", choose, {"metrics": Edge("measure-plain", "metrics")})


def _changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def test_a_parameter_changes_only_what_hangs_on_it() -> None:
    before = _dag().identities(DIGESTS, "machine")
    after = _dag(0.6).identities(DIGESTS, "machine")
    assert _changed(before, after) == {"prune", "convert", "measure-convert", "choose"}


def test_a_source_changes_all_that_reads_it() -> None:
    before = _dag().identities(DIGESTS, "machine")
    after = _dag().identities({**DIGESTS, "examples": "e2"}, "machine")
    assert _changed(before, after) == {"prune", "convert", "measure-convert", "choose"}
    after = _dag().identities({**DIGESTS, "model": "m2"}, "machine")
    assert _changed(before, after) == set(before)


def test_another_machine_changes_what_is_measured_and_what_reads_that() -> None:
    before = _dag().identities(DIGESTS, "machine")
    after = _dag().identities(DIGESTS, "another")
    assert _changed(before, after) == {"measure-convert", "measure-plain", "choose"}
