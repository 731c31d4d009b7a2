"""Record of a search so far, in a file that survives the process."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from paring.catalog import find
from paring.errors import OutputError
from paring.evaluation.metrics import Metric
from paring.selection.pareto import Measured
from paring.storage import write_text
from paring.system.documents import read_json
from paring_pipelines.pipeline.recipes import Link, Recipe
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.search.cost import Work
from paring_pipelines.search.results import Done, Result, Round

VERSION = 1
"""Raised when a journal of before can't be taken up: by its form, or the plan's."""


@dataclass
class Journal:
    """Record of a search's complete rounds.

    The next round follows from the complete ones alone. So a round that was cut off
    is planned again as it was, and the pipeline's cache has what of it was done.

    Attributes:
        file: Where it is kept.
        key: Names the search; another one does not take this journal up.
        seconds: Time spent, in all processes that worked on it.
        train_count, eval_count: Examples in the source's splits; 0 until known.
        best: The verdict on what was put in place last.
        done: The complete rounds.
        nodes: What each node that ran had to do, and its seconds, by the node's id and
            identity; None for work whose time tells nothing, since it failed.
    """

    file: Path
    key: str
    seconds: float = 0.0
    train_count: int = 0
    eval_count: int = 0
    best: str = ""
    done: list[Done] = field(default_factory=list)
    nodes: dict[str, tuple[Work, float] | None] = field(default_factory=dict)

    @property
    def times(self) -> list[tuple[Work, float]]:
        """Work whose time is known."""
        return [node for node in self.nodes.values() if node is not None]

    def save(self) -> None:
        """Write the file, so that it is never half there."""
        content = {
            "version": VERSION,
            "key": self.key,
            "seconds": self.seconds,
            "train_count": self.train_count,
            "eval_count": self.eval_count,
            "best": self.best,
            "done": [_done_to_json(item) for item in self.done],
            "nodes": {
                name: None if item is None else [asdict(item[0]), item[1]]
                for name, item in self.nodes.items()
            },
        }
        write_text(str(self.file), json.dumps(content))


def search_key(
    recipes: Sequence[Recipe], settings: Settings, *, digests: Mapping[str, str], machine: str
) -> str:
    """Return a digest of all that a search's rounds depend on, but the budget."""
    shaping = replace(
        settings,
        title="",
        command="",
        search="{}",
        tune_batch=False,
        push_to="",
        push_source=False,
    )
    made_of = [
        VERSION,
        [_recipe_to_json(recipe) for recipe in recipes],
        asdict(shaping),
        dict(digests),
        machine,
    ]
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:32]


def open_journal(file: Path, key: str) -> Journal:
    """Return the journal in `file`, or a new one where there is none of this search.

    Raises:
        OutputError: The file is broken.
    """
    if not file.exists():
        return Journal(file, key)
    try:
        content = read_json(file)
        if (content["version"], content["key"]) != (VERSION, key):
            return Journal(file, key)
        return Journal(
            file,
            key,
            content["seconds"],
            content["train_count"],
            content["eval_count"],
            content["best"],
            [_done_from_json(item) for item in content["done"]],
            {
                name: None if item is None else (Work(**item[0]), item[1])
                for name, item in content["nodes"].items()
            },
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise OutputError(
            "--out: the journal of the search in this folder can't be read",
            received=f"{file} ({type(error).__name__}: {error})",
            remedy="delete that file; what was made stays in the pipeline's cache",
        ) from error


def _done_to_json(item: Done) -> dict[str, Any]:
    return {
        "round": asdict(replace(item.round, recipes=()))
        | {"recipes": [_recipe_to_json(recipe) for recipe in item.round.recipes]},
        "results": {name: asdict(result) for name, result in item.results.items()},
        "seconds": item.seconds,
    }


def _done_from_json(content: Mapping[str, Any]) -> Done:
    recipes = tuple(_recipe_from_json(recipe) for recipe in content["round"]["recipes"])
    results = {
        name: Result(item["outcome"], tuple(item["reasons"]), _measured_from_json(item["measured"]))
        for name, item in content["results"].items()
    }
    return Done(Round(**(content["round"] | {"recipes": recipes})), results, content["seconds"])


def _measured_from_json(content: Mapping[str, Any]) -> Measured:
    others = tuple((name, Metric(**metric), drop) for name, metric, drop in content["others"])
    metric = Metric(**content["metric"])
    return Measured(**{**content, "metric": metric, "others": others})


def _recipe_to_json(recipe: Recipe) -> dict[str, Any]:
    links = [[link.step.name, dict(link.parameters)] for link in recipe.links]
    return {
        "name": recipe.name,
        "links": links,
        "about": recipe.about,
        "targets": list(recipe.targets),
    }


def _recipe_from_json(content: Mapping[str, Any]) -> Recipe:
    links = tuple(
        Link(step, step.parse_parameters(parameters))
        for step, parameters in ((find(name), given) for name, given in content["links"])
    )
    return Recipe(content["name"], links, content["about"], tuple(content["targets"]))
