"""The `paring` command."""

import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from paring import __version__
from paring.adapters.cli import StepGroup
from paring.artifacts import RECORD, Artifact, content_digest, read_record
from paring.errors import ArtifactTypeError, ParameterError, ParingError, StepFailedError
from paring.storage import is_remote, list_below, local_path, write_text
from paring.system import interruption, logs
from paring_pipelines.advice.advice import AUTO, AdvisedRecipes
from paring_pipelines.cli.compiling import compile_package, components, recipes_file
from paring_pipelines.cli.kubeflow import COMMANDS
from paring_pipelines.cli.options import (
    Command,
    after_selection,
    examples_option,
    flag,
    model_option,
    pipeline_options,
    read_settings,
    recipes_option,
    setting_options,
    step_limits,
)
from paring_pipelines.cli.serving import list_versions, rollback
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import DEFAULT_FILE, TARGETS, Recipe, load_recipes
from paring_pipelines.pipeline.settings import LocalSettings, Settings, UserSettings
from paring_pipelines.runners.locations import (
    DEFAULT_OUT,
    Destination,
    destination,
    fetched,
    fetched_for_now,
)

if TYPE_CHECKING:
    from rich.console import Console

    from paring.adapters.step_processes import Execute
    from paring_pipelines.cli.console import NodeProgress
    from paring_pipelines.runners.session import PublishedRun

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it."""

_DEMO_PRECISION = 0.2
"""Enough where each candidate is many times as fast as the source."""

_DEMO = {
    name: replace(item, default=_DEMO_PRECISION) if name == "speedup_precision" else item
    for name, item in (LocalSettings.declared() | UserSettings.declared()).items()
    if name
    in (
        "runner",
        "jobs",
        "metric",
        "top_k",
        "speedup_precision",
        "step_time_limit",
        "step_memory_limit",
    )
}
"""Settings that the demo takes."""


def _show_step_outputs(outputs: Mapping[str, Artifact]) -> None:
    from paring_pipelines.cli.console import make_console, show_outputs

    show_outputs(make_console(), outputs)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="paring")
@click.option("--debug", is_flag=True, help="Show tracebacks and the libraries' own warnings.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    envvar=logs.VARIABLE,
    help=f"json: also a line of JSON for each event, on standard error; or {logs.VARIABLE}.",
)
def paring(debug: bool, log_format: str) -> None:
    """Make a trained TensorFlow model smaller and faster, verified and measured."""
    if log_format == "json":
        logs.write_json()
    else:
        logs.stop()


paring.command_class = Command
paring.add_command(
    StepGroup("step", show=_show_step_outputs, help="Run one step, as each container does.")
)
for command in (compile_package, components, list_versions, rollback, *COMMANDS):
    paring.add_command(command)


@paring.command()
@model_option
@examples_option
@click.option(
    "--out",
    default=DEFAULT_OUT,
    show_default=True,
    metavar="DIR",
    help="Gets report.html, selection.json, selected/ and pipeline/; or gs:// or s3://,"
    " which gets all but the last.",
)
@click.option(
    "--work",
    type=local_path,
    metavar="DIR",
    help=f"With --out in a store: the folder to work in here, {DEFAULT_OUT} if not given.",
)
@setting_options(LocalSettings.declared())
@after_selection
@pipeline_options
def run(
    model: str, examples: str, out: str, work: Path | None, recipes: Path | None, **given: Any
) -> None:
    """Try every recipe on a model; measure, choose, report.

    With --recipes auto, those that `paring advise` finds worth trying.
    """
    place = destination(out, work)
    local = LocalSettings.pick(given)
    settings = read_settings(given, command=f"paring {shlex.join(sys.argv[1:])}")
    _run(model, examples, place, recipes, settings, local)


def _run(
    model: str,
    examples: str,
    place: Destination,
    recipes: Path | None,
    settings: Settings,
    local: LocalSettings,
) -> None:
    from paring.adapters.step_processes import step_processes
    from paring_pipelines.cli import console
    from paring_pipelines.runners import session

    start = time.monotonic()
    screen = console.make_console()
    # What can fail fast goes before what may take long to bring here.
    local.check(flag)
    _check_workers(settings)
    chosen = load_recipes(DEFAULT_FILE if recipes in (None, AUTO) else recipes, settings.target)
    place.check()
    if settings.push_to:
        # Whether it can be asked at all; what is there is looked at when there is something.
        next(list_below(settings.push_to), None)
    sources = _brought(model, examples, place)
    advice = None
    with ExitStack() as resources:
        if recipes == AUTO:
            # The run takes the same server.
            execute = resources.enter_context(step_processes(local.limits))
            advice = _advise(*sources, DEFAULT_FILE, settings, execute)
            console.show_advice(screen, advice.advised)
            chosen = advice.worth
        progress = resources.enter_context(closing(console.NodeProgress(screen)))
        if local.budget_minutes is None:
            outcome = session.run(
                *sources,
                recipes=chosen,
                settings=settings,
                out=place,
                local=local,
                progress=progress.progress(),
            )
        else:
            outcome = _search(
                *sources,
                recipes=chosen,
                settings=settings,
                out=place,
                local=local,
                screen=screen,
                progress=progress,
            )
    reasons = place.folder / "advice.json"
    if advice is None:
        # Of an earlier run, which chose its recipes by it.
        reasons.unlink(missing_ok=True)
        place.withdraw(reasons.name)
    else:
        write_text(str(reasons), json.dumps(advice.as_json(), indent=2) + "\n")
        place.publish(reasons.name)
    console.show_outcome(screen, outcome, time.monotonic() - start)


def _check_workers(settings: Settings) -> None:
    """Refuse what `evaluate` would refuse, which is to come after hours of training."""
    if settings.beam_options or settings.shared_dir:
        # Imported late: this takes Beam, which takes seconds to load.
        from paring.evaluation.beam_options import read_beam_options

        read_beam_options(settings.beam_options, settings.shared_dir)


def _brought(model: str, examples: str, place: Destination) -> tuple[Path, Path]:
    """Return the paths of both sources; what is in a store is kept in the results' folder."""
    if not (is_remote(model) or is_remote(examples)):
        return local_path(model), local_path(examples)
    from paring_pipelines.runners.session import PIPELINE_DIR, lock_workspace

    with lock_workspace(place.folder):
        return fetched(model, examples, place.folder / PIPELINE_DIR / "sources")


