"""Timing cache of an earlier build, checked before TensorRT reads it.

NVIDIA documents neither its format nor a header of it, so that nothing in it can be checked
here but its size: TensorRT itself compares its version and its GPU. Whatever else it holds,
TensorRT's own parser takes, so that it is let in on the terms of an engine.
"""

import stat
from pathlib import Path

from paring.artifacts import TRTEngine
from paring.errors import ModelError, ParameterError, UntrustedModelError

MAX_BYTES = 256 << 20
"""Largest timing cache that is read; those of large networks have some megabytes."""


def read_timing_cache(engine: TRTEngine) -> bytes:
    """Return the timing cache of an earlier engine.

    Raises:
        ParameterError: The engine has none.
        UntrustedModelError: Neither the user nor the pipeline says that it is their own.
        ModelError: It is empty, no regular file, or larger than any timing cache.
    """
    file = engine.timing_cache
    if not file.exists():
        raise ParameterError(
            "earlier: this engine has no timing cache",
            received=engine.path,
            remedy="give an engine of product server, or leave earlier out",
        )
    if not engine.engine_trusted:
        raise UntrustedModelError(
            f"earlier: {file} is read by TensorRT as it is, without any check",
            remedy="give --trust-engine if you or your pipeline built that engine, or leave"
            " earlier out",
        )
    return _read_within_bounds(file)


def _read_within_bounds(file: Path) -> bytes:
    facts = file.stat()
    if not stat.S_ISREG(facts.st_mode) or not 0 < facts.st_size <= MAX_BYTES:
        kind = f"{facts.st_size:,} bytes" if stat.S_ISREG(facts.st_mode) else "no regular file"
        raise ModelError(
            f"earlier: {file} is no timing cache",
            received=kind,
            remedy=f"give the engine of a build, whose timing cache has 1 to {MAX_BYTES:,} bytes,"
            " or leave earlier out",
        )
    return file.read_bytes()
