"""Base class of all artifacts: a path with facts, a digest and a record."""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, get_args, get_origin, get_type_hints

from paring.errors import ArtifactTypeError, ModelError, ParingError
from paring.system.documents import read_json
from paring.system.trees import tree_files

RECORD = "paring.json"

Fact = bool | int | float | str | tuple[str, ...]

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


@dataclass(frozen=True)
class Highlight:
    """Mark of a fact that is worth a glance while a run goes on.

    Attributes:
        text: Format of its value, such as "{:,} bytes".
    """

    text: str


@dataclass
class Artifact:
    """A path, and the facts measured about it: the fields that subclasses add.

    A fact is a bool, int, float, str or tuple of str, or None where it was not measured;
    facts become TFX properties and KFP metadata under their field's name.

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
        {"path", "digest", "failure", "lineage", "trusted", "engine_trusted"}
    )

    @classmethod
    def fact_types(cls) -> dict[str, type]:
        """Return the facts of this type and the Python type of each."""
        hints = get_type_hints(cls)
        result: dict[str, type] = {}
        for item in fields(cls):
            if item.name not in cls._NO_FACTS:
                hint = hints[item.name]
                if isinstance(hint, UnionType):
                    # `float | None` is a float that may not have been measured.
                    hint = get_args(hint)[0]
                result[item.name] = get_origin(hint) or hint
        return result

    def facts(self) -> dict[str, Fact]:
        """Return the facts that were measured, by name."""
        values = {name: getattr(self, name) for name in self.fact_types()}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def highlights(self) -> dict[str, str]:
        """Text of each fact that is marked by `Highlight`; of none that is unknown or zero."""
        texts = {
            name: note.text
            for name, hint in get_type_hints(type(self), include_extras=True).items()
            if get_origin(hint) is Annotated
            for note in get_args(hint)[1:]
            if isinstance(note, Highlight)
        }
        # A model with no size is none yet; its zero would mislead.
        return {
            name: texts[name].format("; ".join(value) if isinstance(value, tuple) else value)
            for name, value in self.facts().items()
            if name in texts and value not in (0, "", ())
        }

    def write_facts(self, file: Path, details: Mapping[str, Any] | None = None) -> None:
        """Write the facts that were measured, and details after them, as a JSON object."""
        file.write_text(json.dumps({**self.facts(), **(details or {})}, indent=2) + "\n")

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

        The files are read unless all of them are older than the record, by the time of
        modification and by that of the last change of the inode, which nothing sets back.
        After a copy they may not be. An artifact without a record is never refused.

        Args:
            thoroughly: Read the files in any case.

        Raises:
            ArtifactTypeError: The content has another digest than the recorded one.
        """
        record = self.path / RECORD
        if self.failure is not None or not record.is_file():
            return
        if not thoroughly and _newest(self.path) < _oldest_time(record):
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
            "digest": self.digest,
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


def record_digest(path: Path) -> str:
    """Return SHA-256 of the record of the artifact at `path`; "" where there is none."""
    try:
        content = (path / RECORD).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _checked_facts(record: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    facts = {name: value for name, value in record.get("facts", {}).items() if name in known}
    for name, value in facts.items():
        kind = known[name]
        if (
            kind is tuple
            and isinstance(value, list)
            and all(isinstance(item, str) for item in value)
        ):
            facts[name] = tuple(value)
        # A whole number may stand for a float; a bool, which Python takes for one, may not.
        elif type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"{name} is {type(value).__name__}, not {kind.__name__}")
    # Of nan and infinity nothing can be decided: no comparison refuses nan.
    return {
        name: value
        for name, value in facts.items()
        if not isinstance(value, float) or math.isfinite(value)
    }


def _history(record: Mapping[str, Any]) -> dict[str, Any]:
    stored, lineage = record.get("failure"), record.get("lineage", {})
    failure = Failure(**stored) if stored else None
    if failure is not None:
        if not all(isinstance(var, str) for var in vars(failure).values()):
            raise TypeError("its failure is not described in text")
        if failure.outcome not in ("unsupported", "failed"):
            raise TypeError(f"the outcome of its failure is {failure.outcome!r}")
    digest = record.get("digest", "")
    if not isinstance(digest, str):
        raise TypeError(f"digest is {type(digest).__name__}, not str")
    if not isinstance(lineage, dict):
        raise TypeError(f"lineage is {type(lineage).__name__}, not an object")
    return {
        "digest": digest,
        "failure": failure,
        "lineage": lineage,
    }


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
    """Return the newest time of the files and folders in it, in ns.

    A folder's changes when a file is put there or removed. The inode of `folder` itself is
    changed when it is renamed to its place, so that of it the time of modification counts.
    """
    record = folder / RECORD
    below = (place.lstat() for place in folder.rglob("*") if place != record)
    times = (max(status.st_mtime_ns, status.st_ctime_ns) for status in below)
    return max((folder.lstat().st_mtime_ns, *times))


def _oldest_time(record: Path) -> int:
    status = record.stat()
    return min(status.st_mtime_ns, status.st_ctime_ns)


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
    result: dict[str, type[Artifact]] = {}
    queue: list[type[Artifact]] = [Artifact]
    while queue:
        kind = queue.pop()
        result[kind.__name__] = kind
        queue.extend(kind.__subclasses__())
    return result
