"""THE pipeline: every recipe tried on one model, measured, chosen, reported."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Literal

from paring.artifacts import Examples, Model
from paring.benchmark import benchmark
from paring.evaluate import evaluate
from paring.import_examples import import_examples
from paring.import_model import import_model
from paring.profile import profile
from paring.report import report
from paring.select import select
from paring_pipelines.dag import Dag, Edge, Wire
from paring_pipelines.recipes import Link, Recipe

NAME = "paring-optimize"


@dataclass(frozen=True)
class Gate:
    """What a candidate must keep to, and what the best of them is best at.

    Attributes:
        max_accuracy_drop: Largest loss of accuracy that is let pass, 0.01 for
            one point.
        max_latency_ms: Limit on the median latency of one call; 0 for none.
        max_size_mb: Limit on the served size in 10**6 bytes; 0 for none.
        max_memory_mb: Limit on peak memory in 10**6 bytes; 0 for none.
        objective: latency, size or memory.
    """

    max_accuracy_drop: float = 0.01
    max_latency_ms: float = 0.0
    max_size_mb: float = 0.0
    max_memory_mb: float = 0.0
    objective: Literal["latency", "size", "memory"] = "latency"


@dataclass(frozen=True)
class Settings:
    """All that shapes the pipeline besides its recipes.

    Attributes:
        gate: See `Gate`.
        trust_model: Whether code inside the model may run.
        label: The name of the label among the examples' features.
        batch_size: Examples in one measured call.
        threads: Threads of one measured call; 0 for one a core.
        title: The report's title.
        command: What the report says reproduces the run.
        search: JSON about the search that the recipes come from; "{}" for none.
    """

    gate: Gate = Gate()
    trust_model: bool = False
    label: str = "label"
    batch_size: int = 1
    threads: int = 0
    title: str = ""
    command: str = ""
    search: str = "{}"


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
"""How `benchmark` measures on a sample: in less time, with wider intervals."""


def build(recipes: Sequence[Recipe], settings: Settings, sample: Sample | None = None) -> Dag:
    """The Dag that tries `recipes` on the sources `model` and `examples`.

    With `sample` it ends at `select`, whose rows tell what became of each recipe on
    that part of the examples; there is no report.
    """
    drawn = {} if sample is None else {"eval_from": "train", **asdict(sample)}
    timing = {} if sample is None else BRIEF
    dag = Dag(NAME, {"model": Model, "examples": Examples})
    source = dag.add(
        "import_model",
        import_model,
        {"original": dag.source("model")},
        {"trust_model": settings.trust_model},
    ).out("model")
    examples = dag.add(
        "import_examples",
        import_examples,
        {"original": dag.source("examples"), "model": source},
        {"label": settings.label, **drawn},
    ).out("examples")
    profiled = dag.add("profile", profile, {"model": source}).out("profile")

    candidates: dict[str, Edge] = {"source": source}
    made: dict[tuple[object, ...], Edge] = {}
    for recipe in recipes:
        candidates[recipe.name] = _chain(dag, recipe, source, examples, made)

    benchmarks: dict[str, Edge] = {}
    evaluations: dict[str, Edge] = {}
    for name, candidate in candidates.items():
        compared: dict[str, Wire] = {
            "source": source,
            "candidate": candidate,
            "examples": examples,
        }
        # The source is what all others are held against: if it can't be
        # measured, there is nothing to choose from.
        tolerate = name != "source"
        evaluations[name] = dag.add(f"evaluate-{name}", evaluate, compared, tolerate=tolerate).out(
            "evaluation"
        )
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
    dag.add(
        "report",
        report,
        measured | {"selection": selected.out("selection"), "profile": profiled},
        {"title": settings.title, "command": settings.command},
    )
    return dag


def _chain(
    dag: Dag, recipe: Recipe, source: Edge, examples: Edge, made: dict[tuple[object, ...], Edge]
) -> Edge:
    """Add what of the recipe is not there yet; `made` holds every prefix."""
    edge = source
    prefix: tuple[object, ...] = ()
    for link in recipe.links:
        prefix = (*prefix, link.key)
        if prefix not in made:
            made[prefix] = _add_link(dag, recipe.name, link, edge, examples)
        edge = made[prefix]
    return edge


def _add_link(dag: Dag, recipe: str, link: Link, edge: Edge, examples: Edge) -> Edge:
    first, *others = link.step.inputs
    # A recipe may use one step twice, with other parameters.
    node_id = f"{link.step.name}-{recipe}"
    count = sum(one == node_id or one.startswith(f"{node_id}.") for one in dag.nodes)
    node = dag.add(
        f"{node_id}.{count + 1}" if count else node_id,
        link.step,
        {first: edge} | dict.fromkeys(others, examples),
        link.parameters,
        tolerate=True,
    )
    return node.out(next(iter(link.step.outputs)))
