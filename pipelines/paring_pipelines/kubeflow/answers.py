"""Validation of Kubeflow's answers before its SDK builds objects of them.

The SDK takes what is no JSON for text, and text for an object whose attributes are all
None: an answer that was cut would read as an empty listing, or as a run without an id.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import kfp_server_api as api

from paring_pipelines.kubeflow.json_objects import InvalidContentError, read_object, shown

_NEEDED: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "V2beta1Run": (("run_id",), ("display_name",)),
    "V2beta1PipelineTaskDetail": (("display_name", "task_id"),),
    "V2beta1RecurringRun": (("recurring_run_id",), ("display_name",)),
    "V2beta1Experiment": (("experiment_id",), ("display_name",)),
    # Older servers know the one name, newer ones both.
    "V2beta1Pipeline": (("pipeline_id",), ("display_name", "name")),
    "V2beta1PipelineVersion": (("pipeline_version_id",), ("display_name", "name")),
}
"""Attributes that each object must have as text; of several in a row, one."""

_OBJECTS = ("pipeline_spec",)
"""Attributes that hold an object, which the SDK declares as anything."""


class ApiClient(api.ApiClient):  # type: ignore[misc] # no types
    """API client of the SDK that refuses what does not have the declared shape."""

    def request(self, *arguments: Any, **named: Any) -> Any:
        """Send a request, as the SDK does, which fails at refusals that are not UTF-8.

        Raises:
            kfp_server_api.ApiException: The server refused.
        """
        try:
            return super().request(*arguments, **named)
        except api.ApiException as error:
            if isinstance(error.body, bytes):
                error.body = error.body.decode(errors="replace").encode()
            raise

    def deserialize(self, response: Any, response_type: Any) -> Any:
        """Return the content of an answer as an object of the SDK.

        Raises:
            InvalidContentError: It is not what the API declares.
        """
        # What answers a deletion and the like says nothing, and is not used.
        if response_type != "object":
            _check(read_object(response.data), response_type, "")
        try:
            return super().deserialize(response, response_type)
        except (api.ApiException, OverflowError, TypeError, ValueError) as error:
            # The SDK reports dates that it can't parse as if the server had refused.
            raise InvalidContentError(str(getattr(error, "reason", error))) from error


def _check(value: Any, declared: str, place: str) -> None:
    """Refuse a value of another shape than the SDK declares.

    Args:
        value: Of JSON; null stands for what is not set.
        declared: A type in the SDK's notation, such as list[V2beta1Run].
        place: Where the value is, for the error.
    """
    if value is None or declared == "object":
        return
    several = re.fullmatch(r"(list)\[(.+)\]|(dict)\(\w+, (.+)\)", declared)
    if several is None:
        _check_one(value, declared, place)
    elif several[1]:
        _require(isinstance(value, list), value, place, "a list")
        for number, entry in enumerate(value):
            _require(entry is not None, entry, f"{place}[{number}]", "an entry")
            _check(entry, several[2], f"{place}[{number}]")
    else:
        _require(isinstance(value, dict), value, place, "an object")
        for key, entry in value.items():
            _check(entry, several[4], f"{place}.{key}")


def _check_one(value: Any, declared: str, place: str) -> None:
    if declared == "datetime":
        _require(_is_time(value), value, place, "a time with its zone")
    elif declared == "bool":
        _require(isinstance(value, bool), value, place, "true or false")
    elif declared in ("str", "int", "float"):
        # The SDK converts these.
        _require(not isinstance(value, list | dict), value, place, "a text or number")
    else:
        _check_model(value, declared, place)


def _check_model(value: Any, declared: str, place: str) -> None:
    model = getattr(api.models, declared)
    if not model.openapi_types:
        _require(isinstance(value, str), value, place, "a name")
        return
    _require(isinstance(value, dict), value, place, "an object")
    keys = model.attribute_map
    for attribute, kind in model.openapi_types.items():
        inside = f"{place}.{keys[attribute]}".lstrip(".")
        held = value.get(keys[attribute])
        _check(held, kind, inside)
        if attribute in _OBJECTS:
            _require(isinstance(held, dict | None), held, inside, "an object")
    for names in _NEEDED.get(declared, ()):
        held = [value.get(keys[name]) for name in names if name in keys]
        if not any(isinstance(item, str) and item for item in held):
            raise InvalidContentError(f"{place or 'an object'} without {' or '.join(names)}")


def _require(condition: bool, value: Any, place: str, wanted: str) -> None:
    if not condition:
        raise InvalidContentError(f"{shown(value)} as {place}, in place of {wanted}")


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False
