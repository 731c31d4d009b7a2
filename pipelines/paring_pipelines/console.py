"""What the command line shows: progress, tables, lineage, errors."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table
from rich.tree import Tree

from paring.artifacts import Artifact
from paring.errors import ParingError
from paring_pipelines.dag import Dag, Edge
from paring_pipelines.recipes import Recipe
from paring_pipelines.running import Outcome, Progress

if TYPE_CHECKING:
    from paring.adapters.tfx import NodeEvent

_LOG_WIDTH = 200
"""Columns where the output is no terminal, which has no width to keep to."""

_COLUMNS = (
    *("candidate", "outcome", "accuracy", "drop", "agreement", "p50_ms", "p90_ms", "p99_ms"),
    *("speedup", "ex/s", "memory", "size", "gzip"),
)

_OUTCOME_STYLES = {
    "selected": "bold green",
    "passed": "green",
    "rejected": "yellow",
    "unsupported": "dim",
    "failed": "red",
}


def make_console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for logs."""
    console = Console(stderr=stderr, highlight=False)
    return (
        console
        if console.is_terminal
        else Console(stderr=stderr, highlight=False, width=_LOG_WIDTH)
    )


class NodeProgress:
    """A line for every node as it ends, and a spinner for the one that runs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status: Status | None = None
        self._nodes: list[str] = []
        self._start = time.monotonic()

    def progress(self) -> Progress:
        """The callbacks for `paring_pipelines.running.run`."""
        return Progress(self._planned, self._observed)

    def close(self) -> None:
        """Stop the spinner."""
        if self._status is not None:
            self._status.stop()

    def _planned(self, dag: Dag) -> None:
        self._nodes = list(dag.nodes)
        candidates = sum(name.startswith("benchmark-") for name in self._nodes)
        self._console.print(
            f"{candidates} candidates, {len(self._nodes)} nodes; starting TFX", style="dim"
        )
        self._status = self._console.status("starting TFX")
        self._status.start()

    def _observed(self, event: "NodeEvent") -> None:
        place = f"{self._nodes.index(event.node) + 1:>3}/{len(self._nodes)}"
        if event.seconds is None:
            if self._status is not None:
                self._status.update(f"{place} {event.node}")
            return
        failure = next((one.failure for one in event.outputs if one.failure), None)
        if event.error is not None or failure is not None:
            why = failure.outcome if failure else "failed"
            mark, note = "[red]✗[/red]", f"[red]{why}[/red]"
        else:
            mark, note = "[green]✓[/green]", _told(event.outputs)
        self._console.print(f"{mark} {place}  {event.node:<34} {event.seconds:>6.1f} s  {note}")


def _told(outputs: Sequence[Artifact]) -> str:
    """The facts worth a glance while a run goes on."""
    shown = {
        "sparsity": "{:.0%} zeros",
        "accuracy": "accuracy {:.2%}",
        "agreement": "agreement {:.2%}",
        "p50_ms": "p50 {:.3f} ms",
        "speedup": "{:.2f} times as fast",
        "size_bytes": "{:,} bytes",
        "selected": "{}",
    }
    facts = {name: value for one in outputs for name, value in one.facts().items()}
    # A model with no size is none yet; its zero would mislead.
    return (
        "[dim]"
        + ", ".join(
            text.format(facts[name])
            for name, text in shown.items()
            if facts.get(name) not in (None, 0, "")
        )
        + "[/dim]"
    )


def show_outcome(console: Console, outcome: Outcome, seconds: float) -> None:
    """The table of candidates, why each is where it is, and what was chosen."""
    selection = outcome.selection
    table = Table(title="Candidates", title_justify="left", header_style="bold")
    for index, header in enumerate(_COLUMNS):
        table.add_column(header, justify="left" if index < 2 else "right", no_wrap=True)
    for one in selection["candidates"]:
        style = _OUTCOME_STYLES.get(one["outcome"], "")
        table.add_row(
            one["id"],
            f"[{style}]{one['outcome']}[/{style}]",
            _number(one["accuracy"], "{:.2%}"),
            _number(one["accuracy_drop"], "{:+.2%}"),
            _number(one["agreement"], "{:.2%}"),
            *(_number(one[name], "{:.3f}") for name in ("p50_ms", "p90_ms", "p99_ms")),
            _number(one["speedup"], "{:.2f}x"),
            _number(one["throughput"], "{:,.0f}"),
            _size(one["peak_memory_bytes"]),
            _size(one["size_bytes"]),
            _size(one["gzip_bytes"]),
        )
    console.print(table)
    for one in selection["candidates"]:
        for reason in one["reasons"]:
            console.print(f"  [bold]{one['id']}[/bold]: {escape(str(reason))}")
    if outcome.cached:
        console.print(
            f"{len(outcome.cached)} of {outcome.nodes} nodes were cached: "
            f"{', '.join(outcome.cached)}",
            style="dim",
        )
    console.print()
    console.print(f"selected  [bold green]{selection['selected']}[/bold green]  {outcome.selected}")
    console.print(f"report    {outcome.report}")
    console.print(f"took      {seconds:.1f} s", style="dim")


def _number(value: float | None, text: str) -> str:
    return "-" if value is None else text.format(value)


def _size(value: int | None) -> str:
    """Bytes as a person reads them, in units of 1000."""
    if value is None:
        return "-"
    if value < 1_000_000:
        return f"{value / 1_000:.1f} kB"
    return f"{value / 1_000_000:.1f} MB"


def show_plan(console: Console, dag: Dag) -> None:
    """Every node with its step, its parameters and what it reads."""
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
    """Every recipe with its chain of steps."""
    table = Table(header_style="bold")
    for header in ("recipe", "steps", "targets", "about"):
        table.add_column(header, overflow="fold")
    for one in recipes:
        table.add_row(one.name, escape(str(one)), ", ".join(one.targets), escape(one.about))
    console.print(table)


def show_outputs(console: Console, outputs: Mapping[str, Artifact]) -> None:
    """What one step made, and the facts measured about it."""
    for name, output in outputs.items():
        console.print(f"[bold]{name}[/bold]  {type(output).__name__}  {output.path}")
        if output.failure:
            console.print(f"  {output.failure.outcome}: {escape(output.failure.reason)}")
        for fact, value in output.facts().items():
            console.print(f"  {fact:<18} {value}")


def show_lineage(console: Console, record: Mapping[str, Any]) -> None:
    """A record's chain of steps, down to the bytes it began with."""
    tree = Tree(f"[bold]{record['type']}[/bold]  {record['facts'].get('digest', '')}")
    _grow(tree, record["lineage"])
    console.print(tree)