def _search(
    model: Path,
    examples: Path,
    *,
    recipes: Sequence[Recipe],
    settings: Settings,
    out: Destination,
    local: LocalSettings,
    screen: "Console",
    progress: "NodeProgress",
) -> "PublishedRun":
    from paring_pipelines.cli.search_console import search_progress
    from paring_pipelines.search.loop import SearchInterrupted, search

    try:
        return search(
            model,
            examples,
            recipes=recipes,
            settings=settings,
            out=out,
            local=local,
            progress=search_progress(screen, progress),
        )
    except SearchInterrupted as stopped:
        click.echo(stopped, err=True)
        sys.exit(INTERRUPTED)


def _advise(
    model: Path, examples: Path, recipes: Path, settings: Settings, execute: "Execute"
) -> AdvisedRecipes:
    from paring_pipelines.advice.advice import advise
    from paring_pipelines.advice.facts import inspect
    from paring_pipelines.runners.session import check_sources

    known = load_recipes(recipes, settings.target)
    check_sources(model, examples)
    facts = inspect(model, examples, settings, execute)
    return AdvisedRecipes(facts, advise(known, facts, settings.gate))


@paring.command()
@model_option
@examples_option
@step_limits
@pipeline_options
@click.option("--json", "as_json", is_flag=True, help="Print the facts and reasons as JSON.")
def advise(model: str, examples: str, recipes: Path | None, as_json: bool, **given: Any) -> None:
    """Show which recipes are worth trying on a model, and why, without trying them."""
    from paring.adapters.step_processes import step_processes
    from paring.adapters.step_server import PROFILE_LIBRARIES
    from paring_pipelines.cli.console import make_console, show_advice

    file, settings = recipes_file(recipes), read_settings(given)
    local = LocalSettings.pick(given)
    local.check(flag)
    with (
        fetched_for_now(model, examples) as sources,
        step_processes(local.limits, PROFILE_LIBRARIES) as execute,
    ):
        advice = _advise(*sources, file, settings, execute)
    if as_json:
        click.echo(json.dumps(advice.as_json(), indent=2))
    else:
        show_advice(make_console(), advice.advised)


