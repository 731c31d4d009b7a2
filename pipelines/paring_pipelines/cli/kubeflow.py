"""Commands that talk to a Kubeflow cluster, which import their libraries late."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from paring.errors import ParameterError
from paring.storage import exists, is_remote
from paring.system import logs
from paring_pipelines.cli.compiling import compile_pipeline
from paring_pipelines.cli.kubeflow_options import (
    PLAN,
    connect,
    connection_options,
    examples_option,
    model_option,
    no_cache_option,
    on_interrupt,
    options,
    plan_options,
    refuse_beside,
)
from paring_pipelines.cli.kubeflow_runs import RUN_COMMANDS
from paring_pipelines.cli.options import (
    LONGEST_WAIT,
    SECONDS,
    Command,
    FiniteFloat,
    after_selection,
    pipeline_options,
)
from paring_pipelines.kubeflow.formats import check_object_name

if TYPE_CHECKING:
    from paring_pipelines.kubeflow.client import Kubeflow
    from paring_pipelines.kubeflow.submit import Plan


@contextmanager
def _plan(given: Mapping[str, Any], *, caching: bool = True, attempt: int = 1) -> Iterator["Plan"]:
    """Yield the plan that the options describe; a package compiled for it is deleted at the end."""
    from paring_pipelines.kubeflow.package import parse_parameters, read_package
    from paring_pipelines.kubeflow.stores import check_pipeline_root
    from paring_pipelines.kubeflow.submit import Plan

    check_pipeline_root(given["pipeline_root"])
    if given["service_account"]:
        check_object_name("--service-account", given["service_account"])
    parameters = parse_parameters(given["parameters"])
    if given["package"] is not None:
        compiling = set(given) - {"package", *PLAN}
        refuse_beside("--package", sorted(compiling), "give it to `paring compile`")
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


def _check_stores(
    kubeflow: "Kubeflow", plan: "Plan", *, model: str, examples: str, model_option: str = "--model"
) -> None:
    """Refuse sources that the tasks can't read, and warn of those that they may not.

    Raises:
        ParameterError: See `paring_pipelines.kubeflow.stores.check_stores`.
    """
    from paring_pipelines.kubeflow.launcher_config import TIMEOUT, default_root, runs_namespace
    from paring_pipelines.kubeflow.package import SOURCES
    from paring_pipelines.kubeflow.stores import check_stores

    settings = kubeflow.settings

    def root() -> str:
        namespace = runs_namespace(settings.host, kubeflow.namespace)
        return default_root(namespace, timeout=min(settings.timeout, TIMEOUT))

    named = dict(zip(SOURCES, (model_option, "--examples"), strict=True))
    uris = dict(zip(SOURCES, (model, examples), strict=True))
    for line in check_stores(
        plan.package, options=named, uris=uris, pipeline_root=plan.pipeline_root, default_root=root
    ):
        _warn(line)


def _warn(line: str) -> None:
    if logs.is_json():
        logs.event("warning", warning=line)
    else:
        click.echo(f"warning: {line}", err=True)


@click.command(cls=Command)
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
    from paring_pipelines.kubeflow.sources import source_digest
    from paring_pipelines.kubeflow.submit import submit as submit_run
    from paring_pipelines.kubeflow.submit import submit_claimed

    kubeflow = connect(host, namespace, timeout)
    with _plan(given, caching=not no_cache, attempt=attempt) as plan:
        _check_stores(kubeflow, plan, model=model, examples=examples)
        digest = source_digest(model, examples)
        if state is None:
            made = submit_run(kubeflow, plan, model=model, examples=examples, digest=digest)
        else:
            made = submit_claimed(
                kubeflow, plan, model=model, examples=examples, digest=digest, state=state
            )
    run = made.first
    logs.event("submitted" if made.new else "was submitted before", run=run.id, name=run.name)
    click.echo(f"{run.name}  {run.id}  {'submitted' if made.new else 'was submitted before'}")
    if not made.new and run.state in ("FAILED", "CANCELED"):
        click.echo(f"it ended as {run.state}; --attempt {attempt + 1} runs it again")


@click.command(cls=Command)
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
    from paring_pipelines.kubeflow.cron import read_cron, said
    from paring_pipelines.kubeflow.schedule import EACH_TIME, Timing
    from paring_pipelines.kubeflow.schedule import schedule as make_schedule

    timing = Timing(read_cron(cron), catch_up, max_concurrency)
    kubeflow = connect(host, namespace, timeout)
    with _plan(given) as plan:
        _check_stores(kubeflow, plan, model=model, examples=examples)
        done = make_schedule(
            kubeflow,
            name or plan.package.name,
            plan=plan,
            timing=timing,
            model=model,
            examples=examples,
            digest=source_digest or EACH_TIME,
        )
    logs.event("scheduled", schedule=done.schedule.id, cron=timing.cron, new=done.new)
    click.echo(f"read as: {said(timing.cron)}")
    what = "scheduled" if done.new else "was scheduled before"
    click.echo(f"{done.schedule.name}  {done.schedule.id}  {what}, version {done.version}")
    if done.replaced:
        click.echo(f"in the place of {done.replaced} other(s), which were deleted")


@click.command(cls=Command)
@click.option(
    "--source", required=True, metavar="PREFIX", help="Path or URI that training writes below."
)
@click.option("--state", required=True, metavar="URI", help="Where claims are kept.")
@click.option(
    "--marker", default="", metavar="NAME", help="File that ends an output; else TFX's Pusher's."
)
@click.option(
    "--settle",
    type=FiniteFloat(min=0, max=LONGEST_WAIT),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Without --marker: an output is finished when nothing changed for so long.",
)
@click.option(
    "--lease",
    type=SECONDS,
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="When the claim of a watcher that was killed is taken up again.",
)
@click.option("--once", is_flag=True, help="Look once and end, as in a CronJob.")
@click.option(
    "--interval",
    type=SECONDS,
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
    if "/" in marker or marker in (".", ".."):
        raise ParameterError(
            "--marker: must be the name of a file, without folders",
            received=marker,
            remedy="give the last part of its path, such as _SUCCESS",
        )
    if once:
        refuse_beside("--once", ["metrics_port"], "give --metrics-file: nobody would be there")
        refuse_beside("--once", ["interval"], "leave one of them out")
    absent = not is_remote(source) and not exists(source)
    if once and absent:
        raise ParameterError(
            "--source: path does not exist",
            received=source,
            remedy="give the folder that training writes below, or create it first",
        )
    if marker:
        refuse_beside("--marker", ["settle"], "write the marker when all else is there")
    from paring_pipelines.kubeflow.metrics import WatchMetrics
    from paring_pipelines.kubeflow.watch import Watched, Watcher

    if absent:
        _warn(f"--source: {source} does not exist yet; nothing is found until it does")
    kubeflow = connect(host, namespace, timeout)
    watched = Watched(source, examples, state, marker, settle, lease)
    metrics = WatchMetrics()
    with _plan(given) as plan:
        _check_stores(kubeflow, plan, model=source, examples=examples, model_option="--source")
        watcher = Watcher(kubeflow, plan, watched, metrics, _tell)
        if metrics_port is not None:
            _tell("answering Prometheus", port=metrics.serve(metrics_port))

        def looked() -> None:
            if metrics_file is not None:
                metrics.write(metrics_file)

        # Before anything is submitted: a file that can't be written is an error by then.
        looked()
        if not once:
            with on_interrupt("runs that were submitted go on; the next watcher does the rest"):
                watcher.go_on(interval, looked)
        problem = watcher.look()
        looked()
    if problem is not None:
        raise problem


def _tell(what: str, /, **facts: object) -> None:
    if logs.is_json():
        (logs.failure if "error" in facts else logs.event)(what, **facts)
    else:
        result = "  ".join(f"{key}={value}" for key, value in facts.items())
        click.echo(f"{what}  {result}")


COMMANDS = (submit, schedule, watch, *RUN_COMMANDS)
