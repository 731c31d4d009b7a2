"""Parameters that a search varies, and the draw of new values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from paring.catalog import find
from paring.errors import ParameterError, nearest
from paring.step import Scalar
from paring_pipelines.pipeline.recipes import Link, Recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Range:
    """The values that a search may give to one parameter of a step.

    Attributes:
        step, parameter: Whose it is.
        low, high: The smallest and largest value; whole numbers for an int.
        log: Whether to draw evenly on a logarithmic scale.
        spacing: Distance between values; 0 for none.
    """

    step: str
    parameter: str
    low: float
    high: float
    log: bool = False
    spacing: float = 0.0


RANGES: tuple[Range, ...] = (
    Range("prune", "sparsity", 0.2, 0.9, spacing=0.05),
    Range("prune", "epochs", 1, 8, log=True),
    Range("prune", "learning_rate", 1e-4, 5e-3, log=True),
    Range("cluster", "clusters", 4, 64, log=True),
    Range("cluster", "epochs", 1, 8, log=True),
    Range("cluster", "learning_rate", 1e-5, 1e-3, log=True),
    Range("quantize", "epochs", 1, 8, log=True),
    Range("quantize", "learning_rate", 1e-5, 1e-3, log=True),
    Range("prune_channels", "ratio", 0.1, 0.7, spacing=0.05),
    Range("prune_channels", "epochs", 1, 16, log=True),
    Range("prune_channels", "learning_rate", 1e-4, 5e-3, log=True),
    # How many layers are left in float follows from it.
    Range("convert_mixed", "max_difference", 0.002, 0.1, log=True),
)
"""What may be varied. A step or parameter that is not here keeps its value."""

_RANDOM = 4
"""Results before the sampler stops drawing at random."""

_ATTEMPTS = 20
"""Draws after which a space with few values counts as used up."""


def trains(recipe: Recipe) -> bool:
    """Return whether a step of `recipe` trains: those have a parameter `epochs`."""
    return any("epochs" in link.step.parameters for link in recipe.links)


def check_ranges(ranges: Sequence[Range] = RANGES) -> None:
    """Hold `ranges` against the catalog.

    Raises:
        ParameterError: A step or parameter that is not there, a bound that the
            parameter does not take, or one that is no number.
    """
    for one in ranges:
        step = find(one.step)
        spec = step.parameters.get(one.parameter)
        if spec is None:
            raise ParameterError(
                f"step {one.step} has no parameter {one.parameter!r}",
                remedy=nearest(one.parameter, step.parameters),
            )
        if spec.type not in (int, float):
            raise ParameterError(f"{one.step}: {one.parameter} has no range of numbers")
        for bound in (one.low, one.high):
            spec.parse(f"{one.step}: {one.parameter}", bound)


def space(recipe: Recipe) -> dict[str, Range]:
    """Return the ranges to vary in `recipe`, by `<place of the step>.<parameter>`.

    Conversion is left out where something is trained: training moves the result
    more. A value of the recipe that lies outside of a range widens it.
    """
    found: dict[str, Range] = {}
    for place, link in enumerate(recipe.links):
        if trains(recipe) and "epochs" not in link.step.parameters:
            continue
        for one in RANGES:
            if one.step == link.step.name:
                value = float(link.parameters[one.parameter])
                low, high = min(one.low, value), max(one.high, value)
                found[f"{place}.{one.parameter}"] = replace(
                    one, low=low, high=high, log=one.log and low > 0
                )
    return found


def draw(
    base: Recipe, tried: Sequence[tuple[Recipe, int]], taken: Sequence[str], count: int, seed: int
) -> list[Recipe]:
    """Draw new variants of `base` where those tried so far did well.

    By Optuna's tree-structured Parzen estimator (Bergstra, Bardenet, Bengio and
    Kégl, "Algorithms for Hyper-Parameter Optimization", 2011), which looks only at
    the order of the results; so ranks are enough. The study is built again at each
    call and its sampler seeded: the same arguments give the same variants.

    Args:
        base: Its chain of steps is kept.
        tried: Variants of it, `base` itself too, and the rank of each, 0 the best.
        taken: Names that are not free.
        count: How many to draw; fewer come where the space is used up.
        seed: Of the sampler.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = space(base)
    distributions = {name: _distribution(base, name, one) for name, one in ranges.items()}
    sampler = optuna.samplers.TPESampler(
        seed=seed + len(tried), n_startup_trials=_RANDOM, constant_liar=True
    )
    study = optuna.create_study(sampler=sampler)
    for recipe, rank in tried:
        params = {name: _value(recipe, name) for name in ranges}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=distributions, value=float(rank))
        )
    known = {_key(recipe) for recipe, _ in tried} | {_key(base)}
    names = list(taken)
    drawn: list[Recipe] = []
    for _ in range(_ATTEMPTS):
        if len(drawn) == count:
            break
        values = {
            name: _rounded(value, ranges[name])
            for name, value in study.ask(distributions).params.items()
        }
        variant = _variant(base, values, names)
        if _key(variant) not in known:
            known.add(_key(variant))
            names.append(variant.name)
            drawn.append(variant)
    return drawn


def _distribution(base: Recipe, name: str, one: Range) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(_value(base, name), int):
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)


def _rounded(value: float, one: Range) -> float:
    """Round to the range's spacing, or to two digits, which people can read and type."""
    if isinstance(value, int):
        return value
    if one.spacing:
        value = round(round(value / one.spacing) * one.spacing, 6)
    else:
        value = float(f"{value:.2g}")
    return min(max(value, one.low), one.high)


def _value(recipe: Recipe, name: str) -> Scalar:
    place, _, parameter = name.partition(".")
    return recipe.links[int(place)].parameters[parameter]


def _variant(base: Recipe, values: dict[str, float], taken: Sequence[str]) -> Recipe:
    changed: list[dict[str, Scalar]] = [dict(link.parameters) for link in base.links]
    for name, value in values.items():
        place, _, parameter = name.partition(".")
        changed[int(place)][parameter] = value
    links = tuple(
        Link(link.step, link.step.parse_parameters(parameters))
        for link, parameters in zip(base.links, changed, strict=True)
    )
    number = 1
    while f"{base.name}-v{number}" in taken:
        number += 1
    return replace(base, name=f"{base.name}-v{number}", links=links, about=f"from {base.name}")


def _key(recipe: Recipe) -> tuple[object, ...]:
    """Return a key that is equal for recipes that do the same work."""
    return tuple(link.key for link in recipe.links)
