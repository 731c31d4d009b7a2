"""Events as lines of JSON, with what they are about."""

import io
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paring.adapters.kfp import run_executor_input
from paring.artifacts import Model
from paring.errors import ModelError
from paring.step import Input, Output, step
from paring.system import logs

RUN = "4b5f7d1e-0000-4000-8000-000000000001"


@step
def copy_model(model: Input[Model], copied: Output[Model], *, fail: bool = False) -> None:
    """Makes an empty model."""
    if fail:
        raise ModelError("no model", received=model.path)
    (copied.path / "weights").write_text("w")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Gets the lines."""
    written = io.StringIO()
    logs.write_json(written)
    yield written
    logs.stop()


def _lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_what_an_event_is_about_goes_into_each_line(stream: io.StringIO) -> None:
    with logs.about(run="r", node=""):
        with logs.about(candidate="int8"):
            logs.event("tried", seconds=1.5, path=Path("a"))
        logs.failure("gave up", received='"\n')
    logs.event("ended")
    first, second, third = _lines(stream)
    assert first.pop("time").endswith("+00:00")
    assert first == {
        **{"level": "info", "event": "tried", "run": "r"},
        **{"candidate": "int8", "seconds": 1.5, "path": "a"},
    }
    assert (second["level"], second["run"], second["received"]) == ("error", "r", '"\n')
    assert set(third) == {"time", "level", "event"}


def test_numbers_that_json_does_not_have_are_told_as_text(stream: io.StringIO) -> None:
    logs.event("measured", ratio=math.inf, facts={"low": math.nan})
    (line,) = _lines(stream)
    assert (line["ratio"], line["facts"]) == ("inf", {"low": "nan"})


def test_nothing_is_written_unless_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    logs.event("quiet")
    logs.failure("quiet too")
    assert capsys.readouterr() == ("", "")


def test_handlers_of_the_application_stay_when_events_end() -> None:
    logger = logging.getLogger("paring")
    received = io.StringIO()
    handler = logging.StreamHandler(received)
    before = (logger.level, logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        # The application's handler is for messages: it does not ask for events.
        assert not logs.is_json()
        logs.failure("an event")
        assert received.getvalue() == ""
        logs.write_json(io.StringIO())
        logs.write_json(io.StringIO())
        logs.stop()
        assert logger.handlers == [handler]
        assert (logger.level, logger.propagate) == (logging.ERROR, False)
        logger.error("a message")
        assert received.getvalue() == "a message\n"
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _executor_input(folder: Path, place: str, fail: bool) -> str:
    source = folder / "source"
    source.mkdir()
    (source / "saved_model.pb").touch()
    target = folder / place / "copied"
    target.parent.mkdir(parents=True)
    return json.dumps(
        {
            "inputs": {
                "parameterValues": {"fail": fail},
                "artifacts": {"model": {"artifacts": [{"uri": str(source)}]}},
            },
            "outputs": {
                "artifacts": {"copied": {"artifacts": [{"uri": str(target)}]}},
                "outputFile": str(folder / "outputs.json"),
            },
        }
    )


@pytest.mark.parametrize("salt", ["", "/0a1b2c3d-0000-4000-8000-000000000002"])
def test_a_container_tells_its_run_its_node_and_its_candidate(
    salt: str, stream: io.StringIO, tmp_path: Path
) -> None:
    place = f"paring-optimize/{RUN}/copy-model-int8{salt}"
    run_executor_input(copy_model, _executor_input(tmp_path, place, fail=False))
    started, ended = _lines(stream)
    for line in (started, ended):
        assert line["run"] == RUN
        assert (line["node"], line["candidate"]) == ("copy-model-int8", "int8")
    assert (started["event"], ended["event"]) == ("step started", "step ended")
    assert (ended["output"], ended["outcome"]) == ("copied", "made")
    assert ended["digest"].startswith("sha256:")
    assert ended["seconds"] >= 0


def test_a_failure_is_told_where_it_is_raised_and_where_it_is_recorded(
    stream: io.StringIO, tmp_path: Path
) -> None:
    given = _executor_input(tmp_path, f"p/{RUN}/copy-model-int8", fail=True)
    with pytest.raises(ModelError):
        run_executor_input(copy_model, given)
    run_executor_input(copy_model, given, tolerate=True)
    _, raised, _, recorded = _lines(stream)
    assert (raised["event"], raised["level"]) == ("step failed", "error")
    assert "no model" in raised["error"]
    assert (recorded["event"], recorded["outcome"]) == ("step ended", "failed")
    assert "no model" in recorded["reason"]