@paring.command()
@click.option(
    "--out",
    type=local_path,
    default="out/demo",
    show_default=True,
    metavar="DIR",
    help="Gets the model, the examples and all results.",
)
@setting_options(_DEMO)
def demo(out: Path, **given: Any) -> None:
    """Train a small CNN on scikit-learn's digits, then optimize it."""
    from paring_pipelines import demo as digits

    # Before the training, not after it.
    local = LocalSettings.pick(given)
    local.check(flag)
    read_settings(given)
    model, examples = out / "digits", out / "digits.npz"
    if model.exists() and examples.exists():
        click.echo(f"using the model trained before, {model}")
    else:
        click.echo("training a depthwise-separable CNN on scikit-learn's digits")
        digits.write_digits_examples(examples)
        accuracy = digits.train_digits_model(model)
        click.echo(f"trained: {accuracy:.2%} on the held-out split; {model}")
    command = (
        f"paring run --model {model} --examples {examples} --runner {local.runner} --out {out}"
    )
    for name, setting in UserSettings.declared().items():
        if given.get(name, setting.default) != setting.default:
            command += f" {flag(name)} {given[name]}"
    settings = read_settings(given, command=command)
    _run(str(model), str(examples), Destination(out), None, settings, local)


@paring.command()
@after_selection
@pipeline_options
def plan(recipes: Path | None, **given: Any) -> None:
    """Print the nodes that a run would have, without running them."""
    from paring_pipelines.cli.console import make_console, show_plan

    settings = read_settings(given)
    dag = build(load_recipes(recipes_file(recipes), settings.target), settings)
    show_plan(make_console(), dag)


@paring.command("recipes")
@recipes_option
@click.option("--target", type=click.Choice(TARGETS), help="Only those for this target.")
@click.option("--as-toml", is_flag=True, help="Print Paring's own recipes as a file to start from.")
def list_recipes(recipes: Path | None, target: str | None, as_toml: bool) -> None:
    """List the recipes that a run tries."""
    if as_toml:
        click.echo(DEFAULT_FILE.read_text(), nl=False)
        return
    from paring_pipelines.cli.console import make_console, show_recipes

    show_recipes(make_console(), load_recipes(recipes_file(recipes), target))


@paring.command()
@click.argument("artifact", type=local_path, metavar="MODEL")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def lineage(artifact: Path, as_json: bool) -> None:
    """Show the bytes, recipe, parameters and versions that an artifact came from."""
    from paring_pipelines.cli.console import make_console, show_lineage

    if not artifact.exists():
        raise ParameterError(
            "MODEL: path does not exist",
            received=artifact,
            remedy="give an artifact's folder, such as out/selected",
        )
    # Also of a file inside, such as Format-Serving/model.tflite.
    places = (artifact, *artifact.absolute().parents[:2])
    folder = next((place for place in places if (place / RECORD).is_file()), artifact)
    record = read_record(folder)
    if record is None:
        raise ArtifactTypeError(
            "MODEL: Paring did not write this, so its lineage is unknown",
            received=artifact,
            remedy="give an artifact's folder, such as out/selected",
        )
    if as_json:
        click.echo(json.dumps(record, indent=2))
    else:
        show_lineage(make_console(), folder, record=record, digest=content_digest(folder))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0, the error's own code, or 130."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Taken anywhere, since it is thought of after a command has failed.
    debug = "--debug" in given
    given = [item for item in given if item != "--debug"]
    if not debug:
        _quiet_libraries()
    try:
        with interruption.handle_interrupts():
            # A caller in Python shall get no second process back: only the program forks.
            paring.main(given, prog_name="paring", standalone_mode=False, obj=arguments is None)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo(_interrupted(error), err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        sys.exit(_show(error))
    sys.exit(0)


def _interrupted(error: BaseException) -> str:
    """Return what an interrupt means for the command that raised it, and click wrapped."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt) and cause.args:
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    return "interrupted; what was there before is untouched"


def _show(error: Exception) -> int:
    from paring_pipelines.cli.console import make_console, show_error

    if not isinstance(error, ParingError):
        error = StepFailedError(
            "an unexpected error occurred",
            received=f"{type(error).__name__}: {error}",
            remedy="run again with --debug and report the traceback",
        )
    if logs.is_json():
        # Whatever reads standard error then reads nothing but JSON.
        result = {"received": error.received, "remedy": error.remedy}
        logs.failure("command failed", error=error.what, exit_code=error.exit_code, **result)
    else:
        show_error(make_console(stderr=True), error)
    return error.exit_code


def _quiet_libraries() -> None:
    """Keep the libraries' warnings from the user; see --debug."""
    warnings.simplefilter("ignore")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")


if __name__ == "__main__":
    main()
