"""JSON from outside: read within limits of size and depth."""

import json
from pathlib import Path
from typing import Any

MAX_BYTES = 64 << 20
"""The largest JSON that is read; what Paring writes is far below."""


def read_json(file: Path, limit: int = MAX_BYTES) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: It can't be read.
        ValueError: It is no JSON in UTF-8, is larger than `limit` bytes, or is nested too
            deeply.
    """
    size = file.stat().st_size
    if size > limit:
        raise ValueError(f"{size} bytes, of which at most {limit} are read")
    return parse_json(file.read_text(encoding="utf-8"), limit)


def parse_json(text: str | bytes, limit: int = MAX_BYTES) -> Any:
    """Return what a JSON text holds.

    Raises:
        ValueError: It is no JSON, is longer than `limit`, or is nested too deeply.
    """
    if len(text) > limit:
        raise ValueError(f"{len(text)} bytes, of which at most {limit} are read")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
