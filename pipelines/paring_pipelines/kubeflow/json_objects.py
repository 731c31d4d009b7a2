"""JSON objects that others wrote, read without trust in their shape."""

import json
from collections.abc import Mapping
from typing import Any

from paring.system.documents import parse_json


class InvalidContentError(ValueError):
    """The content of an answer, which is not what the API declares."""


def read_object(content: str | bytes) -> dict[str, Any]:
    """Return the JSON object that the content of an answer is.

    Raises:
        InvalidContentError: It is none.
    """
    try:
        document = parse_json(content)
    except ValueError as error:
        start = repr(content[:60]) if content else "nothing"
        raise InvalidContentError(f"{start}, which is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidContentError(f"{shown(document)} in place of an object")
    return document


def object_at(document: Any, *path: str) -> Mapping[str, Any]:
    """Return the object at a path of keys in a JSON document, empty where there is none."""
    for key in path:
        document = document.get(key) if isinstance(document, Mapping) else None
    return document if isinstance(document, Mapping) else {}


def shown(value: Any) -> str:
    """Return a JSON value as text, cut for an error."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
