"""Read how a model was made out of the lineage in its record."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paring.artifacts import Servable, artifact_types


@dataclass(frozen=True)
class Link:
    """One step on the way from the source to a model, and what it made.

    Attributes:
        type, digest: Of what was made.
        step, version, parameters: Of the step; empty for the source itself.
        path: Where the source lay; "" for what a step made.
        environment: The versions of Python and the libraries at that step.
    """

    type: str
    digest: str
    step: str
    version: str
    parameters: Mapping[str, Any]
    path: str
    environment: Mapping[str, str]


def chain(described: Mapping[str, Any]) -> list[Link]:
    """Return the steps that produced a model, the source first.

    Args:
        described: What `paring.artifacts.Artifact.described` gives. A copy is
            followed to what it is a copy of.
    """
    models = {name for name, kind in artifact_types().items() if issubclass(kind, Servable)}
    return list(_chain(described, models))[::-1]


def source_examples(described: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the described examples, as they came from outside, that a model was made with.

    None if no step on its way took examples.
    """
    lineage = described.get("lineage") or {}
    if "copy_of" in lineage:
        return source_examples(lineage["copy_of"])
    for item in (lineage.get("inputs") or {}).values():
        if not item or "digest" not in item:
            continue
        if item["type"] == "Examples" and "lineage" not in item:
            return dict(item)
        result = source_examples(item)
        if result is not None:
            return result
    return None


def commands(described: Mapping[str, Any], folder: str = "again") -> list[str]:
    """Return the `paring step` commands that make a model again, one after another.

    Args:
        described: What `paring.artifacts.Artifact.described` gives.
        folder: Where the commands put what they make.
    """
    made: dict[tuple[str, str], str] = {}
    lines: list[str] = []

    def path(item: Mapping[str, Any]) -> str:
        lineage = item.get("lineage")
        if not lineage:
            return str(item.get("path", ""))
        if "copy_of" in lineage:
            return path(lineage["copy_of"])
        key = (item["type"], item["digest"])
        if key not in made:
            given = {
                name: path(value) for name, value in lineage.get("inputs", {}).items() if value
            }
            output = lineage.get("output", "")
            made[key] = f"{folder}/{len(made) + 1}-{output}"
            lines.append(_command(lineage, given | {output: made[key]}))
        return made[key]

    path(described)
    return lines


def _command(lineage: Mapping[str, Any], paths: Mapping[str, str]) -> str:
    words = ["paring", "step", lineage["step"]]
    for name, value in {**paths, **lineage.get("parameters", {})}.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return shlex.join(words)


def _chain(described: Mapping[str, Any] | None, models: set[str]) -> Iterator[Link]:
    """Yield the links from the model back to its source."""
    while described is not None:
        lineage = described.get("lineage") or {}
        if "copy_of" in lineage:
            described = lineage["copy_of"]
            continue
        yield Link(
            described["type"],
            described["digest"],
            lineage.get("step", ""),
            lineage.get("version", ""),
            lineage.get("parameters", {}),
            described.get("path", ""),
            lineage.get("environment", {}),
        )
        before = [item for item in lineage.get("inputs", {}).values() if item]
        described = next((item for item in before if item.get("type") in models), None)
