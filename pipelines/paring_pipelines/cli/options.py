"""The options of the `paring` command that several of its commands share."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import click

from paring.adapters.cli import limit_options
from paring.errors import ParameterError
from paring.selection.pareto import Gate
from paring.storage import check_bucket, local_path
from paring_pipelines.pipeline.optimize import Settings
from paring_pipelines.pipeline.recipes import TARGETS

_WRITTEN = ("--out", "--work", "--metrics-file")
"""Options that name what is written."""


_MAY_BE_EMPTY = ("--pipeline-root",)
"""Options that stand in the manifests of k8s/, where a variable may be empty, but not an option
left out: empty text is Kubeflow's own default."""


class Command(click.Command):
    """A command that refuses empty text for an option or an argument.

    An unset variable of a shell gives it, and it would count as an option that is left out.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments, and refuse those that are empty.

        Raises:
            ParameterError: One is empty.
        """
        given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.params:
            value = given.get(parameter.name or "")
            if value == "-" and parameter.opts[0] in _WRITTEN:
                raise ParameterError(
                    f"{parameter.opts[0]}: nothing is written to standard output",
                    received=value,
                    remedy="give a path; ./- is a file of that name",
                )
            if parameter.opts[0] in _MAY_BE_EMPTY:
                continue
            if value == "" or (isinstance(value, list | tuple) and "" in value):
                is_option = isinstance(parameter, click.Option)
                name = parameter.opts[0] if is_option else parameter.make_metavar(ctx)
                raise ParameterError(
                    f"{name.strip('[]')}: must not be empty",
                    received='""',
                    remedy="give a value" + (", or leave the option out" if is_option else ""),
                )
        return super().parse_args(ctx, args)


class FiniteFloat(click.FloatRange):
    """A number that is neither nan nor infinite, which no range of click's refuses."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return `value` as a number.

        Raises:
            ParameterError: It is not finite.
        """
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            raise ParameterError(
                f"{param.opts[0] if param else self.name}: must be a finite number",
                received=value,
                remedy="write it in digits, such as 30 or 0.5",
            )
        return number


_LIMITS = {
    "--max-latency-ms": "Median latency",
    "--max-size-mb": "Size in 10**6 bytes",
    "--max-memory-mb": "Peak memory",
}
"""Options that limit what is selected, and what each is of."""

LONGEST_WAIT = 2_147_483
"""Seconds, about 24 days: the operating system waits for a connection no longer."""

SECONDS = FiniteFloat(min=0, min_open=True, max=LONGEST_WAIT)
"""The type of options that say how long to wait."""

recipes_option = click.option(
    "--recipes",
    type=local_path,
    metavar="FILE",
    help="TOML file of recipes; run also takes auto, for those that are advised.",
)
model_option = click.option(
    "--model",
    required=True,
    metavar="DIR_OR_FILE",
    help="SavedModel folder, TFX Model folder, .keras or .h5 file; a path, gs:// or s3://.",
)
examples_option = click.option(
    "--examples",
    required=True,
    metavar="FILE_OR_DIR",
    help=".npz file, TFRecords of tf.Example, or TFX Examples folder; a path, gs:// or s3://.",
)
target_option = click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="cpu-server",
    show_default=True,
    help="Where the model will run; says which recipes are tried.",
)
metric_options = (
    click.option(
        "--metric",
        default="auto",
        show_default=True,
        metavar="NAME",
        help="Metric of the accuracy gate: top_1, top_k, auc, mae, rmse, token_accuracy, or"
        " MODULE:FUNCTION of your own; auto chooses by the labels.",
    ),
    click.option(
        "--top-k", type=int, default=5, show_default=True, help="Classes of the metric top_k."
    ),
)
after_selection_options = (
    click.option(
        "--tune-batch",
        is_flag=True,
        help="Find the batch size, threads and processes with which the selected model serves"
        " the most, within the budgets of latency and memory.",
    ),
    click.option(
        "--push-to",
        default="",
        metavar="DIR",
        help="Push the selected model there as a new version, if it passes: a path, gs:// or"
        " s3://.",
    ),
    click.option(
        "--push-source", is_flag=True, help="Push the source too, where nothing beats it."
    ),
)


