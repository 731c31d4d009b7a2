"""Base class of all artifacts: a path with facts, a digest and a record."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_type_hints

from paring.errors import ArtifactTypeError, ModelError, ParingError
from paring.system.documents import read_json
from paring.system.trees import tree_files

RECORD = "paring.json"

Fact = str | int | float

# Between two ticks of the clock that Linux takes the times of files from.
_CLOCK_SECONDS = 0.01


@dataclass(frozen=True)
class Failure:
    """Reason why an artifact could not be built.

    Attributes:
        outcome: "unsupported" (the method does not fit the model) or "failed".
        step: The step that failed first.
        reason: What it said, for the user.
    """

    outcome: str
    step: str
    reason: str


@dataclass
class Artifact:
    """A path, and the facts measured about it: the fields after `path`.

    A fact is a str, int or float, or None where it was not measured; facts
    become TFX properties and KFP metadata under their field's name.

    Attributes:
        path: The file or folder. A step's output folder exists when it starts.
        digest: `content_digest` of `path`, "" until it is known.
        failure: Set if the artifact could not be made; then `path` is empty.
        lineage: How it was made; see `paring.execution.execute`.
    """

    path: Path
    digest: str = ""
    failure: Failure | None = field(default=None, repr=False)
    lineage: Mapping[str, Any] = field(default_factory=dict, repr=False)

    bound_to_hardware: ClassVar[bool] = False
    """Whether it runs only on hardware of the kind that it was built on."""

    _NO_FACTS: ClassVar[frozenset[str]] = frozenset(
        {"path", "failure", "lineage", "trusted", "engine_trusted"}
    )

    @classmethod
    def fact_types(cls) -> dict[str, type]:
        """Return the facts of this type and the Python type of each."""
        hints = get_type_hints(cls)
        found: dict[str, type] = {}
        for one in fields(cls):
            if one.name not in cls._NO_FACTS:
                hint = hints[one.name]
                # `float | None` is a float that may not have been measured.
                found[one.name] = next(iter(get_args(hint)), hint)
        return found

    def facts(self) -> dict[str, Fact]:
        """Return the facts that were measured, by name."""
        values = {name: getattr(self, name) for name in self.fact_types()}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the artifact at `path`, as the type its record states.

        Without a record (a user's own file, or another tool's artifact) it is
        taken to be a `cls` with no facts.

        Raises:
            ArtifactTypeError: The record states a type that is no `cls`.
        """
        record = read_record(path)
        if record is None:
            return cls(path)
        type_name = str(record.get("type"))
        kind = artifact_types().get(type_name)
        if kind is None or not issubclass(kind, cls):
            raise ArtifactTypeError(
                f"{path} is not a {cls.__name__}",
                received=type_name,
                remedy=f"give a path to a {cls.__name__}",
            )
        try:
            return kind(path, **_checked_facts(record, kind.fact_types()), **_history(record))
        except (AttributeError, TypeError) as error:
            raise ArtifactTypeError(
                f"{path / RECORD} is not the record of a {type_name}",
                received=error,
                remedy="re-run the step that produced this artifact; its record was edited",
            ) from error

    def verify(self, *, thoroughly: bool = False) -> None:
        """Raise if the content is no longer what the record states.

        The files are read unless all of them are older than the record, as after a copy.
        An artifact without a record is never refused.

        Args:
            thoroughly: Read the files in any case.

        Raises:
            ArtifactTypeError: The content has another digest than the recorded one.
        """
        record = self.path / RECORD
        if self.failure is not None or not record.is_file():
            return
        if not thoroughly and _newest(self.path) < record.stat().st_mtime_ns:
            return
        digest = content_digest(self.path, ArtifactTypeError)
        if digest != self.digest:
            raise ArtifactTypeError(
                f"{self.path} has been changed since it was written",
                received=f"{digest}, not {self.digest}",
                remedy="re-run the step that produced this artifact",
            )

    def described(self) -> dict[str, Any]:
        """Return the type, digest and lineage, or the path if Paring did not write the artifact."""
        named: dict[str, Any] = {"type": type(self).__name__, "digest": self.digest}
        return named | ({"lineage": self.lineage} if self.lineage else {"path": str(self.path)})

    def copied_from(self, original: "Artifact") -> None:
        """Note that the content is a copy of `original`'s, however that was made."""
        self.lineage = {**self.lineage, "copy_of": original.described()}

    def save(self) -> None:
        """Write the record, with the digest of what the folder holds now."""
        self.digest = "" if self.failure else content_digest(self.path)
        record = {
            "type": type(self).__name__,
            "facts": self.facts(),
            "failure": vars(self.failure) if self.failure else None,
            "lineage": self.lineage,
        }
        (self.path / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        # Later than all else here by the file system's clock, which `verify` relies on.
        time.sleep(_CLOCK_SECONDS)
        os.utime(self.path / RECORD)


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record of the artifact at `path`, None where there is none."""
    try:
        record = read_json(path / RECORD)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ArtifactTypeError(
            f"{path / RECORD} is not readable",
            received=error,
            remedy="re-run the step that produced this artifact; its record was cut off or edited",
        ) from error
    if not isinstance(record, dict):
        raise ArtifactTypeError(f"{path / RECORD} is no artifact's record")
    return record


def _checked_facts(record: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    facts = {name: value for name, value in record.get("facts", {}).items() if name in known}
    for name, value in facts.items():
        # A whole number may stand for a float.
        allowed = (int, float) if known[name] is float else known[name]
        if not isinstance(value, allowed):
            raise TypeError(f"{name} is {type(value).__name__}, not {known[name].__name__}")
    return facts


def _history(record: Mapping[str, Any]) -> dict[str, Any]:
    failure, lineage = record.get("failure"), record.get("lineage", {})
    if not isinstance(lineage, dict):
        raise TypeError(f"lineage is {type(lineage).__name__}, not an object")
    return {"failure": Failure(**failure) if failure else None, "lineage": lineage}


def content_digest(path: Path, error: type[ParingError] = ModelError) -> str:
    """Return SHA-256 over the names and bytes below `path`, its record left out.

    Raises:
        ParingError: Of the class `error`: a link leads out of the folder.
    """
    total = hashlib.sha256()
    for name, file in _files(path, error):
        with file.open("rb") as stream:
            inner = hashlib.file_digest(stream, "sha256")
        total.update(f"{name}\0{inner.hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _newest(folder: Path) -> int:
    """Return the newest time of modification of the files and folders in it, in ns.

    A folder's changes when a file is put there or removed.
    """
    record = folder / RECORD
    below = (place for place in folder.rglob("*") if place != record)
    return max(place.lstat().st_mtime_ns for place in (folder, *below))


def content_bytes(path: Path) -> int:
    """Return the size in bytes of all files below `path`, its record left out."""
    return sum(file.stat().st_size for _, file in _files(path, ModelError))


def _files(path: Path, error: type[ParingError]) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield "", path
        return
    for name, file in tree_files(path, error):
        if name != RECORD:
            yield name, file


def artifact_types() -> dict[str, type[Artifact]]:
    """Return every artifact type by its name."""
    found: dict[str, type[Artifact]] = {}
    queue: list[type[Artifact]] = [Artifact]
    while queue:
        kind = queue.pop()
        found[kind.__name__] = kind
        queue.extend(kind.__subclasses__())
    return found
