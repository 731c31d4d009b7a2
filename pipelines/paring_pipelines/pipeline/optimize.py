"""The pipeline that tries, measures and reports all recipes on one model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType

from paring.artifacts import Artifact, CalibrationSet, Examples, Model
from paring.errors import ParameterError
from paring.evaluation.metrics import check_name
from paring.selection.pareto import BYTES_PER_MB, Gate
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
from paring_pipelines.pipeline.dag import Dag, Edge, Wire
from paring_pipelines.pipeline.recipes import Link, Recipe

NAME = "paring-optimize"


@dataclass(frozen=True)
class Settings:
    """Settings of the pipeline besides its recipes.

    Attributes:
        gate: See `Gate`.
        trust_model: Whether code inside the model may run.
        label: The name of the label among the examples' features, or OUTPUT=NAME.
        weights: Column of sample weights among the examples; "" for none.
        metric: Metric of the accuracy gate; see the step `evaluate`.
        top_k: Number of classes of the metric top_k.
        metric_digest: Digest of the file of the user's function; "" for any.
        output: The output that the gate is on; "" for each.
        beam_options: Where the workers of `evaluate` are; "" for one in its process.
        shared_dir: A folder that workers elsewhere reach.
        batch_size: Examples in one measured call.
        threads: Threads of one measured call; 0 for one a core.
        brief: Whether latency is measured in less time, as `BRIEF` says.
        calibration_size: Examples that quantization after training sees.
        title: The report's title.
        command: What the report says reproduces the run.
        search: JSON about the search that the recipes come from; "{}" for none.
        check_tpu: Whether the source is checked for TPUs.
        tune_batch: Whether the selected model is tuned, under the gate's budgets.
        push_to: Where the selected model is pushed to; "" for nowhere.
        push_source: Whether the source is pushed too, where it is kept.
    """

    gate: Gate = field(default_factory=Gate)
    trust_model: bool = False
    label: str = "label"
    weights: str = ""
    metric: str = "auto"
    top_k: int = 5
    metric_digest: str = ""
    output: str = ""
    beam_options: str = ""
    shared_dir: str = ""
    batch_size: int = 1
    threads: int = 0
    brief: bool = False
    calibration_size: int = 200
    title: str = ""
    command: str = ""
    search: str = "{}"
    check_tpu: bool = False
    tune_batch: bool = False
    push_to: str = ""
    push_source: bool = False


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


def build(recipes: Sequence[Recipe], settings: Settings, sample: Sample | None = None) -> Dag:
    """Return the Dag that tries `recipes` on the sources `model` and `examples`.

    With `sample` it ends at `select`, whose rows tell what became of each recipe on
    that part of the examples; there is no report, and nothing is tuned or pushed.

    Raises:
        ParameterError: A setting can't be taken.
    """
    check_name(settings.metric)
    # The step takes 0, for a configuration's batch; there is none here.
    if settings.batch_size == 0:
        raise ParameterError(
            "batch_size: must be 1 or more", received=0, remedy="give 1 to measure single examples"
        )
    drawn = {} if sample is None else {"eval_from": "train", **asdict(sample)}
    timing = {} if sample is None and not settings.brief else BRIEF
    sources = {"model": Model, "examples": Examples}
    dag = Dag(NAME, sources, trust_model=settings.trust_model)
    source = dag.add("import_model", import_model, {"original": dag.source("model")}).out("model")
    examples = dag.add(
        "import_examples",
        import_examples,
        {"original": dag.source("examples"), "model": source},
        {"label": settings.label, "weights": settings.weights, **drawn},
    ).out("examples")
    profiled = dag.add("profile", profile, {"model": source}).out("profile")
    data: dict[type[Artifact], Edge] = {Examples: examples}
    if any(_calibrates(link) for recipe in recipes for link in recipe.links):
        data[CalibrationSet] = dag.add(
            "draw_calibration",
            draw_calibration,
            {"model": source, "examples": examples},
            {"size": settings.calibration_size},
        ).out("calibration")

    candidates: dict[str, Edge] = {"source": source}
    made: dict[tuple[object, ...], Edge] = {}
    for recipe in recipes:
        candidates[recipe.name] = _chain(dag, recipe, source, data, made)

    judged = {
        name: getattr(settings, name)
        for name in ("metric", "metric_digest", "top_k", "output", "beam_options", "shared_dir")
    }
    benchmarks: dict[str, Edge] = {}
    evaluations: dict[str, Edge] = {}
    for name, candidate in candidates.items():
        compared: dict[str, Wire] = {"source": source, "examples": examples}
        # Left out, the source is compared with itself. Kubeflow's metadata store takes
        # an artifact once for each task.
        if candidate != source:
            compared["candidate"] = candidate
        # The source is what all others are held against: if it can't be
        # measured, there is nothing to choose from.
        tolerate = name != "source"
        evaluations[name] = dag.add(
            f"evaluate-{name}", evaluate, compared, judged, tolerate=tolerate
        ).out("evaluation")
        benchmarks[name] = dag.add(
            f"benchmark-{name}",
            benchmark,
            compared,
            {"batch_size": settings.batch_size, "threads": settings.threads, **timing},
            tolerate=tolerate,
        ).out("metrics")

    measured: dict[str, Wire] = {
        "candidates": candidates,
        "benchmarks": benchmarks,
        "evaluations": evaluations,
    }
    texts = {"source": "the source model"} | {one.name: str(one) for one in recipes}
    selected = dag.add(
        "select",
        select,
        measured,
        asdict(settings.gate) | {"recipes": json.dumps(texts), "search": settings.search},
    )
    if sample is not None:
        return dag
    shown: dict[str, Wire] = {"selection": selected.out("selection"), "profile": profiled}
    pushed: dict[str, Wire] = {name: selected.out(name) for name in ("selection", "selected")}
    # A failure of these two is reported with the rest of the result.
    if settings.check_tpu:
        shown["readiness"] = dag.add("check_tpu", check_tpu, {"model": source}, tolerate=True).out(
            "readiness"
        )
    if settings.tune_batch:
        shown["configuration"] = pushed["configuration"] = dag.add(
            "tune_batch",
            tune_batch,
            {"source": source, "candidate": selected.out("selected"), "examples": examples},
            _limits(settings.gate),
            tolerate=True,
        ).out("configuration")
    dag.add(
        "report",
        report,
        measured | shown,
        {"title": settings.title, "command": settings.command},
    )
    if settings.push_to:
        dag.add(
            "push",
            push,
            pushed,
            {
                "destination": settings.push_to,
                "push_source": settings.push_source,
                "run": settings.command,
            },
        )
    return dag


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
    count = sum(one == node_id or one.startswith(f"{node_id}.") for one in dag.nodes)
    node = dag.add(
        f"{node_id}.{count + 1}" if count else node_id,
        link.step,
        {first: edge} | {name: data[kind] for name, kind in types.items() if kind in data},
        link.parameters,
        tolerate=True,
    )
    return node.out(next(iter(link.step.outputs)))
