"""Settings of a run: each is declared once, and all else is derived from that."""

import inspect
import re
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import click
import pytest
from annotated_types import Ge, Gt, Lt
from click.testing import CliRunner
from tests.pipelines.conftest import Paring

import paring as public
from paring.errors import ParameterError
from paring_pipelines.cli.main import paring as command_line
from paring_pipelines.cli.options import flag, setting_options
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import DEFAULT_FILE, load_recipes
from paring_pipelines.pipeline.settings import (
    LocalSettings,
    Setting,
    Settings,
    UserSettings,
    _Declared,
    setting,
)

SHARED = UserSettings.declared()
LOCAL = LocalSettings.declared()
ALL = SHARED | LOCAL
BUILDING = ("run", "plan", "compile", "submit", "schedule", "watch")
CASES = [
    *((command, name) for command in BUILDING for name in SHARED),
    *(("advise", name) for name, item in SHARED.items() if not item.after_selection),
    *(("run", name) for name in LOCAL),
]
BOUNDED = [
    (name, bound.ge - 1 if isinstance(bound, Ge) else bound.gt)
    for name, item in ALL.items()
    for bound in item.bounds
    if isinstance(bound, Ge | Gt)
]


def _option(command: str, name: str) -> click.Option:
    (result,) = (item for item in command_line.commands[command].params if item.name == name)
    assert isinstance(result, click.Option)
    return result


@pytest.mark.parametrize(("command", "name"), CASES)
def test_a_setting_is_an_option_with_its_default_range_and_text(command: str, name: str) -> None:
    option, declared = _option(command, name), ALL[name]
    assert option.opts == [flag(name)]
    assert option.help == declared.help
    assert option.default == declared.default
    assert option.is_flag == (declared.type is bool)
    if declared.choices:
        assert isinstance(option.type, click.Choice)
        assert tuple(option.type.choices) == declared.choices
    shown = option.get_help_record(click.Context(command_line)) or ("", "")
    # Of two bounds of a kind, the last one holds.
    for bound in {type(item): item for item in declared.bounds}.values():
        (limit,) = astuple(bound)
        assert re.search(rf"\b{limit}\b", shown[1].rpartition("[")[2])


@pytest.mark.parametrize("name", ALL)
def test_a_setting_is_a_parameter_of_optimize_with_its_default_type_and_text(name: str) -> None:
    parameter = inspect.signature(public.optimize).parameters[name]
    assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
    assert parameter.default == ALL[name].default
    text = " ".join((public.optimize.__doc__ or "").split())
    assert f" {name}: {ALL[name].help}" in text


def test_optimize_takes_nothing_else_but_what_only_python_can_hand_over() -> None:
    parameters = set(inspect.signature(public.optimize).parameters)
    assert parameters - set(ALL) == {"model", "examples", "recipes", "out"}


@pytest.mark.parametrize("kind", [Settings, LocalSettings])
def test_a_field_has_the_type_that_its_source_lends(kind: type[_Declared]) -> None:
    hints = get_type_hints(kind)
    for name, item in kind.declared().items():
        optional = item.default is None
        assert (get_args(hints[name])[0] if optional else hints[name]) == item.type, name
        assert item.parse(name, item.default) == item.default


OTHER_VALUES = {
    "str": "other:value",
    "int": 7,
    "float": 0.5,
    "bool": True,
}


@pytest.mark.parametrize(
    "name", [name for name, item in SHARED.items() if item.step and name not in ("metric",)]
)
def test_a_setting_reaches_every_node_of_its_step(name: str) -> None:
    item = SHARED[name]
    value: Any = item.choices[-1] if item.choices else OTHER_VALUES[item.type.__name__]
    if name in ("push_to", "shared_dir"):
        value = "s3://bucket/folder"
    # A push needs a destination.
    given = {"push_to": "served", name: value}
    dag = build(load_recipes(DEFAULT_FILE, "cpu-server"), Settings(**given))
    nodes = [node for node in dag.nodes.values() if node.step is item.step]
    assert nodes
    assert {node.parameters[item.parameter] for node in nodes} == {value}
    assert value != item.default


