"""Recipes: chains of steps, each of which builds one candidate from the source model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from paring.artifacts import Examples, Servable
from paring.catalog import STEPS, find
from paring.errors import ParameterError, nearest
from paring.step import SIGNATURE, TRUST_MODEL, Scalar, Step
from paring_pipelines.pipeline.toml_file import read_toml

Target = Literal["cpu-server", "mobile", "gpu", "tpu"]
TARGETS: tuple[Target, ...] = ("cpu-server", "mobile", "gpu", "tpu")

_NAME = re.compile(r"[_-]*[A-Za-z0-9][A-Za-z0-9_-]*")

DEFAULT_FILE = Path(__file__).with_name("recipes.toml")


@dataclass(frozen=True)
class Link:
    """One step of a recipe, with all of its parameters."""

    step: Step
    parameters: Mapping[str, Scalar]

    def __str__(self) -> str:
        """Return the step with the parameters that differ from its defaults."""
        shown = [
            f"{name}={value}"
            for name, value in self.parameters.items()
            if value != self.step.parameters[name].default
        ]
        return f"{self.step.name}({', '.join(shown)})"

    @property
    def key(self) -> tuple[object, ...]:
        """Key that is equal for links that do the same work."""
        return (self.step.name, *sorted(self.parameters.items()))


@dataclass(frozen=True)
class Recipe:
    """A named chain of steps; its name is the candidate's id."""

    name: str
    links: tuple[Link, ...]
    about: str = ""
    targets: tuple[str, ...] = TARGETS

    def __str__(self) -> str:
        """Return the chain as a person reads it."""
        return " > ".join(str(link) for link in self.links)


def optimizing_steps() -> dict[str, Step]:
    """Return the steps that a recipe may use: one model in, one model out."""
    return {name: step for name, step in STEPS.items() if _optimizes(step)}


def _optimizes(step: Step) -> bool:
    specs = list(step.inputs.values())
    is_import = step.name.startswith("import_")
    return (
        not is_import
        and len(step.outputs) == 1
        and issubclass(next(iter(step.outputs.values())), Servable)
        and issubclass(specs[0].type, Servable)
        and all(issubclass(spec.type, Examples) or spec.optional for spec in specs[1:])
    )


def load_recipes(path: Path = DEFAULT_FILE, target: str | None = None) -> list[Recipe]:
    """Read the recipes of a TOML file, checked; those for `target` if given.

    Raises:
        ParameterError: The file can't be read, or a name, step or parameter in
            it can't be taken; the message names the recipe.
    """
    # Imported late: pydantic costs time, and many commands read no recipes.
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    class RecipeTable(BaseModel):
        model_config = ConfigDict(extra="forbid")
        about: str = ""
        targets: list[Target] = list(TARGETS)
        steps: Annotated[list[dict[str, Any]], Field(min_length=1)]

    class RecipeFile(BaseModel):
        model_config = ConfigDict(extra="forbid")
        recipes: Annotated[dict[str, RecipeTable], Field(min_length=1)]

    content = read_toml(
        path,
        "--recipes",
        remedy="give a TOML file; `paring recipes --as-toml` prints one to start from",
    )
    try:
        tables = RecipeFile.model_validate(content).recipes
    except ValidationError as error:
        first = error.errors()[0]
        raise ParameterError(
            f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg'].lower()}",
            received=first["input"],
            remedy='write [recipes.NAME] with steps = [{ step = "...", ... }]',
        ) from error
    recipes = [
        _parse(path, name, steps=table.steps, about=table.about, targets=tuple(table.targets))
        for name, table in tables.items()
    ]
    chosen = [recipe for recipe in recipes if target is None or target in recipe.targets]
    if not chosen:
        raise ParameterError(
            f"{path} has no recipe for target {target!r}",
            remedy=f"add {target!r} to the targets of one of its recipes",
        )
    return chosen


def _parse(
    path: Path, name: str, *, steps: list[dict[str, Any]], about: str, targets: tuple[str, ...]
) -> Recipe:
    where = f"{path}: recipe {name}"
    # Nodes are named for it, and of a task's name Kubeflow keeps ASCII letters alone.
    if name == "source" or not _NAME.fullmatch(name):
        raise ParameterError(
            f"{where}: this name can't be taken",
            received=name,
            remedy="use the letters a to z, digits, - and _, and another name than 'source'",
        )
    links: list[Link] = []
    for table in steps:
        given = dict(table)
        step_name = str(given.pop("step", ""))
        known = optimizing_steps()
        if step_name not in known:
            raise ParameterError(
                f"{where}: no such optimization",
                received=step_name or table,
                remedy=nearest(step_name, known),
            )
        step = find(step_name)
        for general in (TRUST_MODEL, SIGNATURE):
            if general in given:
                raise ParameterError(
                    f"{where}: {general} is said of a whole run",
                    received=given[general],
                    remedy=f"leave it out, and give --{general.replace('_', '-')}",
                )
        try:
            links.append(Link(step, step.parse_parameters(given)))
        except ParameterError as error:
            raise ParameterError(
                f"{where}: {error.what}", received=error.received, remedy=error.remedy
            ) from error
        if len(links) > 1:
            _check_order(where, links[-2].step, step)
    return Recipe(name, tuple(links), about, targets)


def _check_order(where: str, before: Step, step: Step) -> None:
    made = next(iter(before.outputs.values()))
    taken = next(iter(step.inputs.values())).type
    if not issubclass(made, taken):
        raise ParameterError(
            f"{where}: {step.name} takes a {taken.__name__}, {before.name} makes a {made.__name__}",
            remedy="change the order of its steps",
        )
