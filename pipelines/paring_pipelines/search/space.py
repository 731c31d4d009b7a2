"""Parameters that a search varies, and the draw of new values."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from paring.step import Scalar, Search
from paring_pipelines.pipeline.recipes import Link, Recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


_RANDOM = 4
"""Results before the sampler stops drawing at random."""

_ATTEMPTS = 20
"""Draws after which a space with few values counts as used up."""


def trains(recipe: Recipe) -> bool:
    """Return whether a step of `recipe` trains."""
    return any(link.step.trains for link in recipe.links)


def space(recipe: Recipe) -> dict[str, Search]:
    """Return the ranges to vary in `recipe`, by `<place of the step>.<parameter>`.

    A parameter without a range keeps its value. Conversion is left out where something is
    trained: training moves the result more. A value of the recipe that lies outside of a range
    widens it.
    """
    result: dict[str, Search] = {}
    for place, link in enumerate(recipe.links):
        if trains(recipe) and not link.step.trains:
            continue
        for name, spec in link.step.parameters.items():
            if spec.search is not None:
                value = float(link.parameters[name])
                low, high = min(spec.search.low, value), max(spec.search.high, value)
                result[f"{place}.{name}"] = replace(
                    spec.search, low=low, high=high, log=spec.search.log and low > 0
                )
    return result


def varied(recipe: Recipe) -> list[str]:
    """Return the parameters that `space` varies, without their places."""
    return [name.partition(".")[2] for name in space(recipe)]


def draw(
    base: Recipe,
    tried: Sequence[tuple[Recipe, int]],
    taken: Sequence[str],
    *,
    count: int,
    seed: int,
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
    distributions = {name: _distribution(base, name, item) for name, item in ranges.items()}
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


def _distribution(base: Recipe, name: str, search: Search) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    if isinstance(_value(base, name), int):
        return IntDistribution(int(search.low), int(search.high), log=search.log)
    return FloatDistribution(search.low, search.high, log=search.log)


def _rounded(value: float, search: Search) -> float:
    """Round to the range's spacing, or to two digits, which people can read and type."""
    if isinstance(value, int):
        return value
    if search.spacing:
        value = round(round(value / search.spacing) * search.spacing, 6)
    else:
        value = float(f"{value:.2g}")
    return min(max(value, search.low), search.high)


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
