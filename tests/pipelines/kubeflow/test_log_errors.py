"""Paring's own error, found among the lines of what wraps its command."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from paring.errors import ExamplesError
from paring.system import logs
from paring_pipelines.cli.console import show_error
from paring_pipelines.kubeflow.log_errors import LoggedError, find_error, find_start

LAUNCHER_BEFORE = "I1128 12:00:00.000000       1 launcher_v2.go:190] publish logs: true\n"
LAUNCHER_AFTER = (
    "E1128 12:00:02.000000       1 launcher_v2.go:449] Component failed: exit status 12\n"
    "F1128 12:00:02.000000       1 main.go:58] failed to execute component: exit status 12\n"
    'time="2026-11-28T12:00:02.000Z" level=info msg="sub-process exited" argo=true\n'
    '{"time":"2026-11-28T12:00:02.1Z","level":"INFO","msg":"sub-process exited","argo":true}\n'
    "Error: exit status 12\n"
)
ERROR = ExamplesError(
    "features of the examples are not what the model takes: " + "image, " * 40 + "label",
    received="float32 [32, 32, 3]",
    remedy="give examples of the model's signature",
)


def _as_text(width: int) -> str:
    shown = io.StringIO()
    show_error(Console(file=shown, width=width), ERROR)
    return shown.getvalue()


def _as_json() -> str:
    shown = io.StringIO()
    logs.write_json(shown)
    try:
        logs.event("step started", step="import_examples")
        logs.failure(
            "command failed",
            error=ERROR.what,
            exit_code=ERROR.exit_code,
            received=ERROR.received,
            remedy=ERROR.remedy,
        )
    finally:
        logs.stop()
    return shown.getvalue()


@pytest.mark.parametrize("written", [_as_text(200), _as_text(60), _as_json()])
@pytest.mark.parametrize("wrapped", [True, False])
def test_an_error_is_found_whatever_its_form(written: str, wrapped: bool) -> None:
    log = f"2026-11-28 12:00:01 W tensorflow: no GPU\n{written}"
    if wrapped:
        log = LAUNCHER_BEFORE + log + LAUNCHER_AFTER
    result = find_error(log)
    assert result == LoggedError(ERROR.what, ERROR.received, ERROR.remedy)
    assert str(result) == str(ERROR)


def test_without_an_error_of_ours_the_last_line_stands() -> None:
    log = "Traceback (most recent call last):\n  ...\nMemoryError\n\n"
    assert find_error(log + LAUNCHER_AFTER) == LoggedError("MemoryError", ours=False)


def test_of_a_driver_the_fatal_line_stands() -> None:
    log = (
        "I1128 12:00:00.000000       1 main.go:100] input ComponentSpec\n"
        'F1128 12:00:01.000000       1 main.go:79] KFP driver: no execution found for name=""\n'
    )
    result = find_error(log)
    assert result == LoggedError('KFP driver: no execution found for name=""', ours=False)


@pytest.mark.parametrize("log", ["", "\n\n", LAUNCHER_BEFORE])
def test_an_empty_log_has_no_error(log: str) -> None:
    assert find_error(log) is None


def test_a_step_started_when_its_json_says_so() -> None:
    line = '{"time": "2026-11-28T12:00:05.500+00:00", "level": "info", "event": "step started"}'
    result = find_start(f"{LAUNCHER_BEFORE}loading\n{line}\n")
    assert result == datetime(2026, 11, 28, 12, 0, 5, 500000, UTC)
    assert find_start(LAUNCHER_BEFORE) is None
    assert find_start('{"time": "noon", "event": "step started"}') is None
    assert find_start('{"time": cut off') is None