def _grow(tree: Tree, lineage: Mapping[str, Any]) -> None:
    parameters = " ".join(f"{name}={value}" for name, value in lineage["parameters"].items())
    branch = tree.add(
        f"made by [bold]{lineage['step']}[/bold] version {lineage['version']}  {escape(parameters)}"
    )
    versions = " ".join(f"{name} {value}" for name, value in lineage["environment"].items())
    branch.add(f"[dim]{versions}[/dim]")
    for name, value in lineage["inputs"].items():
        for key, one in _members(name, value):
            leaf = branch.add(
                f"{key}: [bold]{one['type']}[/bold]  {one['digest']}  {one.get('path', '')}"
            )
            if "lineage" in one:
                _grow(leaf, one["lineage"])


def _members(name: str, value: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """An input's described artifacts: one, none, or a family's."""
    if value is None:
        return []
    if "digest" in value and isinstance(value["digest"], str):
        return [(name, value)]
    return [(f"{name} {key}", one) for key, one in value.items()]


def show_error(console: Console, error: ParingError) -> None:
    """An error on one screen: what, the value, the remedy."""
    console.print(f"[bold red]error:[/bold red] {escape(error.what)}")
    if error.received:
        console.print(f"  received:  {escape(error.received)}")
    if error.remedy:
        console.print(f"  to fix it: {escape(error.remedy)}")
