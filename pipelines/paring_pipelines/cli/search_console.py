"""Output of a search: each round, its reason, the best result so far, and the time left."""

from rich.console import Console
from rich.markup import escape

from paring_pipelines.cli.console import NodeProgress
from paring_pipelines.search.loop import SearchProgress, Standing
from paring_pipelines.search.results import Round


def search_progress(console: Console, nodes: NodeProgress) -> SearchProgress:
    """Return the callbacks for `paring_pipelines.search.loop.search`."""

    def planned(coming: Round, standing: Standing) -> None:
        tried = ", ".join(recipe.name for recipe in coming.recipes) or "the source alone"
        on = f" on {coming.train_limit:,} examples" if coming.train_limit else ""
        console.print(f"[bold]round {standing.number}, {coming.stage}[/bold]{on}: {escape(tried)}")
        console.print(f"  why: {escape(coming.why)}", style="dim")
        _show_standing(console, standing)

    def stopped(reason: str, standing: Standing) -> None:
        console.print(f"[bold]the search ends[/bold]: {escape(reason)}")
        _show_standing(console, standing)

    return SearchProgress(nodes.progress(), planned, stopped)


def _show_standing(console: Console, standing: Standing) -> None:
    left = f"{max(0.0, standing.seconds_left) / 60:.1f} minutes left"
    best = f"best so far: {standing.best.removesuffix('.')}; " if standing.best else ""
    console.print(f"  {escape(best)}{left}", style="dim")
