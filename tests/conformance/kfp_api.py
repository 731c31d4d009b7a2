"""The requests that Kubeflow's API takes, as its generated client declares them.

Each method of the client is called once with a client that sends nothing, which tells
its verb, its path and where its parameters go; their types stand in its docstring. The
models tell the fields of bodies, which of them Kubeflow alone sets, and which it needs.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import kfp_server_api as api

_SERVICES = (
    api.ExperimentServiceApi,
    api.HealthzServiceApi,
    api.PipelineServiceApi,
    api.PipelineUploadServiceApi,
    api.RecurringRunServiceApi,
    api.RunServiceApi,
)
_PRIMITIVES = {"str": str, "int": int, "bool": bool}

_NUMBERS_AS_TEXT = frozenset({"max_concurrency"})
"""64-bit numbers, which JSON carries as text, and Kubeflow takes as numbers as well."""


class SchemaError(Exception):
    """A request that the API does not declare."""


@dataclass(frozen=True)
class Operation:
    """One request of the API.

    Attributes:
        name: The client's method.
        method: GET, POST or DELETE.
        template: The path, with {NAME} for each parameter in it.
        query: The type of each parameter after the question mark.
        body: The model of the JSON body, "" for none.
        file: The form's field that holds a file, "" for none.
        response: The type of the answer.
    """

    name: str
    method: str
    template: str
    query: Mapping[str, str]
    body: str
    file: str
    response: str

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The path's parameters, or None where it is another's."""
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", re.escape(self.template))
        matched = re.fullmatch(pattern, path)
        return matched.groupdict() if matched and method == self.method else None


class _Unsent:
    """Stands for the client's connection, and keeps what it was to send."""

    client_side_validation = False

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}

    def select_header_accept(self, accepts: list[str]) -> str:
        return accepts[0]

    def select_header_content_type(self, types: list[str]) -> str:
        return types[0]

    def call_api(
        self,
        path: str,
        method: str,
        path_params: Any,
        query_params: list[tuple[str, Any]],
        header_params: Any,
        **more: Any,
    ) -> None:
        self.sent = {
            "path": path,
            "method": method,
            "query": [name for name, _ in query_params],
            "body": more["body"],
            "files": list(more["files"]),
        }


def operations() -> list[Operation]:
    """Every request of the API that has to do with pipelines and their runs."""
    return [_operation(service, name) for service in _SERVICES for name in _methods(service)]


def _methods(service: Any) -> Iterator[str]:
    for name, _ in inspect.getmembers(service, inspect.isfunction):
        if name.endswith("_with_http_info"):
            yield name


def _operation(service: Any, name: str) -> Operation:
    unsent = _Unsent()
    method = getattr(service(unsent), name)
    result = re.findall(r":param (\w+):[^\n]*\n\s+:type \1: ([^\n]+)", method.__doc__)
    types = {key: kind for key, kind in result if not key.startswith("_") and key != "async_req"}
    method(**{key: f"<{key}>" for key in types})
    sent = unsent.sent
    body = sent["body"]
    return Operation(
        name=name.removesuffix("_with_http_info"),
        method=sent["method"],
        template=sent["path"],
        query={key: types[key] for key in sent["query"]},
        body=types[body.strip("<>")] if body else "",
        file=sent["files"][0] if sent["files"] else "",
        response=re.findall(r":rtype: tuple\((\w+),", method.__doc__)[0],
    )


def check_query(operation: Operation, given: Mapping[str, list[str]]) -> dict[str, str]:
    """The parameters after the question mark, each once.

    Raises:
        SchemaError: One is unknown, given twice, or of another type.
    """
    result: dict[str, str] = {}
    for name, values in given.items():
        if name not in operation.query:
            raise SchemaError(f"{operation.name} has no parameter {name}")
        if len(values) > 1:
            raise SchemaError(f"{operation.name}: {name} is given {len(values)} times")
        kind, text = operation.query[name], values[0]
        if kind == "int" and not re.fullmatch(r"-?\d+", text):
            raise SchemaError(f"{operation.name}: {name} is no integer: {text}")
        if kind == "bool" and text not in ("true", "false"):
            raise SchemaError(f"{operation.name}: {name} is neither true nor false: {text}")
        result[name] = text
    return result


def check_body(kind: str, value: Any) -> None:
    """Refuse a body that is not what a client may send as a `kind`.

    Raises:
        SchemaError: A field is unknown, of another type, missing, or Kubeflow's to set.
    """
    model = getattr(api, kind)
    check(kind, value, kind)
    for attribute, name in model.attribute_map.items():
        result = _told(model, attribute)
        if result.startswith("Output") and name in value:
            raise SchemaError(f"{kind}.{name} is set by Kubeflow alone")
        if result.startswith("Required") and not value.get(name):
            # The pipeline of a version is named in the path.
            raise SchemaError(f"{kind}.{name} is required")


def check(kind: str, value: Any, where: str) -> None:
    """Refuse a value that is not of type `kind`, as the models write types.

    Raises:
        SchemaError: It is not, or something in it is not.
    """
    if kind == "object":
        return
    if kind in _PRIMITIVES:
        number = where.rpartition(".")[2] in _NUMBERS_AS_TEXT and type(value) is int
        if type(value) is not _PRIMITIVES[kind] and not number:
            raise SchemaError(f"{where} is no {kind}: {value!r}")
    elif kind == "datetime":
        try:
            datetime.fromisoformat(value)
        except (TypeError, ValueError) as error:
            raise SchemaError(f"{where} is no time: {value!r}") from error
    elif kind.startswith("list["):
        if not isinstance(value, list):
            raise SchemaError(f"{where} is no list: {value!r}")
        for index, item in enumerate(value):
            check(kind[5:-1], item, f"{where}[{index}]")
    elif kind.startswith("dict("):
        if not isinstance(value, dict):
            raise SchemaError(f"{where} is no object: {value!r}")
        for key, item in value.items():
            check(kind[5:-1].partition(", ")[2], item, f"{where}.{key}")
    else:
        _check_model(getattr(api, kind), value, where)


def _check_model(model: Any, value: Any, where: str) -> None:
    allowed = getattr(model, "allowable_values", None)
    if allowed is not None:
        if value not in allowed:
            raise SchemaError(f"{where} is none of {allowed}: {value!r}")
        return
    if not isinstance(value, dict):
        raise SchemaError(f"{where} is no object: {value!r}")
    types = {name: model.openapi_types[key] for key, name in model.attribute_map.items()}
    for name, item in value.items():
        if name not in types:
            raise SchemaError(f"{where} has no field {name}")
        check(types[name], item, f"{where}.{name}")


def _told(model: Any, attribute: str) -> str:
    """Return the documentation of a field of the model."""
    lines = (getattr(model, attribute).__doc__ or "").splitlines()
    return lines[2].strip() if len(lines) > 2 else ""
