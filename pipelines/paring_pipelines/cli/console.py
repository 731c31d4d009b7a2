"""Output of the command line: progress, tables, lineage, errors."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from paring.artifacts import (
    Artifact,
    EvaluationMetrics,
    Fact,
    ModelProfile,
    PushedModel,
    RuntimeConfiguration,
)
from paring.artifacts.reading import read_object
from paring.errors import ParingError
from paring.evaluation.metrics import Metric
from paring.lineage import chain, source_examples
from paring.reporting.columns import brief_columns, change, score
from paring.reporting.figures import NONE, percent
from paring.selection.candidates import Outcome
from paring_pipelines.pipeline.dag import Dag, Edge
from paring_pipelines.pipeline.recipes import Recipe
from paring_pipelines.runners.base import NodeEvent

if TYPE_CHECKING:
    from paring.serving.versions import Version
    from paring_pipelines.advice.advice import Advice
    from paring_pipelines.runners.session import Progress, PublishedRun

_LOG_WIDTH = 200
"""Columns where the output is no terminal, which has no width to keep to."""

_OUTCOME_STYLES = {
    Outcome.SELECTED: "bold green",
    Outcome.PASSED: "green",
    Outcome.REJECTED: "yellow",
    Outcome.UNSUPPORTED: "dim",
    Outcome.FAILED: "red",
}


def make_console(*, stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, or wide enough for logs."""
    # Without emoji, which would rewrite :a: in a path or a message.
    console = Console(stderr=stderr, highlight=False, emoji=False)
    return (
        console
        if console.is_terminal
        else Console(stderr=stderr, highlight=False, emoji=False, width=_LOG_WIDTH)
    )


