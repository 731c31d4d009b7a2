"""A Step as a command: `paring step NAME ...`, which every container runs too."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from paring.artifacts import Artifact
from paring.catalog import STEPS, find
from paring.errors import ParameterError
from paring.execution import Call, execute, failing
from paring.step import SIGNATURE, TRUST_ENGINE, TRUST_MODEL, ParameterSpec, Step
from paring.storage import local_path
from paring.system.step_limits import (
    MEMORY_HELP,
    MEMORY_OPTION,
    TIME_HELP,
    TIME_OPTION,
    TIME_VARIABLE,
    LimitSettings,
)
from paring.system.supervision import run_limited

ShowOutputs = Callable[[Mapping[str, Artifact]], None]


class StepGroup(click.Group):
    """Group of the commands of all steps, each built when it is requested."""

    def __init__(self, *args: Any, show: ShowOutputs, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._show = show

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all steps."""
        return list(STEPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Return the command of one step; unknown names raise ParameterError."""
        return command(find(cmd_name), self._show, limited=bool(ctx.find_root().obj))


def command(
    step: Step, show: ShowOutputs = lambda outputs: None, *, limited: bool = False
) -> click.Command:
    """Return `step` as a click command.

    Inputs and outputs become `--name PATH`, families `--name KEY=PATH`, given
    once a member, and parameters `--name VALUE`; underscores become dashes.
    `--executor-input` takes Kubeflow's JSON in place of all of them.

    Args:
        step: The step.
        show: Called with what the step made.
        limited: Run the step as `paring.system.supervision.run_limited` does, which ends the
            process.
    """
    options: list[click.Parameter] = []
    for name, spec in step.inputs.items():
        kind = spec.type.__name__
        text = f"{kind}." + (" May be left out." if spec.optional else "")
        if spec.family:
            text = f"{kind}; once for each member."
        options.append(
            click.Option(
                [_flag(name)],
                multiple=spec.family,
                metavar="KEY=PATH" if spec.family else "PATH",
                help=text,
            )
        )
    for name, kind_made in step.outputs.items():
        text = f"The folder to write the {kind_made.__name__} to."
        options.append(click.Option([_flag(name)], metavar="DIR", help=text))
    options += [_parameter_option(name, spec) for name, spec in step.parameters.items()]
    options += [
        click.Option(
            ["--executor-input"], metavar="JSON", help="Kubeflow's ExecutorInput.", hidden=True
        ),
        click.Option(
            ["--identity"],
            default="",
            metavar="TEXT",
            help="A name for this work, kept in the lineage.",
        ),
        click.Option(
            ["--tolerate"], is_flag=True, help="Record a failure in the outputs and succeed."
        ),
        click.Option([TIME_OPTION], metavar="TIME", help=TIME_HELP),
        click.Option([MEMORY_OPTION], metavar="SIZE", help=MEMORY_HELP),
    ]

    def run(
        executor_input: str | None,
        identity: str,
        tolerate: bool,
        step_time_limit: str | None,
        step_memory_limit: str | None,
        **given: Any,
    ) -> None:
        def execute_as(item: Step) -> None:
            if executor_input is not None:
                # Imported late: only containers take this way.
                from paring.adapters.kfp import run_executor_input

                run_executor_input(item, executor_input, identity=identity, tolerate=tolerate)
                return
            show(execute(item, _call(item, given, identity=identity, tolerate=tolerate)))

        limits = _limits(step_time_limit, step_memory_limit, executor_input is not None)
        if not limited:
            execute_as(step)
            return
        error = run_limited(lambda: execute_as(step), limits.of_step(trains=step.trains))
        if error is not None:
            # Recorded or raised like any failure of the step.
            execute_as(failing(step, error))

    return click.Command(
        step.name, params=options, callback=run, help=_help(step), short_help=step.summary
    )


def _limits(time: str | None, memory: str | None, on_kubeflow: bool) -> LimitSettings:
    """Return the limits of a step; in a Kubeflow task, the time is that of its package."""
    if not on_kubeflow or time is not None:
        return LimitSettings.parse(time, memory)
    return LimitSettings.parse(os.environ.get(TIME_VARIABLE) or None, memory, on_kubeflow=True)


_GENERAL_HELP = {
    SIGNATURE: "Signature of a model without a record; serving_default if not given.",
    TRUST_MODEL: "Let code and unknown operators in the model run.",
    TRUST_ENGINE: "Load a TensorRT engine, which is code; --trust-model does so too.",
}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parameter_option(name: str, spec: ParameterSpec) -> click.Option:
    # Values stay text here: the step's own parser gives the same errors
    # through every adapter.
    if spec.type is bool:
        flag = _flag(name)
        return click.Option(
            [f"{flag}/--no-{flag[2:]}"],
            default=spec.default,
            show_default=True,
            help=_GENERAL_HELP.get(name),
        )
    metavar = "|".join(spec.choices) or spec.type.__name__.upper()
    return click.Option(
        [_flag(name)],
        type=str,
        metavar=metavar,
        help=_GENERAL_HELP.get(name) or f"[default: {spec.default!r}]",
    )


def _help(step: Step) -> str:
    # click shows paragraphs that begin with \b as they are.
    paragraphs = (step.function.__doc__ or "").replace("\n    ", "\n").split("\n\n")
    return "\n\n".join(paragraphs[:1] + [f"\b\n{paragraph}" for paragraph in paragraphs[1:]])


def _call(step: Step, given: Mapping[str, Any], *, identity: str, tolerate: bool) -> Call:
    inputs: dict[str, Path | dict[str, Path]] = {}
    for name, spec in step.inputs.items():
        if spec.family:
            inputs[name] = dict(_member(name, text) for text in given[name])
        elif given[name] is not None:
            inputs[name] = _path(name, given[name])
    outputs = {name: _path(name, given[name]) for name in step.outputs if given[name] is not None}
    parameters = {name: given[name] for name in step.parameters if given[name] is not None}
    return Call(inputs, outputs, parameters, tolerate, identity)


def _path(name: str, text: str) -> Path:
    # To Python it is the working folder.
    if not text:
        raise ParameterError(
            f"{_flag(name)}: must not be empty", received='""', remedy=f"give {_flag(name)} PATH"
        )
    return local_path(text)


def _member(name: str, text: str) -> tuple[str, Path]:
    key, separator, path = text.partition("=")
    if not (key and separator and path):
        raise ParameterError(
            f"{_flag(name)} takes KEY=PATH", received=text, remedy=f"give {_flag(name)} source=DIR"
        )
    return key, local_path(path)