@pytest.mark.parametrize(("name", "value"), BOUNDED)
def test_a_value_out_of_range_is_refused_under_the_name_that_was_given(
    name: str, value: int, paring: Paring, tmp_path: Path
) -> None:
    command = ["run", "--model", "m", "--examples", "e"] if name in LOCAL else ["plan"]
    code, _, error = paring(*command, flag(name), value)
    assert code == 2
    assert f"error: {flag(name)}: " in error
    assert f"received:  {value}\n" in error
    with pytest.raises(ParameterError, match=rf"^{name}: "):
        public.optimize("missing", "missing.npz", out=tmp_path, **{name: value})


def test_a_setting_of_the_calibration_is_checked_where_nothing_calibrates(tmp_path: Path) -> None:
    recipes = tmp_path / "recipes.toml"
    recipes.write_text('[recipes.float32]\nsteps = [{ step = "convert_tflite" }]\n')
    with pytest.raises(ParameterError, match="calibration_size"):
        build(load_recipes(recipes), Settings(calibration_size=0))


def test_an_unknown_argument_of_optimize_is_named() -> None:
    given: dict[str, Any] = {"objectiv": "size"}
    with pytest.raises(TypeError, match="objectiv"):
        public.optimize("model", "examples.npz", **given)


@dataclass(frozen=True, kw_only=True)
class _More(_Declared):
    """One more setting, as whoever adds one would write it."""

    patience: int = setting(
        Annotated[int, Ge(1), Lt(10)], default=3, help="Rounds without a gain before the end."
    )


def test_one_declaration_is_enough_for_an_option() -> None:
    seen: list[int] = []

    @click.command()
    @setting_options(_More.declared())
    def command(patience: int) -> None:
        seen.append(patience)

    runner = CliRunner()
    assert "Rounds without a gain before the end.  [default: 3; 1<=x<10]" in " ".join(
        runner.invoke(command, ["--help"]).output.split()
    ).replace("end. [", "end.  [")
    for arguments in ([], ["--patience", "9"]):
        assert runner.invoke(command, arguments).exit_code == 0
    assert seen == [3, 9]
    assert isinstance(runner.invoke(command, ["--patience", "10"]).exception, ParameterError)


def test_what_no_user_gives_is_no_option() -> None:
    internal = set(Settings.declared()) - set(SHARED)
    assert internal == {"metric_digest", "search", "title", "command"}
    for command in BUILDING:
        assert not internal & {item.name for item in command_line.commands[command].params}


def test_the_gate_has_the_settings_of_its_names() -> None:
    settings = Settings(max_accuracy_drop=0.1, max_size_mb=2.0, objective="memory")
    assert asdict(settings.gate) == {
        "max_accuracy_drop": 0.1,
        "max_latency_ms": 0.0,
        "max_size_mb": 2.0,
        "max_memory_mb": 0.0,
        "objective": "memory",
    }


def test_every_setting_says_what_it_is_for() -> None:
    assert not [
        name for name, item in ALL.items() if not isinstance(item, Setting) or not item.help
    ]


@pytest.mark.parametrize("runner", ["local", "beam"])
def test_limits_that_can_not_be_read_are_refused_with_each_runner(runner: str) -> None:
    with pytest.raises(ParameterError, match="--step-time-limit"):
        LocalSettings(runner=runner, step_time_limit="soon").check()


@pytest.mark.parametrize(
    "others", [{"runner": "beam"}, {"step_time_limit": "0", "step_memory_limit": "0"}]
)
def test_several_jobs_are_refused_where_steps_run_one_after_another(
    others: dict[str, str],
) -> None:
    LocalSettings(jobs=1, **others).check()
    with pytest.raises(ParameterError, match="jobs: runner beam, and steps without limits"):
        LocalSettings(jobs=2, **others).check()
