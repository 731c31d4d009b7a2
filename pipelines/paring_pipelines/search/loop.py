"""Search in rounds into one folder, within a budget of time."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paring.artifacts import Examples
from paring.errors import ParameterError
from paring.selection.candidates import SelectionResult
from paring.selection.pareto import SOURCE
from paring_pipelines.pipeline.dag import Dag
from paring_pipelines.pipeline.optimize import Sample, build
from paring_pipelines.pipeline.recipes import Recipe
from paring_pipelines.pipeline.settings import LocalSettings, Settings
from paring_pipelines.runners.base import NodeEvent, RunResult
from paring_pipelines.runners.locations import Destination
from paring_pipelines.runners.session import (
    Progress,
    PublishedRun,
    Workspace,
    opened,
    resolve_settings,
)
from paring_pipelines.search.cost import predict, work_of
from paring_pipelines.search.journal import Journal, open_journal, search_key
from paring_pipelines.search.plan import Planner
from paring_pipelines.search.results import Done, Round, results_of

JOURNAL = "search.json"
"""Below the pipeline's folder."""


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C in a search; its text says what is in place."""


@dataclass(frozen=True)
class Standing:
    """State of a search before a round.

    Attributes:
        number: Number of the coming round, from 1.
        best: The verdict on what is in place; "" before there is any.
        seconds_left: What is left of the budget.
    """

    number: int
    best: str
    seconds_left: float


@dataclass(frozen=True)
class SearchProgress:
    """Callbacks on the progress of a search.

    Attributes:
        nodes: About the nodes of each round.
        planned: Called before a round.
        stopped: Called with the reason, before the results are put in place.
    """

    nodes: Progress = field(default_factory=Progress)
    planned: Callable[[Round, Standing], None] = lambda coming, standing: None
    stopped: Callable[[str, Standing], None] = lambda reason, standing: None


def search(
    model: Path,
    examples: Path,
    *,
    recipes: Sequence[Recipe],
    settings: Settings,
    out: Path | Destination,
    local: LocalSettings,
    progress: SearchProgress = SearchProgress(),
) -> PublishedRun:
    """Try recipes on `model` in the order of expected gain, until the time is up.

    Each round on the whole data leaves its results in `out`, as `session.run` does;
    `paring_pipelines.search.plan` has what the rounds are. The same call takes an
    interrupted search up where it was, with what is left of the budget.

    Args:
        model: See `session.run`.
        examples: See `session.run`.
        recipes: What may be tried as it stands.
        settings: The gate and all else that shapes the pipeline.
        out: See `session.run`.
        local: The runner, the limits of each step, and the time for all, which must be
            given; no round starts that is not expected to end in it, but the first.
        progress: Callbacks on the progress of the search.

    Raises:
        ParameterError: There is no budget, or a setting is invalid.
        ParingError: Of the class that fits; what `out` held before is intact.
        SearchInterrupted: On Ctrl-C.
    """
    minutes = local.budget_minutes
    if minutes is None:
        raise ParameterError(
            "budget_minutes: a search needs one",
            remedy="give the minutes that the search may take, 30 for example",
        )
    start = time.monotonic()
    with opened(model, examples, out=out, local=local) as place:
        journal = open_journal(
            place.root / JOURNAL,
            search_key(recipes, settings, digests=place.digests, machine=place.machine),
        )
        running = _Search(
            place,
            journal,
            recipes=recipes,
            settings=resolve_settings(settings, model),
            budget_minutes=minutes,
            start=start,
            progress=progress,
        )
        try:
            return running.run()
        except KeyboardInterrupt:
            if journal.best:
                text = "the best so far is in place, and the same command goes on from here"
            else:
                text = "nothing is chosen yet; the same command goes on from here"
            raise SearchInterrupted(f"the search was interrupted: {text}") from None


class _Search:
    def __init__(
        self,
        place: Workspace,
        journal: Journal,
        *,
        recipes: Sequence[Recipe],
        settings: Settings,
        budget_minutes: float,
        start: float,
        progress: SearchProgress,
    ) -> None:
        self._place = place
        self._journal = journal
        self._recipes = recipes
        self._settings = settings
        self._minutes = budget_minutes
        self._start = start
        self._progress = progress
        self._spent_before = journal.seconds

    def run(self) -> PublishedRun:
        """Return all rounds that there is time for; then the results, with how it went."""
        while True:
            planner = Planner(
                self._recipes, self._settings.gate, train_count=self._journal.train_count
            )
            coming = planner.next(self._journal.done, self._fits)
            if isinstance(coming, str):
                break
            self._progress.planned(coming, self._standing())
            self._try(coming)
        self._progress.stopped(coming, self._standing())
        # Once more with the whole story; all but the report comes from the cache.
        result = self._run(self._dag(None, stopped=coming), retry_failed=True)
        return self._place.publish(result)

    def _try(self, coming: Round) -> None:
        """Run a round, note what came of it, and put it in place if it may be chosen."""
        start = time.monotonic()
        result = self._run(self._dag(coming), self._train_count(coming))
        selection = SelectionResult.read(result.outputs["select"]["selection"] / "selection.json")
        if not self._journal.train_count:
            imported = Examples.load(result.outputs["import_examples"]["examples"])
            self._journal.train_count = imported.train_count
            self._journal.eval_count = imported.eval_count
        if not coming.train_limit:
            self._journal.best = self._place.publish(result).selection.verdict
        results = results_of(selection, (recipe.name for recipe in coming.recipes))
        self._journal.done.append(Done(coming, results, time.monotonic() - start))
        self._save()

    def _run(self, dag: Dag, train_count: int = 0, *, retry_failed: bool = False) -> RunResult:
        identities = self._place.identities(dag)
        result = self._progress.nodes

        def observed(event: NodeEvent) -> None:
            result.observed(event)
            if event.seconds is None or event.error is not None:
                return
            broke = any(output.failure for output in event.outputs)
            work = work_of(event.node, train_count, on_sample)
            self._journal.nodes[_key(event.node.id, identities)] = (
                None if broke else (work, event.seconds)
            )
            # At each node, so that little of the time is forgotten if we are killed.
            self._save()

        on_sample = "report" not in dag.nodes
        return self._place.run(dag, Progress(result.planned, observed), retry_failed=retry_failed)

    def _dag(self, coming: Round | None, stopped: str = "") -> Dag:
        """Return the pipeline of a round; without one, that of all that may be chosen.

        Recipes stand in the order in which they were first tried, since a node that
        two of them share is named for the first, and the cache compares names too.
        """
        result = replace(self._settings, search=json.dumps(self._told(coming, stopped)))
        if coming is not None and coming.train_limit:
            sample = Sample(coming.train_limit, self._journal.eval_count)
            return build(coming.recipes, replace(result, search="{}"), sample)
        rounds = [item.round for item in self._journal.done if not item.round.train_limit]
        if coming is not None:
            rounds.append(coming)
            # Only the result of the whole search is tuned and pushed.
            result = replace(result, tune_batch=False, push_to="", push_source=False)
        return build([recipe for item in rounds for recipe in item.recipes], result)

    def _fits(self, rounds: Sequence[Round]) -> bool:
        """Return whether there is time for `rounds`, which are not run yet."""
        source = self._journal.done[0].results[SOURCE].measured
        forward = (source.p50_ms or 0.0) / 1000 / self._settings.batch_size
        expected = 0.0
        for coming in rounds:
            dag = self._dag(coming)
            identities = self._place.identities(dag)
            works = [
                work_of(node, self._train_count(coming), bool(coming.train_limit))
                for node in dag.nodes.values()
                if _key(node.id, identities) not in self._journal.nodes
            ]
            expected += predict(works, self._journal.times, forward)
        return expected <= self._standing().seconds_left

    def _train_count(self, coming: Round) -> int:
        return coming.train_limit or self._journal.train_count

    def _standing(self) -> Standing:
        left = 60 * self._minutes - self._spent()
        return Standing(len(self._journal.done) + 1, self._journal.best, left)

    def _spent(self) -> float:
        return self._spent_before + time.monotonic() - self._start

    def _save(self) -> None:
        self._journal.seconds = self._spent()
        self._journal.save()

    def _told(self, coming: Round | None, stopped: str) -> dict[str, Any]:
        """Return the course of the search, for selection.json and the report."""
        rounds = [_round_told(item.round, item) for item in self._journal.done]
        if coming is not None:
            rounds.append(_round_told(coming, None))
        return {
            "budget_minutes": self._minutes,
            "seconds": round(sum(item.seconds for item in self._journal.done), 1),
            "stopped": stopped or None,
            "rounds": rounds,
        }


def _key(node: str, identities: dict[str, str]) -> str:
    return f"{node}:{identities[node]}"


def _round_told(planned: Round, done: Done | None) -> dict[str, Any]:
    """Return a round as selection.json has it; null is what is not known yet."""
    return {
        "stage": planned.stage,
        "why": planned.why,
        "train_examples": planned.train_limit or None,
        "seconds": None if done is None else round(done.seconds, 1),
        "tried": [
            {
                "id": recipe.name,
                "recipe": str(recipe),
                "outcome": None if done is None else done.results[recipe.name].outcome,
                "drop": None if done is None else done.results[recipe.name].measured.drop,
            }
            for recipe in planned.recipes
        ],
    }