def after_selection(function: Any) -> Any:
    """Add the options on the selected model, for commands that build the whole pipeline."""
    for option in reversed(after_selection_options):
        function = option(function)
    return function


def step_limits(function: Any) -> Any:
    """The limits on each step, for the commands that run steps on this machine."""
    # New ones for each command, in the order of --help.
    function.__click_params__ = [*reversed(limit_options()), *function.__click_params__]
    return function


def runner_option(default: str) -> Callable[[Any], Any]:
    """Return the option for the runner of a pipeline on this machine."""
    return click.option(
        "--runner",
        type=click.Choice(["local", "beam"]),
        default=default,
        show_default=True,
        help="TFX's local runner, or its Beam runner in this process.",
    )


def pipeline_options(function: Any) -> Any:
    """Return the options that shape the pipeline, for every command that builds it."""
    options = [
        target_option,
        recipes_option,
        click.option(
            "--max-accuracy-drop",
            type=FiniteFloat(),
            default=0.01,
            show_default=True,
            help="Largest loss let pass: 0.01 for one point of accuracy; of an error, for 1%.",
        ),
        *metric_options,
        click.option(
            "--output",
            default="",
            metavar="NAME",
            help="The output that the gate is on alone; each if not given.",
        ),
        click.option(
            "--beam-options",
            default="",
            metavar="TEXT",
            help="Where models are judged: Apache Beam's options; one worker in this process if"
            " not given.",
        ),
        click.option(
            "--shared-dir",
            default="",
            metavar="URI",
            help="With workers elsewhere: a folder that all of them reach; gs://, s3:// or a path.",
        ),
        *(
            click.option(
                name,
                type=FiniteFloat(),
                default=0.0,
                help=f"{what} of what is selected; 0 for no limit.",
            )
            for name, what in _LIMITS.items()
        ),
        click.option(
            "--objective",
            type=click.Choice(["latency", "size", "memory"]),
            default="latency",
            show_default=True,
            help="What the best candidate is best at.",
        ),
        click.option(
            "--batch-size",
            type=int,
            default=1,
            show_default=True,
            help="Examples in one measured call.",
        ),
        click.option(
            "--threads", type=int, default=0, help="Threads of one call; 0 for one a core."
        ),
        click.option(
            "--brief",
            is_flag=True,
            help="Measure latency in less time, with wider intervals.",
        ),
        click.option(
            "--calibration-size",
            type=int,
            default=200,
            show_default=True,
            help="Examples that quantization after training takes its ranges from.",
        ),
        click.option(
            "--label",
            default="label",
            show_default=True,
            help="The label's feature name; with several outputs OUTPUT=NAME.",
        ),
        click.option(
            "--weights",
            default="",
            metavar="COLUMN",
            help="The examples' feature with sample weights, for training and the metrics; all"
            " count the same if not given.",
        ),
        click.option(
            "--trust-model", is_flag=True, help="Let code inside the model (Lambda layers) run."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def settings_of(command: str, given: Mapping[str, Any], target: str) -> Settings:
    """Return the settings that the values of `pipeline_options` describe.

    Args:
        command: What the report says reproduces the run.
        given: The values by name; those of `after_selection` may be absent.
        target: Where the model will run.

    Raises:
        ParameterError: They don't go together.
    """
    if given.get("push_source") and not given["push_to"]:
        raise ParameterError(
            "--push-source: there is nowhere to push to", remedy="give --push-to DIR as well"
        )
    for option in ("push_to", "shared_dir"):
        check_bucket(f"--{option.replace('_', '-')}", given.get(option, ""))
    gate = Gate(
        given["max_accuracy_drop"],
        given["max_latency_ms"],
        given["max_size_mb"],
        given["max_memory_mb"],
        given["objective"],
    )
    return Settings(
        gate=gate,
        trust_model=given["trust_model"],
        label=given["label"],
        weights=given["weights"],
        metric=given["metric"],
        top_k=given["top_k"],
        output=given["output"],
        beam_options=given["beam_options"],
        shared_dir=given["shared_dir"],
        batch_size=given["batch_size"],
        threads=given["threads"],
        brief=given["brief"],
        calibration_size=given["calibration_size"],
        command=command,
        check_tpu=target == "tpu",
        tune_batch=given.get("tune_batch", False),
        push_to=given.get("push_to", ""),
        push_source=given.get("push_source", False),
    )
