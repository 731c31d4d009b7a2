"""Timing caches: whose they are, and how large."""

import os
from pathlib import Path

import pytest

from paring.artifacts import TRTEngine
from paring.errors import ModelError, ParameterError, UntrustedModelError
from paring.step import TRUST_ENGINE, TRUST_MODEL
from paring.steps.build_tensorrt import build_tensorrt
from paring.tensorrt.timing_cache import MAX_BYTES, read_timing_cache


@pytest.fixture
def engine(tmp_path: Path) -> TRTEngine:
    result = TRTEngine(tmp_path, engine_trusted=True)
    result.timing_cache.write_bytes(b"timings")
    return result


def test_a_trusted_timing_cache_is_read(engine: TRTEngine) -> None:
    assert read_timing_cache(engine) == b"timings"


def test_a_foreign_timing_cache_is_refused(engine: TRTEngine) -> None:
    engine.engine_trusted = False
    with pytest.raises(UntrustedModelError, match=r"timing\.cache is read by .*\n.*--trust-engine"):
        read_timing_cache(engine)
    assert {TRUST_ENGINE, TRUST_MODEL} <= build_tensorrt.parameters.keys()


def test_an_engine_without_a_timing_cache_is_named(engine: TRTEngine) -> None:
    engine.timing_cache.unlink()
    with pytest.raises(ParameterError, match="this engine has no timing cache"):
        read_timing_cache(engine)


def test_an_empty_timing_cache_is_no_build_from_nothing(engine: TRTEngine) -> None:
    engine.timing_cache.write_bytes(b"")
    with pytest.raises(ModelError, match=r"no timing cache\n  received: 0 bytes"):
        read_timing_cache(engine)


def test_a_timing_cache_of_another_size_than_any_is_not_read(engine: TRTEngine) -> None:
    with engine.timing_cache.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ModelError, match="268,435,457 bytes"):
        read_timing_cache(engine)


def test_a_pipe_in_its_place_is_not_waited_for(engine: TRTEngine) -> None:
    engine.timing_cache.unlink()
    os.mkfifo(engine.timing_cache)
    with pytest.raises(ModelError, match="no regular file"):
        read_timing_cache(engine)
