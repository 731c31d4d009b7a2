"""The commands that talk to a Kubeflow cluster; what they need is imported in them."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from paring import logs
from paring.errors import ClusterError, ParameterError
from paring_pipelines.cluster.options import (
    PLAN,
    connection_options,
    examples_option,
    model_option,
    no_cache_option,
    options,
    plan_options,
)
from paring_pipelines.compiling import compile_pipeline
from paring_pipelines.options import after_selection, pipeline_options

if TYPE_CHECKING:
    from paring_pipelines.cluster.client import Kubeflow
    from paring_pipelines.cluster.submit import Plan


def _kubeflow(host: str | None, namespace: str | None, timeout: float) -> "Kubeflow":
    from paring_pipelines.cluster.connection import connection

    # Before the API client, which takes a moment to import.
    settings = connection(host, namespace, timeout=timeout)
    from paring_pipelines.cluster.client import Kubeflow

    return Kubeflow(settings)


def _refuse_beside(option: str, names: Iterable[str], why: str) -> None:
    """Refuse options that would be of no account beside `option`.

    Raises:
        ParameterError: One of them is on the command line.
    """
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise ParameterError(
                f"--{name.replace('_', '-')}: it would be of no account beside {option}",
                received=context.params[name],
                remedy=why,
            )


@contextmanager
def _plan(given: Mapping[str, Any], *, caching: bool = True, attempt: int = 1) -> Iterator["Plan"]:
    """What the options come to; a package made for this is gone in the end."""
    from paring_pipelines.cluster.package import parse_parameters, read_package
    from paring_pipelines.cluster.submit import Plan

    parameters = parse_parameters(given["parameters"])
    if given["package"] is not None:
        compiling = set(given) - {"package", *PLAN}
        _refuse_beside("--package", sorted(compiling), "give it to `paring compile`")
    with ExitStack() as stack:
        file = given["package"]
        if file is None:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory()), "pipeline.yaml")
            compile_pipeline(given, file)
        yield Plan(
            package=read_package(file),
            parameters=parameters,
            experiment=given["experiment"],
            pipeline_root=given["pipeline_root"],
            service_account=given["service_account"],
            caching=caching,
            attempt=attempt,
        )


@click.command()
@options(model_option, examples_option, *connection_options, *plan_options, no_cache_option)
@click.option(
    "--attempt",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="2 to run again what has had its run, and so on.",
)
@click.option(
    "--state", metavar="URI", help="Where several that submit keep claims, of whom one gets it."
)
@after_selection
@pipeline_options
def submit(
    model: str,
    examples: str,
    host: str | None,
    namespace: str | None,
    timeout: float,
    no_cache: bool,
    attempt: int,
    state: str | None,
    **given: Any,
) -> None:
    """Run the pipeline on Kubeflow, once for one source and plan.

    The run is named for the digests of both. Given again, the command finds that run.
    """
    from paring_pipelines.cluster.sources import source_digest
    from paring_pipelines.cluster.submit import submit as submit_run
    from paring_pipelines.cluster.submit import submit_claimed

    kubeflow = _kubeflow(host, namespace, timeout)
    with _plan(given, caching=not no_cache, attempt=attempt) as plan:
        digest = source_digest(model, examples)
        if state is None:
            made = submit_run(kubeflow, plan, model, examples, digest)
        else:
            made = submit_claimed(kubeflow, plan, model, examples, digest, state)
    run = made.first
    logs.event("submitted" if made.new else "was submitted before", run=run.id, name=run.name)
    click.echo(f"{run.name}  {run.id}  {'submitted' if made.new else 'was submitted before'}")
    if not made.new and run.state in ("FAILED", "CANCELED"):
        click.echo(f"it ended as {run.state}; --attempt {attempt + 1} runs it again")


@click.command()
@options(model_option, examples_option, *connection_options, *plan_options)
@click.option("--name", metavar="NAME", help="The schedule's; the pipeline's if not given.")
@click.option(
    "--cron", required=True, metavar="FIELDS", help="'0 30 3 * * *' or '30 3 * * *': 03:30 UTC."
)
@click.option("--catch-up", is_flag=True, help="Make up for times that were missed.")
@click.option(
    "--max-concurrency",
    type=click.IntRange(1, 10),
    default=1,
    show_default=True,
    help="Runs that go on at once.",
)
@click.option(
    "--source-digest", metavar="TEXT", help="Fix what names the source, so that caches are hit."
)
@after_selection
@pipeline_options
def schedule(
    model: str,
    examples: str,
    host: str | None,
    namespace: str | None,
    timeout: float,
    name: str | None,
    cron: str,
    catch_up: bool,
    max_concurrency: int,
    source_digest: str | None,
    **given: Any,
) -> None:
    """Run the pipeline on Kubeflow at set times; a change replaces the schedule."""
    from paring_pipelines.cluster.cron import read_cron, said
    from paring_pipelines.cluster.schedule import EACH_TIME, Timing
    from paring_pipelines.cluster.schedule import schedule as make_schedule

    timing = Timing(read_cron(cron), catch_up, max_concurrency)
    kubeflow = _kubeflow(host, namespace, timeout)
    with _plan(given) as plan:
        done = make_schedule(
            kubeflow,
            name or plan.package.name,
            plan,
            timing,
            model,
            examples,
            digest=source_digest or EACH_TIME,
        )
    logs.event("scheduled", schedule=done.schedule.id, cron=timing.cron, new=done.new)
    click.echo(f"read as: {said(timing.cron)}")
    what = "scheduled" if done.new else "was scheduled before"
    click.echo(f"{done.schedule.name}  {done.schedule.id}  {what}, version {done.version}")
    if done.replaced:
        click.echo(f"in the place of {done.replaced} other(s), which were deleted")


@click.command()
@click.option(
    "--source", required=True, metavar="PREFIX", help="Path or URI that training writes below."
)
@click.option("--state", required=True, metavar="URI", help="Where claims are kept.")
@click.option(
    "--marker", default="", metavar="NAME", help="File that ends an output; else TFX's Pusher's."
)
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Without --marker: an output is finished when nothing changed for so long.",
)
@click.option(
    "--lease",
    type=float,
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="When the claim of a watcher that was killed is taken up again.",
)
@click.option("--once", is_flag=True, help="Look once and end, as in a CronJob.")
@click.option(
    "--interval",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option(
    "--metrics-port", type=click.IntRange(0, 65535), help="Answer Prometheus on this port."
)
@click.option(
    "--metrics-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write Prometheus' text there after each look.",
)
@options(examples_option, *connection_options, *plan_options)
@after_selection
@pipeline_options
def watch(
    source: str,
    state: str,
    marker: str,
    settle: float,
    lease: float,
    once: bool,
    interval: float,
    metrics_port: int | None,
    metrics_file: Path | None,
    examples: str,
    host: str | None,
    namespace: str | None,
    timeout: float,
    **given: Any,
) -> None:
    """Submit one run for each finished training output below a prefix."""
    if once:
        _refuse_beside("--once", ["metrics_port"], "give --metrics-file: nobody would be there")
        _refuse_beside("--once", ["interval"], "leave one of them out")
    if marker:
        _refuse_beside("--marker", ["settle"], "write the marker when all else is there")
    from paring_pipelines.cluster.lag import WatchMetrics
    from paring_pipelines.cluster.watch import Watched, Watcher

    kubeflow = _kubeflow(host, namespace, timeout)
    watched = Watched(source, examples, state, marker, settle, lease)
    metrics = WatchMetrics()
    with _plan(given) as plan:
        watcher = Watcher(kubeflow, plan, watched, metrics, _tell)
        if metrics_port is not None:
            _tell("answering Prometheus", port=metrics.serve(metrics_port))

        def looked() -> None:
            if metrics_file is not None:
                metrics.write(metrics_file)

        if not once:
            watcher.go_on(interval, looked)
        problem = watcher.look()
        looked()
    if problem is not None:
        raise problem


def _tell(what: str, /, **facts: object) -> None:
    if logs.is_json():
        (logs.failure if "error" in facts else logs.event)(what, **facts)
    else:
        told = "  ".join(f"{key}={value}" for key, value in facts.items())
        click.echo(f"{what}  {told}")


@click.command()
@click.argument("run", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@options(*connection_options)
def status(
    run: str | None,
    limit: int,
    as_json: bool,
    host: str | None,
    namespace: str | None,
    timeout: float,
) -> None:
    """Say how far a run is, by its id or name; without one, list the newest."""
    from paring_pipelines.cluster.show import dumps, run_json, show_run, show_runs
    from paring_pipelines.console import make_console

    kubeflow = _kubeflow(host, namespace, timeout)
    if run is None:
        found = kubeflow.runs(limit=limit)
        if as_json:
            click.echo(dumps([run_json(one) for one in found]))
        else:
            show_runs(make_console(), found)
        return
    one = _find(kubeflow, run)
    if as_json:
        click.echo(dumps(run_json(one)))
    else:
        show_run(make_console(), one)


@click.command()
@click.argument("run")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Gets selected/, selection.json and report.html.",
)
@click.option("--pipeline-root", default="", metavar="URI", help="Where its artifacts lie.")
@click.option("--pipeline", default="", metavar="NAME", help="Where Kubeflow does not tell it.")
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
    """Bring the selected model and the report of a finished run here."""
    from paring_pipelines.cluster.fetch import fetch_run

    found = _find(_kubeflow(host, namespace, timeout), run)
    fetched = fetch_run(found, out, pipeline_root=pipeline_root, pipeline=pipeline)
    click.echo(f"selected  {fetched.selected}")
    click.echo(f"report    {fetched.report}")


def _find(kubeflow: "Kubeflow", run: str) -> Any:
    """A run by its name, else by its id."""
    from paring_pipelines.cluster.refusals import AbsentError

    named = kubeflow.runs_named(run)
    if named:
        # With what only a look at the one tells, its tasks.
        return kubeflow.run(named[0].id)
    try:
        return kubeflow.run(run)
    except AbsentError as error:
        raise ClusterError(
            "there is no run of this id or name",
            received=run,
            remedy="`paring status` lists the newest",
        ) from error


COMMANDS = (submit, schedule, watch, status, fetch)
