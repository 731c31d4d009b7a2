"""Output of the commands that talk to Kubeflow."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paring_pipelines.kubeflow.progress import NodeStatus, count_states
from paring_pipelines.kubeflow.run_reader import RunReport
from paring_pipelines.kubeflow.types import Run, Schedule

_STYLES = {"SUCCEEDED": "green", "FAILED": "red", "CANCELED": "yellow", "RUNNING": "cyan"}
_OUTCOME_STYLES = {"made": "green", "unsupported": "dim", "failed": "red"}
_SHOWN_REASON = 160


def show_runs(console: Console, runs: Sequence[Run]) -> None:
    """Show a line for each run."""
    table = Table(header_style="bold")
    for header in ("run", "id", "state", "created", "finished"):
        table.add_column(header, no_wrap=True)
    for run in runs:
        table.add_row(
            escape(run.name), run.id, _state(run.state), _time(run.created), _time(run.finished)
        )
    console.print(table)


def show_run(console: Console, report: RunReport) -> None:
    """Print a run, a row for each node, and the error of each that failed."""
    run = report.run
    console.print(f"[bold]{escape(run.name)}[/bold]  {run.id}  {_state(run.state)}")
    console.print(f"  created {_time(run.created)}, finished {_time(run.finished)}", style="dim")
    for name, value in run.parameters.items():
        console.print(f"  {name}: {escape(str(value))}", style="dim")
    if run.error:
        console.print(f"  {escape(run.error)}")
    if report.nodes:
        console.print(_node_table(report.nodes))
    for node in report.nodes:
        if node.error:
            # Whole lines, since they are copied and searched.
            console.print(
                f"[bold red]{escape(node.name)} failed:[/bold red] {escape(node.error)}",
                soft_wrap=True,
            )
    for note in report.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)


def _node_table(nodes: Sequence[NodeStatus]) -> Table:
    table = Table(header_style="bold")
    table.add_column("node", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for header in ("try", "waited s", "ran s"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("cached", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("reason", overflow="fold", ratio=1)
    for node in nodes:
        style = _OUTCOME_STYLES.get(node.outcome, "")
        table.add_row(
            escape(node.name),
            _state(node.state),
            str(node.attempt or "-"),
            _number(node.waited),
            _number(node.ran),
            "-" if node.cached is None else "yes" if node.cached else "no",
            f"[{style}]{node.outcome}[/{style}]" if style else escape(_outcome(node)),
            escape(_shortened(node.error or node.reason)),
        )
    return table


def _outcome(node: NodeStatus) -> str:
    # The record of what came from the cache is with the run that made it.
    return node.outcome or ("cached" if node.cached else "-")


def progress_line(report: RunReport, now: datetime) -> str:
    """Return how far a run is, in a line."""
    counts = count_states(report.nodes)
    done = counts.get("SUCCEEDED", 0)
    parts = [f"{done} of {len(report.nodes)} nodes done"]
    for state, word in (("RUNNING", "running"), ("PENDING", "pending"), ("FAILED", "failed")):
        names = [node.name for node in report.nodes if node.state == state]
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            parts.append(f"{len(names)} {word} ({shown})")
    if report.run.created:
        end = report.run.finished or now
        parts.append(_duration((end - report.run.created).total_seconds()))
    return f"{report.run.state or 'not started'}: {'; '.join(parts)}"


def run_json(run: Run) -> dict[str, Any]:
    """Return a run as `--json` prints it in a list."""
    shown = {name: value for name, value in vars(run).items() if name not in _UNSHOWN}
    return {**_dated(shown), "parameters": dict(run.parameters)}


def report_json(report: RunReport) -> dict[str, Any]:
    """Return a run with its nodes as `--json` prints it."""
    nodes = [_dated(vars(node)) for node in report.nodes]
    return {**run_json(report.run), "nodes": nodes, "notes": list(report.notes)}


def show_schedules(console: Console, schedules: Sequence[Schedule]) -> None:
    """Print a line for each schedule."""
    table = Table(header_style="bold")
    for header in ("schedule", "id", "state", "cron", "created", "made by"):
        table.add_column(header, no_wrap=True)
    for schedule in schedules:
        style, state = ("green", "ENABLED") if schedule.enabled else ("yellow", "PAUSED")
        table.add_row(
            escape(schedule.name),
            schedule.id,
            f"[{style}]{state}[/{style}]",
            escape(schedule.cron) or "-",
            _time(schedule.created),
            "paring" if schedule.ours else "another",
        )
    console.print(table)


def schedule_json(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as `--json` prints it."""
    return {**_dated(vars(schedule)), "ours": schedule.ours}


_UNSHOWN = ("tasks", "spec", "version")
"""Attributes of a run that are Kubeflow's own way of putting it."""


def dumps(document: object) -> str:
    """Return JSON for a program, indented for a person."""
    return json.dumps(document, indent=2)


def _dated(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }


def _state(state: str) -> str:
    style = _STYLES.get(state, "dim")
    return f"[{style}]{state or 'not started'}[/{style}]"


def _time(when: datetime | None) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S %Z").strip() if when else "-"


def _number(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.0f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def _shortened(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) <= _SHOWN_REASON else f"{line[:_SHOWN_REASON]}..."
