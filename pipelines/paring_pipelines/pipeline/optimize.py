"""The pipeline that tries, measures and reports all recipes on one model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

from paring.artifacts import Artifact, CalibrationSet, Examples, Model
from paring.selection.pareto import BYTES_PER_MB, SOURCE, Gate
from paring.steps.benchmark import benchmark
from paring.steps.check_tpu import check_tpu
from paring.steps.draw_calibration import draw_calibration
from paring.steps.evaluate import evaluate
from paring.steps.import_examples import import_examples
from paring.steps.import_model import import_model
from paring.steps.profile import profile
from paring.steps.push import push
from paring.steps.report import report
from paring.steps.select import select
from paring.steps.tune_batch import tune_batch
from paring_pipelines.pipeline.dag import Dag, Edge, Node, Wire
from paring_pipelines.pipeline.recipes import Link, Recipe
from paring_pipelines.pipeline.settings import Settings

NAME = "paring-optimize"


@dataclass(frozen=True)
class Sample:
    """A part of the train split to try recipes on; the eval split is left alone.

    Attributes:
        train_limit: Examples to train on.
        eval_limit: Examples to judge by, drawn from the rest of the train split.
    """

    train_limit: int
    eval_limit: int


BRIEF: Mapping[str, int | float] = MappingProxyType({"rounds": 3, "min_seconds": 1.0})
"""How `benchmark` measures in less time, with wider intervals; so it does on a sample."""

_SOURCE_TIMING: Mapping[str, int | float] = MappingProxyType({"rounds": 3})
"""How `benchmark` measures the source: nothing is decided by its ratio to itself."""


def build(recipes: Sequence[Recipe], settings: Settings, sample: Sample | None = None) -> Dag:
    """Return the Dag that tries `recipes` on the sources `model` and `examples`.

    With `sample` it ends at `select`, whose rows tell what became of each recipe on
    that part of the examples; there is no report, and nothing is tuned or pushed.

    Raises:
        ParameterError: A setting can't be taken.
    """
    settings.check()
    dag = Dag(
        NAME,
        {"model": Model, "examples": Examples},
        trust_model=settings.trust_model,
        signature=settings.signature,
    )
    given = _add_sources(dag, recipes, settings, sample)
    candidates = _add_candidates(dag, recipes, given)
    measured = _add_measurements(dag, candidates, given, settings, brief=sample is not None)
    selected = _add_selection(dag, recipes, measured, settings)
    if sample is None:
        _add_results(dag, given, measured, selected, settings)
    return dag


@dataclass(frozen=True)
class _Given:
    """Edges of what all candidates are made of and compared with.

    Attributes:
        source: The imported model.
        examples: The imported examples.
        profile: Profile of the source.
        data: What the steps' inputs besides the model are wired to, by their type.
    """

    source: Edge
    examples: Edge
    profile: Edge
    data: Mapping[type[Artifact], Edge]


def _add_sources(
    dag: Dag, recipes: Sequence[Recipe], settings: Settings, sample: Sample | None
) -> _Given:
    """Add the steps that import and describe the sources."""
    drawn = {} if sample is None else {"eval_from": "train", **asdict(sample)}
    source = dag.add("import_model", import_model, {"original": dag.source("model")}).out("model")
    examples = dag.add(
        "import_examples",
        import_examples,
        {"original": dag.source("examples"), "model": source},
        settings.of(import_examples) | drawn,
    ).out("examples")
    profiled = dag.add("profile", profile, {"model": source}).out("profile")
    data: dict[type[Artifact], Edge] = {Examples: examples}
    if any(_calibrates(link) for recipe in recipes for link in recipe.links):
        data[CalibrationSet] = dag.add(
            "draw_calibration",
            draw_calibration,
            {"model": source, "examples": examples},
            settings.of(draw_calibration),
        ).out("calibration")
    return _Given(source, examples, profiled, data)


def _add_candidates(dag: Dag, recipes: Sequence[Recipe], given: _Given) -> dict[str, Edge]:
    """Add the steps of each recipe; return the source and what each recipe makes, by name."""
    candidates = {SOURCE: given.source}
    made: dict[tuple[object, ...], Edge] = {}
    for recipe in recipes:
        candidates[recipe.name] = _chain(dag, recipe, given.source, data=given.data, made=made)
    return candidates


def _add_measurements(
    dag: Dag, candidates: Mapping[str, Edge], given: _Given, settings: Settings, *, brief: bool
) -> dict[str, Wire]:
    """Add `evaluate` and `benchmark` of each candidate; return the inputs of `select`."""
    timing = BRIEF if brief or settings.brief else {}
    source_timing = {**_SOURCE_TIMING, **timing}
    benchmarks: dict[str, Edge] = {}
    evaluations: dict[str, Edge] = {}
    for name, candidate in candidates.items():
        compared: dict[str, Wire] = {"source": given.source, "examples": given.examples}
        # Left out, the source is compared with itself. Kubeflow's metadata store takes
        # an artifact once for each task.
        if candidate != given.source:
            compared["candidate"] = candidate
        # The source is what all others are held against: if it can't be
        # measured, there is nothing to choose from.
        tolerate = name != SOURCE
        evaluations[name] = dag.add(
            f"evaluate-{name}",
            evaluate,
            compared,
            settings.of(evaluate),
            tolerate=tolerate,
            candidate=name,
        ).out("evaluation")
        benchmarks[name] = dag.add(
            f"benchmark-{name}",
            benchmark,
            compared,
            {**settings.of(benchmark), **(timing if candidate != given.source else source_timing)},
            tolerate=tolerate,
            candidate=name,
        ).out("metrics")
    return {"candidates": candidates, "benchmarks": benchmarks, "evaluations": evaluations}


def _add_selection(
    dag: Dag, recipes: Sequence[Recipe], measured: Mapping[str, Wire], settings: Settings
) -> Node:
    """Add `select`."""
    texts = {SOURCE: "the source model"} | {recipe.name: str(recipe) for recipe in recipes}
    return dag.add("select", select, measured, settings.of(select) | {"recipes": json.dumps(texts)})


def _add_results(
    dag: Dag, given: _Given, measured: Mapping[str, Wire], selected: Node, settings: Settings
) -> None:
    """Add what is done with the selected model: checks, tuning, the report and the push."""
    shown: dict[str, Wire] = {"selection": selected.out("selection"), "profile": given.profile}
    pushed: dict[str, Wire] = {name: selected.out(name) for name in ("selection", "selected")}
    # A failure of these two is reported with the rest of the result.
    if settings.target == "tpu":
        checked = dag.add("check_tpu", check_tpu, {"model": given.source}, tolerate=True)
        shown["readiness"] = checked.out("readiness")
    if settings.tune_batch:
        shown["configuration"] = pushed["configuration"] = dag.add(
            "tune_batch",
            tune_batch,
            {
                "source": given.source,
                "candidate": selected.out("selected"),
                "examples": given.examples,
            },
            _limits(settings.gate),
            tolerate=True,
        ).out("configuration")
    dag.add("report", report, {**measured, **shown}, settings.of(report))
    if settings.push_to:
        dag.add("push", push, pushed, settings.of(push) | {"run": settings.command})


def _limits(gate: Gate) -> dict[str, float]:
    """Return the budgets as `tune_batch` takes them: memory in whole MiB, and no budget as 0."""
    memory = max(1, int(gate.max_memory_mb * BYTES_PER_MB / 2**20)) if gate.max_memory_mb else 0
    return {"max_latency_ms": gate.max_latency_ms, "max_memory_mb": memory}


def _calibrates(link: Link) -> bool:
    return any(spec.type is CalibrationSet for spec in link.step.inputs.values())


def _chain(
    dag: Dag,
    recipe: Recipe,
    source: Edge,
    *,
    data: Mapping[type[Artifact], Edge],
    made: dict[tuple[object, ...], Edge],
) -> Edge:
    """Add what of the recipe is not there yet; `made` holds every prefix.

    Args:
        dag: Gets the nodes.
        recipe: Whose links are added.
        source: The model that the first one takes.
        data: What the steps' other inputs are wired to, by their type.
        made: What each prefix of earlier recipes made.
    """
    edge = source
    prefix: tuple[object, ...] = ()
    for link in recipe.links:
        prefix = (*prefix, link.key)
        if prefix not in made:
            made[prefix] = _add_link(dag, recipe.name, link, edge, data)
        edge = made[prefix]
    return edge


def _add_link(
    dag: Dag, recipe: str, link: Link, edge: Edge, data: Mapping[type[Artifact], Edge]
) -> Edge:
    first, *others = link.step.inputs
    # What a recipe has not, such as an engine of an earlier run, is optional.
    types = {name: link.step.inputs[name].type for name in others}
    # A recipe may use one step twice, with other parameters.
    node_id = f"{link.step.name}-{recipe}"
    count = sum(node.candidate == recipe and node.step is link.step for node in dag.nodes.values())
    node = dag.add(
        f"{node_id}.{count + 1}" if count else node_id,
        link.step,
        {first: edge} | {name: data[kind] for name, kind in types.items() if kind in data},
        link.parameters,
        tolerate=True,
        candidate=recipe,
    )
    return node.out(next(iter(link.step.outputs)))
