"""The options of the `paring` command that several of its commands share."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import click
from annotated_types import Ge, Gt, Le, Lt

from paring.errors import ParameterError
from paring.storage import local_path
from paring_pipelines.pipeline.settings import LocalSettings, Setting, Settings, UserSettings

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


class _IntegerSetting(click.IntRange):
    """Integer setting; `--help` states its range."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(**_range(setting))
        self._setting = setting

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return `value` as the setting's type; see `Setting.parse`."""
        return self._setting.parse(param.opts[0] if param else self.name, value)


class _FloatSetting(FiniteFloat):
    """Float setting; `--help` states its range."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(**_range(setting))
        self._setting = setting

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return `value` as the setting's type; see `Setting.parse`."""
        return self._setting.parse(param.opts[0] if param else self.name, value)


def _range(setting: Setting) -> dict[str, Any]:
    """Return the bounds as the arguments of click's ranges."""
    result: dict[str, Any] = {}
    for bound in setting.bounds:
        match bound:
            case Ge(low):
                result |= {"min": low, "min_open": False}
            case Gt(low):
                result |= {"min": low, "min_open": True}
            case Le(high):
                result |= {"max": high, "max_open": False}
            case Lt(high):
                result |= {"max": high, "max_open": True}
    return result


def _type(setting: Setting) -> Any:
    """Return click's type of a setting; None for text and for flags."""
    if setting.choices:
        return click.Choice(setting.choices)
    kinds = {int: _IntegerSetting, float: _FloatSetting}
    return kinds[setting.type](setting) if setting.type in kinds else None


def flag(name: str) -> str:
    """Return the option of a setting."""
    return f"--{name.replace('_', '-')}"


def setting_options(settings: Mapping[str, Setting]) -> Callable[[Any], Any]:
    """Return the options for `settings` as one decorator, in their order."""

    def decorate(function: Any) -> Any:
        for name, item in reversed(list(settings.items())):
            function = click.option(
                flag(name),
                type=_type(item),
                is_flag=item.type is bool,
                default=item.default,
                # What stands for "none" or "off" is in the help text.
                show_default=item.default not in (None, False, 0, ""),
                metavar=item.metavar,
                help=item.help,
            )(function)
        return function

    return decorate


def after_selection(function: Any) -> Any:
    """Add the options on the selected model, for commands that build the whole pipeline."""
    offered = UserSettings.declared().items()
    return setting_options({name: item for name, item in offered if item.after_selection})(function)


def pipeline_options(function: Any) -> Any:
    """Add the options that shape the pipeline, for every command that builds it."""
    offered = UserSettings.declared().items()
    shaping = {name: item for name, item in offered if not item.after_selection}
    return recipes_option(setting_options(shaping)(function))


def step_limits(function: Any) -> Any:
    """Add the limits of each step, for commands that run steps on this machine."""
    offered = LocalSettings.declared()
    names = ("step_time_limit", "step_memory_limit")
    return setting_options({name: offered[name] for name in names})(function)


def read_settings(given: Mapping[str, Any], *, command: str = "") -> Settings:
    """Return the settings that the values of the options describe.

    Args:
        given: The values by name; the defaults stand in for absent ones.
        command: Command that the report and a pushed version name.

    Raises:
        ParameterError: They are not valid, or not valid together.
    """
    settings = Settings.pick(given, command=command)
    settings.check(flag)
    return settings
