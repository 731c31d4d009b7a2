"""Plan of a search's next rounds: a pure function of its results so far and of the time.

Recipes are tried in the order of what they are expected to gain. Those that train
nothing come first and all at once: they cost seconds. Where three or more train,
successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification
and Hyperparameter Optimization", 2016, arXiv:1502.07943) tries them on a part of the
train split, keeps the better half, and doubles the part; the survivors get the whole
data. Then the parameters of the best chains are narrowed, and at last what had been
left out gets its turn.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from paring.selection.pareto import SOURCE, Gate
from paring.steps.import_examples import import_examples
from paring_pipelines.pipeline.recipes import Recipe
from paring_pipelines.search.results import Done, Result, Round, is_better, ranking
from paring_pipelines.search.space import draw, space, trains, varied

Fits = Callable[[Sequence[Round]], bool]
"""Whether there is time left for these rounds, one after another."""

PRIOR = ("quantize", "prune", "cluster")
"""Training steps by what a recipe that begins with one is expected to gain.

int8 is what makes most models small and fast, so it comes first to win back what
int8 loses. Zeros compress, and so do few distinct values, the former at less cost.
"""

_FEWEST = 3
"""Recipes that are worth screening: of two, halving saves no training at all."""

_SMALLEST = 100
"""Examples below which a part of the train split says nothing."""

_CHAINS, _TURNS, _VARIANTS = 2, 3, 3
"""Chains that are narrowed, rounds for each, and variants in a round."""


class Planner:
    """Planner of the rounds of one search."""

    def __init__(
        self, recipes: Sequence[Recipe], gate: Gate, *, train_count: int, seed: int = 0
    ) -> None:
        """Take the recipes apart.

        Args:
            recipes: What may be tried as it stands.
            gate: What results are held to.
            train_count: Examples in the train split; any number before the first
                round, which does not depend on it.
            seed: Of the draws of parameters.
        """
        self._plain = tuple(recipe for recipe in recipes if not trains(recipe))
        self._trained = sorted((recipe for recipe in recipes if trains(recipe)), key=_expected)
        self._names = [recipe.name for recipe in recipes]
        self._gate = gate
        self._seed = seed
        eval_fraction = float(import_examples.parameters["eval_fraction"].default)
        self._count = max(1, train_count - max(1, round(train_count * eval_fraction)))
        half = self._count // 2
        self._narrowed_on = half if half >= _SMALLEST else self._count

    def next(self, done: Sequence[Done], fits: Fits) -> Round | str:
        """Return the round after those that are done, or why there is none.

        A round is taken only if there is time for it and for what makes use of it:
        no recipe is screened that could not be tried on the whole data afterwards.
        The first round always is.
        """
        if not done:
            why = "the source is measured, and what trains nothing, since that costs little"
            return Round("post-training", self._plain, why)
        refused: list[Round] = []

        def affordable(rounds: Sequence[Round]) -> bool:
            if fits(rounds):
                return True
            refused.append(rounds[0])
            return False

        for stage in (self._screen, self._finish, self._narrow, self._catch_up):
            result = next(stage(done, affordable), None)
            if result is not None:
                return result
        if refused:
            return f"the time is up: there was none left for {_names(refused[0])}"
        return "nothing is left to try"

    def _screen(self, done: Sequence[Done], fits: Fits) -> Iterator[Round]:
        """Yield the next rung of successive halving, if there is one."""
        rungs = _of(done, "screening")
        if _of(done, "whole"):
            return
        if rungs:
            field = self._survivors(rungs[-1])
            limits = self._limits(len(rungs[0].round.recipes))[len(rungs) :]
            bracket = self._bracket(field, limits)
            if len(field) > 1 and len(bracket) > 1 and fits(bracket):
                yield bracket[0]
            return
        for size in range(len(self._trained), _FEWEST - 1, -1):
            bracket = self._bracket(self._trained[:size], self._limits(size))
            if len(bracket) > 1 and fits(bracket):
                yield bracket[0]

    def _finish(self, done: Sequence[Done], fits: Fits) -> Iterator[Round]:
        """Yield the whole data for what was not screened out."""
        rungs = _of(done, "screening")
        if not rungs:
            yield from self._whole(self._trained, "it is next in the order", done=done, fits=fits)
            return
        field = self._survivors(rungs[-1])
        yield from self._whole(
            field, "it was among the better half on a part", done=done, fits=fits
        )
        # They cost nothing more, and their reason belongs in the table.
        tried = _by_name(done, 0)
        unfit = tuple(
            recipe
            for rung in rungs
            for recipe in rung.round.recipes
            if rung.results[recipe.name].outcome == "unsupported" and recipe.name not in tried
        )
        if unfit:
            yield Round("whole", unfit, "they don't fit this model; the table says why")

    def _narrow(self, done: Sequence[Done], fits: Fits) -> Iterator[Round]:
        """Yield rounds of new parameters for the best chains, or of the best on all data."""
        whole, on_part = _by_name(done, 0), _by_name(done, self._narrowed_on)
        chains = {
            item.name: item
            for item in (*self._plain, *self._trained)
            if item.name in whole and _can_gain(item, whole[item.name])
        }
        best_first = self._ranked({name: whole[name] for name in chains}, done)
        for base in [chains[name] for name in best_first[:_CHAINS]]:
            turns = [item for item in _of(done, "narrowing") if item.round.base == base.name]
            variants = [
                recipe
                for turn in turns
                for recipe in turn.round.recipes
                if recipe.name != base.name
            ]
            tried = [item for item in (base, *variants) if item.name in on_part]
            result = {
                item.name: _as_fast_as(on_part[base.name], on_part[item.name]) for item in tried
            }
            order = self._ranked(result, done)
            if len(turns) < _TURNS:
                ranked = [(item, order.index(item.name)) for item in tried]
                yield from self._vary(base, variants, ranked=ranked, fits=fits)
            best = [variant for variant in variants if variant.name == order[0]]
            if best and is_better(
                result[best[0].name], result[base.name], source=_source(done), gate=self._gate
            ):
                why = f"it did better than {base.name} on a part"
                yield from self._whole(best, why, done=done, fits=fits)

    def _vary(
        self,
        base: Recipe,
        variants: Sequence[Recipe],
        *,
        ranked: Sequence[tuple[Recipe, int]],
        fits: Fits,
    ) -> Iterator[Round]:
        """Yield a round of new variants of `base`, as many as there is time for."""
        taken = [*self._names, *(variant.name for variant in variants)]
        drawn = draw(base, ranked, taken, count=_VARIANTS, seed=self._seed)
        first = () if any(item.name == base.name for item, _ in ranked) else (base,)
        why = f"varies {', '.join(varied(base))}"
        for size in range(len(drawn), 0, -1):
            item = Round(
                "narrowing", (*first, *drawn[:size]), why, self._narrowed_on, base=base.name
            )
            if fits([item, Round("whole", (drawn[0],), "")]):
                yield item

    def _catch_up(self, done: Sequence[Done], fits: Fits) -> Iterator[Round]:
        """Yield the whole data for what there was no time for, then for the screened out."""
        rungs = _of(done, "screening")
        # Who got further comes first, who was not screened before all.
        order = [name for rung in reversed(rungs) for name in self._ranked_in(rung)]
        places = {name: place for place, name in reversed(list(enumerate(order)))}
        rest = sorted(self._trained, key=lambda item: places.get(item.name, -1))
        yield from self._whole(rest, "there is time left for it", done=done, fits=fits)

    def _whole(
        self, field: Sequence[Recipe], why: str, *, done: Sequence[Done], fits: Fits
    ) -> Iterator[Round]:
        """Yield the first of `field` that was not tried on the whole data and can be.

        One at a time, so that the best so far is known early, and that the times of
        the first tell what the next will cost.
        """
        tried = _by_name(done, 0)
        for recipe in field:
            item = Round("whole", (recipe,), why)
            if recipe.name not in tried and fits([item]):
                yield item

    def _limits(self, size: int) -> list[int]:
        """Return the number of training examples in each rung for a field of `size`."""
        halvings = size.bit_length() - 1
        limits = [self._count >> left for left in range(halvings, 0, -1)]
        return [limit for limit in limits if limit >= _SMALLEST]

    def _bracket(self, field: Sequence[Recipe], limits: Sequence[int]) -> list[Round]:
        """Return the rounds that screening `field` takes, if the order is as expected."""
        rounds: list[Round] = []
        for limit in limits:
            kept = _half(field)
            goes_on = "best one goes" if kept == 1 else f"better {kept} go"
            why = f"the {goes_on} on to more examples"
            rounds.append(Round("screening", tuple(field), why, limit))
            field = field[:kept]
        return [*rounds, Round("whole", tuple(field), "")]

    def _survivors(self, rung: Done) -> list[Recipe]:
        """Return the better half of a rung, without what does not work."""
        better = self._ranked_in(rung)[: _half(rung.round.recipes)]
        recipes = {recipe.name: recipe for recipe in rung.round.recipes}
        return [recipes[name] for name in better if rung.results[name].works]

    def _ranked_in(self, rung: Done) -> list[str]:
        results = {recipe.name: rung.results[recipe.name] for recipe in rung.round.recipes}
        return ranking(results, rung.results[SOURCE], self._gate)

    def _ranked(self, results: dict[str, Result], done: Sequence[Done]) -> list[str]:
        return ranking(results, _source(done), self._gate)


def _expected(recipe: Recipe) -> tuple[int, int]:
    """Return the sort key of a trained recipe: its first training step, then their number."""
    steps = [link.step.name for link in recipe.links if link.step.trains]
    place = PRIOR.index(steps[0]) if steps[0] in PRIOR else len(PRIOR)
    return place, len(steps)


def _can_gain(recipe: Recipe, result: Result) -> bool:
    """Return whether other parameters might make `recipe` better.

    Calibration, which is all that can be varied where nothing trains, moves accuracy
    alone; where none was lost there is none to win back.
    """
    loses = (result.measured.drop or 0.0) > 0
    return result.works and bool(space(recipe)) and (loses or trains(recipe))


def _as_fast_as(base: Result, variant: Result) -> Result:
    """Return `variant` with the latency and memory of `base`, where it has any.

    None of the parameters that are varied changes what is computed for a prediction,
    so whatever a brief measurement finds between the two is noise.
    """
    if not base.works:
        return variant
    names = ("p50_ms", "speedup", "speedup_low", "speedup_high", "peak_memory_bytes")
    shared = {name: getattr(base.measured, name) for name in names}
    return replace(variant, measured=replace(variant.measured, **shared))


def _half(field: Sequence[Recipe]) -> int:
    return max(1, len(field) // 2)


def _of(done: Sequence[Done], stage: str) -> list[Done]:
    return [item for item in done if item.round.stage == stage]


def _by_name(done: Sequence[Done], train_limit: int) -> dict[str, Result]:
    """Return the results of what was tried on so many examples."""
    return {
        recipe.name: item.results[recipe.name]
        for item in done
        if item.round.train_limit == train_limit
        for recipe in item.round.recipes
    }


def _source(done: Sequence[Done]) -> Result:
    return done[0].results[SOURCE]


def _names(item: Round) -> str:
    return f"{item.stage}: {', '.join(recipe.name for recipe in item.recipes)}"
