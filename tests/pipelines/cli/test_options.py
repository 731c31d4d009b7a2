"""Values that no option of the command line takes, refused before anything else."""

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.pipelines.conftest import Paring

from paring_pipelines.cli.main import paring as command_line
from paring_pipelines.cli.options import Command, FiniteFloat


def _commands(group: click.Group, *before: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, *before, name)
        else:
            yield (*before, name), command


COMMANDS = dict(_commands(command_line))
OPTIONS = [
    (names, option)
    for names, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option)
]
FLOATS = [
    (names, option.opts[0])
    for names, option in OPTIONS
    if isinstance(option.type, FiniteFloat | click.types.FloatParamType)
]


def test_every_command_refuses_empty_text() -> None:
    assert len(COMMANDS) > 15
    assert [names for names, item in COMMANDS.items() if not isinstance(item, Command)] == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(("names", "option"), FLOATS)
def test_numbers_that_are_not_finite_are_refused(
    names: tuple[str, ...], option: str, value: str, paring: Paring
) -> None:
    code, _, error = paring(*names, option, value)
    assert code == 2
    assert option in error


@pytest.mark.parametrize("command", ["compile", "components", "run", "fetch"])
def test_nothing_is_written_to_standard_output_for_a_dash(command: str, paring: Paring) -> None:
    arguments = ("--model", "m", "--examples", "e") if command == "run" else ()
    code, _, error = paring(command, *arguments, *(["run"] * (command == "fetch")), "--out", "-")
    assert code == 2
    assert "--out: nothing is written to standard output" in error


def test_errors_show_text_as_it_was_received(paring: Paring) -> None:
    code, _, error = paring("lineage", ":fire:[red]x")
    assert code == 2
    assert ":fire:[red]x" in error


def test_waits_are_not_longer_than_the_system_takes(paring: Paring) -> None:
    code, _, error = paring("status", "--timeout", "1e9")
    assert code == 2
    assert "--timeout" in error


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("compile", "--out", "p.yaml", "--resources", ""), "--resources"),
        (("compile", "--out", "p.yaml", "--image", ""), "--image"),
        (("compile", "--out", "p.yaml", "--image="), "--image"),
        (("compile", "--out", ""), "--out"),
        (("compile", "--out", "p.yaml", "--push-to", ""), "--push-to"),
        (("compile", "--out", "p.yaml", "--runtime", ""), "--runtime"),
        (
            ("schedule", "--model", "m", "--examples", "e", "--cron", "@daily", "--name", ""),
            "--name",
        ),
        (("submit", "--model", "", "--examples", "e", "--pipeline-root", ""), "--model"),
        (("status", ""), "RUN"),
        (("logs", "run", ""), "NODE"),
        (("schedules", "pause", ""), "SCHEDULE"),
        (("schedules", "--host", ""), "--host"),
        (("lineage", ""), "MODEL"),
        (("step", "convert_tflite", "--model", "", "--converted", "c"), "--model"),
    ],
)
def test_empty_text_is_refused(
    arguments: tuple[str, ...],
    named: str,
    paring: Paring,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = paring(*arguments)
    assert code == 2
    assert f"{named}: must not be empty" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--image", "a b"), "--image: must be an image"),
        (("--resources", "A b"), "--resources: must be the name of a namespace"),
        (("--push-to", "relative/dir"), "--push-to: must be in a store, or an absolute path"),
        (("--push-to", "/mnt/models"), "--push-to: no volume is mounted there"),
        (("--push-to", "s3://"), "--push-to: a bucket is missing"),
        (("--push-to", "http://a/b"), "--push-to: no store of this kind"),
        (("--shared-dir", "gs:///a"), "--shared-dir: a bucket is missing"),
        (("--top-k", str(10**20)), "--top-k: must be an integer of at most 2**53"),
    ],
)
def test_what_a_cluster_can_not_use_is_refused_by_compile(
    options: tuple[str, str], words: str, paring: Paring, tmp_path: Path
) -> None:
    code, _, error = paring("compile", "--out", tmp_path / "p.yaml", *options)
    assert (code, list(tmp_path.iterdir())) == (2, [])
    assert words in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pipeline-root", "/tmp/x"), "--pipeline-root: Kubeflow keeps artifacts in buckets"),
        (("--pipeline-root", "http://x/y"), "--pipeline-root: Kubeflow keeps artifacts in"),
        (("--pipeline-root", "s3://"), "--pipeline-root: Kubeflow keeps artifacts in buckets"),
        (("--service-account", "A b"), "--service-account: must be the name"),
        (("--namespace", "A b"), "--namespace: must be the name of a namespace"),
        (("--host", "http://"), "--host: this is no URL (it names no server)"),
        (("--host", "http://127.0.0.1:99999"), "--host: this is no URL (Port out of range"),
        (("--host", "http://[::1"), "--host: this is no URL (Invalid IPv6 URL)"),
    ],
)
def test_what_kubeflow_can_not_use_is_refused_by_submit(
    options: tuple[str, str], words: str, paring: Paring
) -> None:
    submit = ("submit", "--model", "gs://b/m", "--examples", "gs://b/e")
    code, _, error = paring(*submit, "--host", "http://127.0.0.1:1", *options)
    assert code == 2
    assert words in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--marker", "a/b"), "--marker: must be the name of a file, without folders"),
        (("--marker", ".."), "--marker: must be the name of a file"),
        (("--once",), "--source: path does not exist"),
    ],
)
def test_what_watch_would_never_find_is_refused(
    options: tuple[str, ...], words: str, paring: Paring, tmp_path: Path
) -> None:
    watch = ("watch", "--source", tmp_path / "absent", "--state", tmp_path, "--examples", "e")
    code, _, error = paring(*watch, "--host", "http://127.0.0.1:1", *options)
    assert code == 2
    assert words in error
