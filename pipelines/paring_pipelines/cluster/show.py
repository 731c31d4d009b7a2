"""What the cluster's commands print."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from paring_pipelines.cluster.answers import Run

_STYLES = {"SUCCEEDED": "green", "FAILED": "red", "CANCELED": "yellow", "RUNNING": "cyan"}


def show_runs(console: Console, runs: Sequence[Run]) -> None:
    """A line for each run."""
    table = Table(header_style="bold")
    for header in ("run", "id", "state", "created", "finished"):
        table.add_column(header, no_wrap=True)
    for run in runs:
        table.add_row(
            escape(run.name), run.id, _state(run.state), _time(run.created), _time(run.finished)
        )
    console.print(table)


def show_run(console: Console, run: Run) -> None:
    """A run, and a line for each of its tasks."""
    console.print(f"[bold]{escape(run.name)}[/bold]  {run.id}  {_state(run.state)}")
    console.print(f"  created {_time(run.created)}, finished {_time(run.finished)}", style="dim")
    for name, value in run.parameters.items():
        console.print(f"  {name}: {escape(str(value))}", style="dim")
    if run.error:
        console.print(f"  {escape(run.error)}")
    if not run.tasks:
        return
    table = Table(header_style="bold")
    for header in ("task", "state", "seconds", "error"):
        table.add_column(header, overflow="fold")
    for task in run.tasks:
        seconds = "-"
        if task.started and task.ended:
            seconds = f"{(task.ended - task.started).total_seconds():.1f}"
        table.add_row(escape(task.name), _state(task.state), seconds, escape(task.error))
    console.print(table)


def run_json(run: Run) -> dict[str, Any]:
    """A run as `--json` prints it."""
    return {
        **_dated(vars(run)),
        "parameters": dict(run.parameters),
        "tasks": [_dated(vars(task)) for task in run.tasks],
    }


def dumps(document: object) -> str:
    """JSON for a program, indented for a person."""
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