class NodeProgress:
    """A line for every node as it ends, and a spinner for those that run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._total = 0
        self._ended = 0
        self._running: list[str] = []

    def progress(self) -> "Progress":
        """Return the callbacks for `paring_pipelines.runners.session.run`."""
        from paring_pipelines.runners.session import Progress

        return Progress(self._planned, self._observed)

    def close(self) -> None:
        """Stop the spinner."""
        if self._status is not None:
            self._status.stop()

    def _planned(self, dag: Dag) -> None:
        self._total = len(dag.nodes)
        candidates = {node.candidate for node in dag.nodes.values()} - {""}
        result = f"{len(candidates)} candidates, {self._total} nodes"
        # A search runs several Dags, and loads TFX for the first.
        self._ended = 0
        self._running = []
        self._console.print(result, style="dim")
        if self._status is None:
            self._status = self._console.status("starting TFX")
            self._status.start()

    def _observed(self, event: NodeEvent) -> None:
        if event.seconds is None:
            self._running.append(event.node.id)
            self._update()
            return
        self._running.remove(event.node.id)
        self._ended += 1
        failure = next((output.failure for output in event.outputs if output.failure), None)
        if event.error is not None or failure is not None:
            why = failure.outcome if failure else "failed"
            mark, note = "[red]✗[/red]", f"[red]{why}[/red]"
        else:
            mark, note = "[green]✓[/green]", _told(event.outputs)
        result = f"{event.node.id:<34} {event.seconds:>6.1f} s  {note}"
        self._console.print(f"{mark} {self._place(self._ended)}  {result}")
        self._update()

    def _update(self) -> None:
        """Name the nodes that run beside the spinner."""
        if self._status is not None and self._running:
            place = self._place(self._ended + 1)
            self._status.update(f"{place} {', '.join(self._running)}")

    def _place(self, number: int) -> str:
        return f"{number:>3}/{self._total}"


def _told(outputs: Sequence[Artifact]) -> str:
    """Return the facts worth a glance while a run goes on."""
    return f"[dim]{', '.join(text for output in outputs for text in _highlights(output))}[/dim]"


def _highlights(output: Artifact) -> list[str]:
    shown = output.highlights
    if isinstance(output, EvaluationMetrics) and output.metric:
        metric = Metric(output.metric, output.higher_is_better)
        # The two are one, or the same under another name.
        shown.pop("accuracy" if metric.labelled else "agreement", None)
        if output.score is not None:
            return [f"{metric.label} {metric.shown(output.score)}", *shown.values()]
    return list(shown.values())


def show_outcome(console: Console, outcome: "PublishedRun", seconds: float) -> None:
    """Show the table of candidates, why each is where it is, and what was chosen."""
    selection = outcome.selection
    table = Table(title="Candidates", title_justify="left", header_style="bold")
    metric = selection.metric
    columns = [
        column
        for column in brief_columns()
        if any(column.text(row) != NONE for row in selection.candidates)
    ]
    quality = [metric.label, "change", *(["agreement"] if metric.labelled else [])]
    figures_of = [column.heading.lower() for column in columns]
    for index, header in enumerate(("candidate", "outcome", *quality, *figures_of)):
        table.add_column(header, justify="left" if index < 2 else "right", no_wrap=index < 2)
    for row in selection.candidates:
        style = _OUTCOME_STYLES[row.outcome]
        table.add_row(
            row.id,
            f"[{style}]{row.outcome}[/{style}]",
            score(row),
            change(row),
            *([percent(row.agreement)] if metric.labelled else []),
            *(column.text(row) for column in columns),
        )
    console.print(table)
    for row in selection.candidates:
        for remark in (*row.reasons, *row.notes):
            console.print(f"  [bold]{row.id}[/bold]: {escape(remark)}")
    if outcome.cached:
        console.print(
            f"{len(outcome.cached)} of {outcome.nodes} nodes were cached: "
            f"{', '.join(outcome.cached)}",
            style="dim",
        )
    console.print()
    console.print(f"selected  [bold green]{selection.selected}[/bold green]  {outcome.selected}")
    console.print(f"report    {outcome.report}")
    if outcome.uri:
        console.print(f"both at   {outcome.uri}")
    if outcome.tuned is not None:
        show_tuned(console, outcome.tuned)
    if outcome.pushed is not None:
        show_pushed(console, outcome.pushed)
    loading = f"{outcome.import_seconds:.1f} s of it to load TFX and TensorFlow"
    console.print(f"took      {seconds:.1f} s, {loading}", style="dim")


def show_tuned(console: Console, tuned: RuntimeConfiguration) -> None:
    """Show the settings with the highest throughput, or why there are none."""
    if tuned.failure is not None:
        console.print(f"tuned     not: {escape(tuned.failure.reason)}")
        return
    result = (
        f"batch {tuned.batch_size}, threads {tuned.threads}, processes {tuned.instances}:"
        f" {_number(tuned.throughput, '{:,.0f}')} examples a second,"
        f" p99 {_number(tuned.p99_ms, '{:.3f}')} ms"
    )
    console.print(f"tuned     {result}  {tuned.path}")


def show_pushed(console: Console, pushed: PushedModel) -> None:
    """Show the version of the pushed model, or why it was not pushed."""
    place = escape(f"{pushed.destination}/{pushed.version}")
    if pushed.note:
        result = f"nothing to {escape(pushed.destination)}: {escape(pushed.note)}"
    else:
        result = place if pushed.made else f"{place}, the newest version already"
    console.print(f"pushed    {result}")


def show_versions(console: Console, known: "Sequence[Version]", withdrawn: Collection[str]) -> None:
    """Show the versions of a destination, the newest last.

    Args:
        console: Where they are shown.
        known: The versions, oldest first.
        withdrawn: The digests that were rolled back.
    """
    table = Table(header_style="bold")
    for header in ("version", "when", "digest", "candidate", "what", "run", "on"):
        table.add_column(header, overflow="fold")
    for version in known:
        what = f"rollback to {version.of}" if version.action == "rollback" else version.action
        if version.digest in withdrawn:
            what += ", rolled back"
        if version is known[-1]:
            what += " [bold green](newest)[/bold green]"
        table.add_row(
            str(version.number),
            version.when,
            version.digest.removeprefix("sha256:")[:12] or "unknown",
            escape(version.candidate),
            what or "by another tool",
            escape(version.run),
            escape(version.host),
        )
    console.print(table)


def _number(value: float | None, text: str) -> str:
    return "-" if value is None else text.format(value)


def show_plan(console: Console, dag: Dag) -> None:
    """Show every node with its step, its parameters and what it reads."""
    table = Table(
        header_style="bold", title=f"{dag.name}: {len(dag.nodes)} nodes", title_justify="left"
    )
    for header in ("node", "parameters", "reads"):
        table.add_column(header, overflow="fold")
    for node in dag.nodes.values():
        changed = [
            f"{name}={value}"
            for name, value in node.parameters.items()
            if value != node.step.parameters[name].default and len(str(value)) < 80
        ]
        reads = [
            f"{name}={wire.node}" if isinstance(wire, Edge) else f"{name}={len(wire)} nodes"
            for name, wire in node.inputs.items()
        ]
        table.add_row(node.id, escape(" ".join(changed)), escape(" ".join(reads)))
    console.print(table)


def show_recipes(console: Console, recipes: Sequence[Recipe]) -> None:
    """Show every recipe with its chain of steps."""
    table = Table(header_style="bold")
    for header in ("recipe", "steps", "targets", "about"):
        table.add_column(header, overflow="fold")
    for recipe in recipes:
        table.add_row(
            recipe.name, escape(str(recipe)), ", ".join(recipe.targets), escape(recipe.about)
        )
    console.print(table)


def show_advice(console: Console, advised: "Sequence[Advice]") -> None:
    """Show every recipe, whether it is worth trying, and what was looked at to say so."""
    table = Table(header_style="bold")
    for header in ("recipe", "steps", "worth trying", "why"):
        table.add_column(header, overflow="fold")
    for advice in sorted(advised, key=lambda item: not item.worth):
        table.add_row(
            advice.recipe.name,
            escape(str(advice.recipe)),
            "[green]yes[/green]" if advice.worth else "[yellow]no[/yellow]",
            "\n".join(escape(f"{reason.fact}: {reason.because}") for reason in advice.reasons)
            or "nothing that was looked at speaks against it",
        )
    console.print(table)


def show_outputs(console: Console, outputs: Mapping[str, Artifact]) -> None:
    """Show the outputs of one step, and the facts measured about them."""
    for name, output in outputs.items():
        console.print(f"[bold]{name}[/bold]  {type(output).__name__}  {output.path}")
        if output.failure:
            console.print(f"  {output.failure.outcome}: {escape(output.failure.reason)}")
        for fact, value in output.facts().items():
            console.print(f"  {fact:<18} {_shown(value)}")
        if isinstance(output, ModelProfile) and not output.failure:
            _show_findings(console, read_object(output.file))


def _shown(fact: Fact) -> object:
    """Return a fact as people read it; numbers stay numbers, which a format applies to."""
    if isinstance(fact, tuple):
        return escape("; ".join(fact))
    return ("no", "yes")[fact] if isinstance(fact, bool) else fact


def _show_findings(console: Console, profile: Mapping[str, Any]) -> None:
    """Show the findings of the audit of a graph, the most severe first."""
    if not profile["findings"]:
        return
    table = Table(header_style="bold")
    for header in ("finding", "where", "what it costs", "what to do"):
        table.add_column(header, overflow="fold")
    for finding in profile["findings"]:
        named = f"{finding['rule'].replace('_', ' ')} ({finding['severity']})"
        table.add_row(named, *(escape(finding[name]) for name in ("place", "cost", "fix")))
    console.print(table)


def show_lineage(console: Console, path: Path, *, record: Mapping[str, Any], digest: str) -> None:
    """Show the digests, steps, parameters and versions that an artifact came from.

    Args:
        console: Where it is shown.
        path: The artifact's folder.
        record: Its record.
        digest: The digest of what the folder holds now.
    """
    recorded, failure = record.get("digest", ""), record["failure"]
    described = {"type": record["type"], "digest": recorded, "lineage": record["lineage"]}
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")

    def row(name: str, *lines: str) -> None:
        table.add_row(name, "\n".join(escape(line) for line in lines if line))

    row(record["type"], str(path))
    if failure:
        row("not made", f"{failure['outcome']} in {failure['step']}: {failure['reason']}")
    elif digest == recorded:
        row("content", f"{digest}, as it was made")
    else:
        row("content", f"{digest}: CHANGED since it was made", f"it was {recorded}")
    if "copy_of" in record["lineage"]:
        row("chosen by", _step_text(record["lineage"]), f"as {record['facts'].get('candidate')}")
    links = chain(described)
    for link in links:
        made = f"{link.type} {link.digest}".strip()
        if link.step:
            row("step", _step_text(vars(link)), made)
        else:
            row("source", made, link.path)
    examples = source_examples(described)
    if examples:
        row("examples", f"{examples['type']} {examples['digest']}", examples.get("path", ""))
    versions = {name: text for link in links for name, text in link.environment.items()}
    row("versions", ", ".join(f"{name} {text}" for name, text in versions.items()))
    console.print(table)


def _step_text(lineage: Mapping[str, Any]) -> str:
    """Return a step with its parameters; one that holds JSON is for programs to read."""
    shown = ", ".join(
        f"{name}={value}"
        for name, value in lineage["parameters"].items()
        if not str(value).startswith("{")
    )
    return f"{lineage['step']}({shown}), version {lineage['version']}"


def show_error(console: Console, error: ParingError) -> None:
    """Show an error on one screen: what, the value, the remedy."""
    console.print(f"[bold red]error:[/bold red] {escape(error.what)}")
    if error.received:
        console.print(f"  received:  {escape(error.received)}")
    if error.remedy:
        console.print(f"  to fix it: {escape(error.remedy)}")
