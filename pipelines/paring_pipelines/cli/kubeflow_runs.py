"""The commands that look at runs and schedules on Kubeflow, and end or change them."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paring.errors import ClusterError, ParameterError
from paring.system import logs as events
from paring_pipelines.cli.kubeflow_options import (
    connect,
    connection_options,
    on_interrupt,
    options,
    refuse_beside,
)
from paring_pipelines.cli.options import SECONDS, Command

if TYPE_CHECKING:
    from rich.console import Console

    from paring_pipelines.kubeflow.client import Kubeflow
    from paring_pipelines.kubeflow.run_reader import RunReader, RunReport
    from paring_pipelines.kubeflow.types import Schedule

_FAILED_LOOKS = 5
"""Looks in a row at which `--watch` may find Kubeflow out of reach."""

_STILL_RUNNING = (
    "the run {run} goes on: `paring {again}` follows it again, and `paring cancel` ends it"
)

pipeline_root_option = click.option(
    "--pipeline-root",
    default="",
    metavar="URI",
    help="Where its artifacts lie; else the run's own, or Kubeflow's default.",
)
interval_option = click.option(
    "--interval",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)


@click.command(cls=Command)
@click.argument("run", required=False)
@click.option(
    "--watch",
    "watching",
    is_flag=True,
    help="Follow the run until its end; the exit code is 0, 21 if it failed, 22 if canceled.",
)
@interval_option
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@pipeline_root_option
@options(*connection_options)
def status(
    run: str | None,
    watching: bool,
    interval: float,
    limit: int,
    as_json: bool,
    pipeline_root: str,
    host: str | None,
    namespace: str | None,
    timeout: float,
) -> None:
    """Show how far a run is, by its id or name; without one, list the newest.

    A row for each node, with its outcome and reason, and for what failed the error.
    """
    if run is None:
        refuse_beside("a list", ["watching", "interval", "pipeline_root"], "name a run")
    else:
        refuse_beside("one run", ["limit"], "leave one of them out")
    if not watching:
        refuse_beside("a single look", ["interval"], "give --watch")
    from paring_pipelines.cli.console import make_console
    from paring_pipelines.cli.kubeflow_console import (
        dumps,
        report_json,
        run_json,
        show_run,
        show_runs,
    )
    from paring_pipelines.kubeflow.run_reader import RunReader, find_run

    kubeflow = connect(host, namespace, timeout)
    if run is None:
        result = kubeflow.runs(limit=limit)
        if as_json:
            click.echo(dumps([run_json(item) for item in result]))
        else:
            show_runs(make_console(), result)
        return
    item = find_run(kubeflow, run)
    if watching:
        with on_interrupt(_STILL_RUNNING.format(run=item.name, again="status --watch")):
            item = _watch(kubeflow, item.id, interval=interval, console=make_console(stderr=True))
    report = RunReader(kubeflow, item, pipeline_root=pipeline_root).report()
    if as_json:
        click.echo(dumps(report_json(report)))
    else:
        show_run(make_console(), report)
    if watching:
        _raise_result(report)


def _watch(kubeflow: "Kubeflow", run_id: str, *, interval: float, console: "Console") -> Any:
    """Show a line about a run until its end; on a terminal always the same one."""
    from paring_pipelines.cli.kubeflow_console import progress_line
    from paring_pipelines.kubeflow.run_reader import RunReader
    from paring_pipelines.kubeflow.types import FINISHED

    shown, failed_looks = "", 0
    with console.status("looking") as spinner:
        while True:
            try:
                run = kubeflow.run(run_id)
                report = RunReader(kubeflow, run).progress()
                failed_looks = 0
            except ClusterError:
                failed_looks += 1
                if failed_looks == _FAILED_LOOKS:
                    raise
                time.sleep(interval)
                continue
            line = progress_line(report, datetime.now(UTC))
            spinner.update(line)
            # Without the time, which alone changes always.
            steady = line.rpartition("; ")[0]
            if steady != shown:
                shown = steady
                if events.is_json():
                    events.event("progress", run=run.id, state=run.state, progress=steady)
                elif not console.is_terminal:
                    click.echo(line, err=True)
            if run.state in FINISHED:
                return run
            time.sleep(interval)


def _raise_result(report: "RunReport") -> None:
    from paring_pipelines.kubeflow.errors import RunCanceledError, RunFailedError

    run = report.run
    if run.state == "CANCELED":
        raise RunCanceledError(
            f"the run {run.name} was canceled",
            remedy="submit it again with another --attempt",
        )
    if run.state != "SUCCEEDED":
        failed = [node.name for node in report.nodes if node.state == "FAILED"]
        raise RunFailedError(
            f"the run {run.name} has failed",
            received=", ".join(failed) or run.state,
            remedy=f"read `paring logs {run.name} {failed[0] if failed else 'NODE'}`;"
            " submit it again with another --attempt",
        )


@click.command(cls=Command)
@click.argument("run")
@click.argument("node", required=False)
@click.option("--follow", is_flag=True, help="Go on with what is written, until the end.")
@click.option(
    "--attempt", type=click.IntRange(min=1), help="Which attempt at the node; else the last one."
)
@interval_option
@pipeline_root_option
@options(*connection_options)
def logs(
    run: str,
    node: str | None,
    follow: bool,
    attempt: int | None,
    interval: float,
    pipeline_root: str,
    host: str | None,
    namespace: str | None,
    timeout: float,
) -> None:
    """Print what a node has written; without one, what all have, each line with its node.

    From Kubeflow's API, or what its launcher kept in the artifact store.
    """
    if node is None:
        refuse_beside("all nodes", ["attempt"], "name a node")
    if follow:
        refuse_beside("--follow", ["attempt"], "leave one of them out")
    else:
        refuse_beside("a single look", ["interval"], "give --follow")
    from paring_pipelines.kubeflow.run_logs import LogPrinter
    from paring_pipelines.kubeflow.run_reader import RunReader, find_run

    kubeflow = connect(host, namespace, timeout)

    def read(result: Any) -> "RunReader":
        return RunReader(kubeflow, result, pipeline_root=pipeline_root)

    result = find_run(kubeflow, run)
    printer = LogPrinter(click.echo, node)
    if not follow:
        printer.print_once(read(result), attempt)
        return
    with on_interrupt(_STILL_RUNNING.format(run=result.name, again="logs --follow")):
        while printer.print_more(read(result)):
            time.sleep(interval)
            result = kubeflow.run(result.id)


@click.command(cls=Command)
@click.argument("run")
@options(*connection_options)
def cancel(run: str, host: str | None, namespace: str | None, timeout: float) -> None:
    """End a run and its pods; what it has made stays.

    A run that has ended stays as it is.
    """
    from paring_pipelines.kubeflow.run_reader import find_run
    from paring_pipelines.kubeflow.types import FINISHED

    kubeflow = connect(host, namespace, timeout)
    result = find_run(kubeflow, run)
    if result.state in FINISHED:
        click.echo(f"{result.name}  {result.id}  had ended before, as {result.state}")
        return
    if result.state != "CANCELING":
        try:
            kubeflow.cancel(result.id)
        except ClusterError:
            # Asked twice, since the first answer was lost, or it has just ended by itself.
            result = kubeflow.run(result.id)
            if result.state not in (*FINISHED, "CANCELING"):
                raise
    events.event("canceled", run=result.id, name=result.name)
    click.echo(f"{result.name}  {result.id}  is being canceled")


@click.command(cls=Command)
@click.argument("run")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Gets selected/, selection.json and report.html.",
)
@pipeline_root_option
@click.option(
    "--pipeline",
    default="",
    metavar="NAME",
    help="The pipeline's name, if Kubeflow does not report it.",
)
@options(*connection_options)
def fetch(
    run: str,
    out: Path,
    pipeline_root: str,
    pipeline: str,
    host: str | None,
    namespace: str | None,
    timeout: float,
) -> None:
    """Download the selected model and the report of a finished run."""
    from paring_pipelines.kubeflow.fetch import check_succeeded, fetch_run
    from paring_pipelines.kubeflow.run_reader import RunReader, find_run

    kubeflow = connect(host, namespace, timeout)
    result = find_run(kubeflow, run)
    check_succeeded(result)
    reader = RunReader(kubeflow, result, pipeline_root=pipeline_root, pipeline=pipeline)
    fetched = fetch_run(reader.run, out, pipeline_root=reader.pipeline_root())
    click.echo(f"selected  {fetched.selected}")
    click.echo(f"report    {fetched.report}")


class _Schedules(click.Group):
    """A group that lists where no command is named."""

    command_class = Command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ctx.help_option_names):
            args = ["list", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Schedules)
def schedules() -> None:
    """List the schedules on Kubeflow, pause, resume or delete one."""


@schedules.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
@options(*connection_options)
def list_schedules(as_json: bool, host: str | None, namespace: str | None, timeout: float) -> None:
    """List the schedules, the newest first; `paring schedules` does the same."""
    from paring_pipelines.cli.console import make_console
    from paring_pipelines.cli.kubeflow_console import dumps, schedule_json, show_schedules

    result = connect(host, namespace, timeout).schedules()
    if as_json:
        click.echo(dumps([schedule_json(item) for item in result]))
    else:
        show_schedules(make_console(), result)


def _changing(name: str, summary: str, done: str) -> Callable[[Callable[..., None]], Any]:
    """Make a command that does something to one schedule."""

    def decorate(change: Callable[["Kubeflow", "Schedule"], None]) -> Any:
        @schedules.command(name, help=summary)
        @click.argument("schedule", metavar="SCHEDULE")
        @options(*connection_options)
        def command(schedule: str, host: str | None, namespace: str | None, timeout: float) -> None:
            kubeflow = connect(host, namespace, timeout)
            result = _find_schedule(kubeflow, schedule)
            change(kubeflow, result)
            events.event(f"schedule {done}", schedule=result.id, name=result.name)
            click.echo(f"{result.name}  {result.id}  {done}")

        return command

    return decorate


@_changing("pause", "Keep a schedule from starting runs, by its name or id.", "paused")
def pause(kubeflow: "Kubeflow", schedule: "Schedule") -> None:
    """Pause one schedule."""
    kubeflow.disable_schedule(schedule)


@_changing("resume", "Let a paused schedule start runs again, by its name or id.", "resumed")
def resume(kubeflow: "Kubeflow", schedule: "Schedule") -> None:
    """Resume one schedule."""
    kubeflow.enable_schedule(schedule)


@_changing("delete", "Delete a schedule, by its name or id; its runs stay.", "deleted")
def delete(kubeflow: "Kubeflow", schedule: "Schedule") -> None:
    """Delete one schedule."""
    kubeflow.remove_schedule(schedule)


def _find_schedule(kubeflow: "Kubeflow", name: str) -> "Schedule":
    """Return a schedule by its id, or one that Paring made by its name.

    Raises:
        ParameterError: Several have the name, or another made the only one.
        NotFoundError: There is none.
    """
    from paring_pipelines.kubeflow.errors import NotFoundError
    from paring_pipelines.kubeflow.run_reader import did_you_mean

    known = kubeflow.schedules()
    for item in known:
        if item.id == name:
            return item
    named = [item for item in known if item.name == name]
    ours = [item for item in named if item.ours]
    if len(ours) == 1:
        return ours[0]
    if named:
        raise ParameterError(
            f"several schedules have the name {name!r}"
            if ours
            else f"paring did not make the schedule {name!r}",
            received=", ".join(item.id for item in ours or named),
            remedy="give the id of the one that you mean",
        )
    hint = did_you_mean(name, [item.name for item in known])
    raise NotFoundError(
        "there is no schedule of this id or name",
        received=name,
        remedy=f"{hint}`paring schedules` lists them",
    )


RUN_COMMANDS = (status, logs, cancel, fetch, schedules)
