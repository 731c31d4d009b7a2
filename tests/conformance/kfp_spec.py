"""Kubeflow's checks of a pipeline before it accepts a run of it."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from tests.conformance.kfp_store import RefusedError


def checked_spec(given: Any) -> Any:
    """`given`, if it is a pipeline that the backend takes.

    Raises:
        RefusedError: It is none.
    """
    from kfp.pipeline_spec import pipeline_spec_pb2 as pb

    spec = given.get("pipeline_spec", given)
    try:
        json_format.ParseDict(spec, pb.PipelineSpec(), ignore_unknown_fields=False)
        json_format.ParseDict(
            given.get("platform_spec", {}), pb.PlatformSpec(), ignore_unknown_fields=False
        )
    except json_format.ParseError as error:
        raise RefusedError(400, f"Invalid input error: {error}") from error
    if spec.get("schemaVersion") != "2.1.0":
        raise RefusedError(400, "Invalid input error: this schema is not taken")
    return given


def check_parameters(spec: Any, given: Mapping[str, Any]) -> None:
    """Refuse parameters that the pipeline does not take, or not so.

    Raises:
        RefusedError: One is unknown, missing, or of another type.
    """
    root = spec.get("pipeline_spec", spec)["root"]
    declared = root.get("inputDefinitions", {}).get("parameters", {})
    unknown = set(given) - set(declared)
    missing = {name for name, item in declared.items() if not item.get("isOptional")} - set(given)
    if unknown or missing:
        raise RefusedError(
            400, f"Invalid input error: parameters {sorted(unknown)} unknown, {missing} missing"
        )
    for name, value in given.items():
        if declared[name]["parameterType"] == "STRING" and not isinstance(value, str):
            raise RefusedError(400, f"Invalid input error: parameter {name} is no text: {value!r}")
