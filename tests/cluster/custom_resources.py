"""Definitions of the custom resources that our manifests hold.

They are made from the schemas in tests/k8s/schemas, which hold what Kubeflow and Argo Events
say of the fields that we use, so the API server knows these fields and no others.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).parents[1] / "k8s" / "schemas"
_PLURALS = {
    "EventSource": "eventsources",
    "Pipeline": "pipelines",
    "PipelineVersion": "pipelineversions",
    "Sensor": "sensors",
}


def definitions() -> Iterator[dict[str, Any]]:
    """Yield a CustomResourceDefinition for each schema."""
    for file in sorted(SCHEMAS.glob("*.json")):
        schema = json.loads(file.read_text())
        group, _, version = schema["properties"]["apiVersion"]["const"].partition("/")
        plural = _PLURALS[file.stem]
        spec = _structural(schema["properties"]["spec"], schema.get("$defs", {}))
        yield {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}"},
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {
                    "kind": file.stem,
                    "plural": plural,
                    "singular": file.stem.lower(),
                    "listKind": f"{file.stem}List",
                },
                "versions": [
                    {
                        "name": version,
                        "served": True,
                        "storage": True,
                        "schema": {
                            "openAPIV3Schema": {
                                "type": "object",
                                "required": ["spec"],
                                "properties": {"spec": spec},
                            }
                        },
                    }
                ],
            },
        }


def _structural(schema: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema in Kubernetes' structural form, with types and without references."""
    if "$ref" in schema:
        return _structural(named[schema["$ref"].rpartition("/")[2]], named)
    made = dict(schema)
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if "enum" in made:
        made["type"] = "string"
    if "properties" in made:
        # Kubernetes rejects others by default.
        made.pop("additionalProperties", None)
        made["properties"] = {
            name: _structural(item, named) for name, item in made["properties"].items()
        }
    elif isinstance(made.get("additionalProperties"), Mapping):
        made["additionalProperties"] = _structural(made["additionalProperties"], named)
    elif made["type"] == "object":
        # All that it requires is somebody else's to check.
        made = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    if made["type"] == "array":
        anything = {"x-kubernetes-preserve-unknown-fields": True}
        made["items"] = _structural(made["items"], named) if "items" in made else anything
    return made
