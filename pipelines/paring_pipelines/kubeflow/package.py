"""A compiled pipeline as Kubeflow takes it, and the digest that names it."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from paring.errors import ParameterError, nearest
from paring.system.documents import parse_json

SOURCES = ("model_uri", "examples_uri")
"""The parameters that say where the sources lie."""

DIGEST = "source_digest"
"""The parameter that names their content."""

_SCHEMA = "2.1.0"


@dataclass(frozen=True)
class Package:
    """A pipeline that `paring compile` wrote.

    Attributes:
        path: The file.
        name: The pipeline's.
        spec: What Kubeflow's API takes: the pipeline, or an object with the keys
            `pipeline_spec` and `platform_spec` where nodes are placed.
        inputs: The type of each of its parameters, such as STRING.
        required: Those without a default.
    """

    path: Path
    name: str
    spec: Mapping[str, Any]
    inputs: Mapping[str, str]
    required: frozenset[str]

    def digest(self, *settings: object) -> str:
        """Return SHA-256 over the pipeline and `settings`, whatever the file's layout."""
        text = json.dumps([self.spec, *settings], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def parameters(self, given: Mapping[str, str]) -> dict[str, Any]:
        """Return `given` as the pipeline's own types.

        Raises:
            ParameterError: A name is unknown, one is missing, or a value is of another
                type.
        """
        for name in given:
            if name not in self.inputs:
                raise ParameterError(
                    f"{self.path}: this pipeline has no parameter {name!r}",
                    remedy=nearest(name, self.inputs),
                )
        missing = sorted(self.required - set(given))
        if missing:
            raise ParameterError(
                f"{self.path}: this pipeline needs parameter {', '.join(missing)}",
                remedy=f"give --parameter {missing[0]}=VALUE",
            )
        return {name: _value(name, self.inputs[name], text) for name, text in given.items()}


def read_package(path: Path) -> Package:
    """Read what `paring compile --out` wrote.

    Raises:
        ParameterError: The file can't be read, or is no package of schema 2.1.0 that
            takes the sources.
    """
    try:
        documents = [item for item in yaml.safe_load_all(path.read_text()) if item]
    except OSError as error:
        raise ParameterError(
            "--package: this file can't be read",
            received=f"{path} ({error.strerror})",
            remedy="make one: paring compile --image IMAGE --out pipeline.yaml",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise _no_package(path, " ".join(str(error).split())) from error
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise _no_package(path, "it holds no pipeline")
    pipeline, *platform = documents
    if pipeline.get("schemaVersion") != _SCHEMA:
        raise _no_package(path, f"its schemaVersion is {pipeline.get('schemaVersion')}")
    declared = pipeline.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    missing = sorted({*SOURCES, DIGEST} - set(declared))
    if missing:
        raise _no_package(path, f"its pipeline takes no {', '.join(missing)}")
    spec = pipeline
    if platform:
        merged = {key: value for item in platform for key, value in item.items()}
        spec = {"pipeline_spec": pipeline, "platform_spec": merged}
    return Package(
        path=path,
        name=str(pipeline["pipelineInfo"]["name"]),
        spec=spec,
        inputs={name: str(item["parameterType"]) for name, item in declared.items()},
        required=frozenset(
            name for name, item in declared.items() if not item.get("isOptional", False)
        ),
    )


def parse_parameters(texts: Sequence[str]) -> dict[str, str]:
    """Return the values of `--parameter NAME=VALUE` by name.

    Raises:
        ParameterError: One is of another form, or Paring's own to set.
    """
    given: dict[str, str] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator):
            raise ParameterError(
                "--parameter takes NAME=VALUE", received=text, remedy="write --parameter NAME=VALUE"
            )
        if name in (*SOURCES, DIGEST):
            raise ParameterError(
                f"--parameter: {name} has an option of its own, or follows from one",
                received=text,
                remedy="give --model and --examples",
            )
        given[name] = value
    return given


def _value(name: str, kind: str, text: str) -> Any:
    if kind == "STRING":
        return text
    try:
        value = parse_json(text)
    except ValueError as error:
        raise _mistyped(name, kind, text) from error
    taken: dict[str, type | tuple[type, ...]] = {
        "NUMBER_INTEGER": int,
        "NUMBER_DOUBLE": (int, float),
        "BOOLEAN": bool,
        "LIST": list,
        "STRUCT": dict,
    }
    # True and False are integers to Python.
    if not isinstance(value, taken.get(kind, object)) or (
        isinstance(value, bool) and kind.startswith("NUMBER")
    ):
        raise _mistyped(name, kind, text)
    return value


def _mistyped(name: str, kind: str, text: str) -> ParameterError:
    return ParameterError(
        f"--parameter: {name} is of type {kind}", received=text, remedy="write it as JSON"
    )


def _no_package(path: Path, why: str) -> ParameterError:
    return ParameterError(
        f"--package: this is no pipeline of Paring's ({why})",
        received=path,
        remedy="make one: paring compile --image IMAGE --out pipeline.yaml",
    )


def copied(package: Package, folder: Path) -> Path:
    """Return the package's file in `folder`, with the ending that Kubeflow's upload asks for."""
    target = folder / "pipeline.yaml"
    shutil.copyfile(package.path, target)
    return target
