"""Limits of a step as texts, their defaults, and what errors say of them."""

import os

import pytest

from paring.errors import ParameterError
from paring.system import step_limits
from paring.system.control_groups import MemoryGroup
from paring.system.step_limits import DEFAULT_LIMITS, LimitSettings, format_duration

_MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(autouse=True)
def _no_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_limits, "memory_groups", list)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("2 h", 7200), ("1d", 86400)],
)
def test_a_time_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert LimitSettings.parse(text).of_step(trains=False).seconds == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("800MB", 800 * 10**6),
        ("12GiB", 12 * 2**30),
        ("12Gi", 12 * 2**30),
        ("0.5 TB", 5 * 10**11),
        ("1000000000", 10**9),
        ("50%", _MACHINE // 2),
    ],
)
def test_a_size_is_a_number_and_a_unit_or_a_share(text: str, size: int) -> None:
    assert LimitSettings.parse(None, text).of_step(trains=False).memory_bytes == size


@pytest.mark.parametrize("text", ["", " ", "soon", "-1s", "1e3s", "nan", "1 week", "400d", "१s"])
def test_a_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="--step-time-limit"):
        step_limits.parse_duration(text)


@pytest.mark.parametrize("text", ["", "much", "-1GB", "1", "63MiB", "101%", "1 GBB", "1e9"])
def test_a_text_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="--step-memory-limit"):
        step_limits.parse_size(text)


def test_what_trains_has_more_time_by_default() -> None:
    limits = DEFAULT_LIMITS.of_step(trains=False)
    assert (limits.seconds, limits.memory_bytes) == (7200, int(_MACHINE * 7 / 8))
    assert DEFAULT_LIMITS.of_step(trains=True).seconds == 8 * 3600
    assert LimitSettings.parse("1h").of_step(trains=True).seconds == 3600


def test_no_limit_is_none() -> None:
    off = LimitSettings.parse("0", "0")
    assert off.are_off
    limits = off.of_step(trains=True)
    assert (limits.seconds, limits.memory_bytes) == (None, None)
    assert not DEFAULT_LIMITS.are_off
    assert not LimitSettings.parse("0").are_off


def test_in_a_control_group_its_own_limit_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    group = MemoryGroup(folder=None, version=2, limit_bytes=2**30)  # type: ignore[arg-type]
    monkeypatch.setattr(step_limits, "memory_groups", lambda: [group])
    assert DEFAULT_LIMITS.of_step(trains=False).memory_bytes is None
    half = LimitSettings.parse(None, "50%").of_step(trains=False)
    assert half.memory_bytes == 2**29


def test_on_kubeflow_there_are_no_defaults() -> None:
    limits = LimitSettings(on_kubeflow=True).of_step(trains=True)
    assert (limits.seconds, limits.memory_bytes) == (None, None)
    error = LimitSettings.parse("57m", on_kubeflow=True).of_step(trains=True).time_error()
    assert "57 min" in error.what
    assert "timeout_seconds in the runtime file" in error.remedy


def test_an_error_names_the_limit_its_value_its_origin_and_what_to_do() -> None:
    limits = DEFAULT_LIMITS.of_step(trains=True)
    assert str(limits.time_error()) == (
        "the step's time limit of 8 h was reached (the default for steps that train)\n"
        "  to fix it: raise --step-time-limit, for example to 16h, or give 0 for no limit"
    )
    error = LimitSettings.parse(None, "12GiB").of_step(trains=True).memory_error(13 * 2**30)
    assert error.what == (
        "out of memory: 13.00 GiB of 12.00 GiB used, the step's memory limit"
        " (given by --step-memory-limit)"
    )
    assert error.remedy.startswith("raise --step-memory-limit, or give 0")


@pytest.mark.parametrize(
    ("seconds", "text"), [(7200, "2 h"), (5400, "90 min"), (45, "45 s"), (0.5, "0.5 s")]
)
def test_a_duration_is_shown_in_its_largest_whole_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_remedy_is_a_time_that_is_taken() -> None:
    for text in ("1s", "90s", "30m", "2h"):
        limits = LimitSettings.parse(text).of_step(trains=False)
        wanted = limits.raise_seconds.partition("example to ")[2].partition(",")[0]
        assert step_limits.parse_duration(wanted) == 2 * (limits.seconds or 0)
