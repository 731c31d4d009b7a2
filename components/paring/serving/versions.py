"""Versions at a destination, in the layout of TF Serving.

    DESTINATION/1/saved_model.pb ...
    DESTINATION/2/model.tflite
    DESTINATION/3/model.engine
    DESTINATION/.paring/2.json

TF Serving serves the folder with the highest number, and overlooks names that are no
numbers. So a version appears by one rename when all of it is there and was loaded; in an
object store, which has none, saved_model.pb is copied last. Nothing is ever removed or
renumbered: going back publishes an older version's bytes under a new number.

A number is claimed by creating its record, which also tells of what it holds. So writers
at the same time get numbers of their own, and one that is killed leaves a gap; one that
finds the same content claimed a moment ago waits for that version, and makes none.
"""

import json
import logging
import math
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from paring import storage
from paring.artifacts import DEFAULT_SIGNATURE, Servable, content_digest
from paring.errors import (
    ArtifactTypeError,
    ModelError,
    ParameterError,
    ParingError,
    StorageError,
    first_line,
)
from paring.system.documents import parse_json

RECORDS = ".paring"
"""Below a destination: the versions' records, and what is not yet a version."""

_log = logging.getLogger(__name__)

Call = Callable[[Callable[[], None]], None]
"""Calls a function that can be pickled, in this process or in another."""

# How long a writer may take from its claim to the complete version, before it is taken to
# have been killed; and the time between two looks.
_PUTTING_SECONDS = 300
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Version:
    """Version at a destination, and its origin.

    Attributes:
        number: Its folder's name; 0 while it has none.
        digest: The content digest of its folder; "" where another tool made it.
        action: push or rollback; "" where another tool made it.
        of: Of a rollback: the version that was first pushed with these bytes.
        withdrawn: Of a rollback: the digest of the later version that it took back; ""
            where it brought a later one back.
        candidate: The id of the candidate.
        source: The digest of the source model that the candidate was made from.
        run: What started the run.
        host: The machine, or the pod.
        when: The time in UTC, as ISO 8601 has it.
        model: The digest of the served files alone, where settings lie beside them; "" where
            there are none.
        writer: Random name of the push or rollback that made it.
    """

    number: int = 0
    digest: str = ""
    action: str = ""
    of: int = 0
    withdrawn: str = ""
    candidate: str = ""
    source: str = ""
    run: str = ""
    host: str = ""
    when: str = ""
    model: str = ""
    writer: str = ""


def versions(destination: str) -> list[Version]:
    """Return the complete versions at `destination`, oldest first; none if there is nothing.

    Raises:
        StorageError: The store can't be asked.
        ArtifactTypeError: A version's record can't be read.
    """
    there = _look(destination)
    return [
        _read(destination, number) if number in there.recorded else Version(number)
        for number in sorted(there.complete)
    ]


def existing_versions(destination: str) -> list[Version]:
    """Return the versions as `versions` does, and raise an error if there are none.

    Raises:
        ParameterError: There are none.
        ParingError: As `versions`.
    """
    known = versions(destination)
    if not known:
        raise ParameterError(
            "there are no versions here",
            received=destination,
            remedy="give the destination of a push: the folder above the versions",
        )
    return known


def rolled_back(known: Sequence[Version]) -> dict[str, int]:
    """Return the digests that were rolled back and not brought back, with a version of each.

    The version is 0 where its folder is gone.
    """
    result: dict[str, int] = {}
    numbers: dict[str, int] = {}
    for version in known:
        numbers.setdefault(version.digest, version.number)
        if version.action == "rollback":
            if version.withdrawn:
                result[version.withdrawn] = numbers.get(version.withdrawn, 0)
            result.pop(version.digest, None)
    return result


def withdrawn_version(known: Sequence[Version], digest: str, model: str) -> int | None:
    """Return a version with this content that was rolled back; None if there is none.

    One of the same model with other settings counts too, unless that model is served
    now: then it was the settings that were rolled back.

    Args:
        known: The versions.
        digest: Of a version's folder.
        model: Of the served files alone.

    Returns:
        Its number; 0 where its folder is gone.
    """
    withdrawn = rolled_back(known)
    if digest in withdrawn:
        return withdrawn[digest]
    if not known or _model(known[-1]) == model:
        return None
    if model in withdrawn:
        return withdrawn[model]
    result = (
        withdrawn[version.digest]
        for version in known
        if version.digest in withdrawn and _model(version) == model
    )
    return next(result, None)


def _model(version: Version) -> str:
    return version.model or version.digest


def call_here(work: Callable[[], None]) -> None:
    """Call a function in this process."""
    work()


def publish(
    destination: str,
    folder: Path,
    about: Version,
    *,
    signature: str = DEFAULT_SIGNATURE,
    trusted: bool = False,
    engine_trusted: bool = False,
    call: Call = call_here,
) -> Version:
    """Make `folder` the newest version, unless the newest has the same content.

    That one is read first: where it was changed since its push, `folder` becomes a new
    version. It is written below `RECORDS`, read back, loaded and run once, and only then given
    the next number.

    Args:
        destination: A path or URI.
        folder: What the version's folder shall be.
        about: All but number, digest, host and time.
        signature: Name of the signature that is run once.
        trusted: Whether operators that touch files or processes may run.
        engine_trusted: Whether a TensorRT engine may be loaded.
        call: Calls what loads and runs the model.

    Returns:
        The version that was made, or the newest one where it has the same content.

    Raises:
        ModelError, UnsupportedError: The model can't be loaded or run.
        OutputError, StorageError: The destination can't be written.
    """
    digest = content_digest(folder)
    known = versions(destination)
    changed = 0
    if known and known[-1].digest == digest:
        if _is_intact(destination, known[-1]):
            return known[-1]
        changed = known[-1].number
        _log.warning("version %d is not what was pushed, so the model is pushed again", changed)
    staged = storage.join(destination, RECORDS, "staged", uuid.uuid4().hex)
    try:
        storage.put(folder, staged)
        with tempfile.TemporaryDirectory(prefix="paring-push-") as temporary:
            read_back = storage.fetch(staged, Path(temporary))
            if content_digest(read_back) != digest:
                raise StorageError(
                    "what was read back from the destination is not what was written there",
                    received=destination,
                    remedy="push again; if it stays so, look at the store",
                )
            staged_model = Servable(
                read_back, signature=signature, trusted=trusted, engine_trusted=engine_trusted
            )
            call(partial(run_once, staged_model))
        made, is_own = _claim(destination, replace(about, digest=digest), changed)
        if not is_own:
            return made
        marker = next(name for name in _markers() if (folder / name).is_file())
        storage.move(staged, storage.join(destination, str(made.number)), last=marker)
    finally:
        # What is left there does no harm, and the error that led here says more.
        with suppress(ParingError):
            storage.delete(staged)
    return made


def roll_back(
    destination: str,
    to: int | None = None,
    run: str = "",
    *,
    signature: str = "",
    trusted: bool = False,
    call: Call = call_here,
) -> Version:
    """Publish an older version's bytes again, as the newest version.

    Args:
        destination: A path or URI.
        to: The older version; by default the newest that has another content than what
            is served now, and was not rolled back itself.
        run: What started this.
        signature: Name of the signature that is run once; "" for that of the version's record,
            or `paring.artifacts.DEFAULT_SIGNATURE` without one.
        trusted: Whether operators that touch files or processes may run.
        call: Calls what loads and runs the model.

    Returns:
        The version that was made, or the newest one where it has the same content.

    Raises:
        ParameterError: There is no such version.
        StorageError: It can't be read, or is not what it was when it was pushed.
        ParingError: As `publish`.
    """
    known = existing_versions(destination)
    served, wanted = known[-1], _wanted(destination, known, to)
    with tempfile.TemporaryDirectory(prefix="paring-rollback-") as temporary:
        folder = storage.fetch(storage.join(destination, str(wanted.number)), Path(temporary))
        if wanted.digest and content_digest(folder) != wanted.digest:
            raise StorageError(
                f"version {wanted.number} is not what it was when it was pushed",
                received=destination,
                remedy="go back to another version with --to",
            )
        older = _origin(wanted) < _origin(served)
        about = replace(
            wanted,
            action="rollback",
            of=_origin(wanted),
            withdrawn=served.digest if older else "",
            run=run,
        )
        signature = signature or Servable.load(folder).signature
        return publish(destination, folder, about, signature=signature, trusted=trusted, call=call)


def _origin(version: Version) -> int:
    return version.of or version.number


def run_once(model: Servable) -> None:
    """Load a version's folder, and run a batch of zeros where its signature has a shape.

    Raises:
        ModelError, UnsupportedError: It can't be loaded, or not run.
    """
    from paring.runtimes import blank_batch, open_runtime

    runtime = open_runtime(model)
    try:
        batch = blank_batch(runtime)
        if batch is not None:
            runtime.run(batch)
    except ParingError:
        raise
    except Exception as error:
        # TensorFlow has errors of its own for what goes wrong in a graph, LiteRT raises
        # RuntimeError or ValueError.
        raise ModelError(
            "the model was loaded from the destination, but can't be run on a batch of zeros",
            received=first_line(error),
            remedy="run it on a batch of its signature's shape to see why",
        ) from error
    finally:
        runtime.close()


def _wanted(destination: str, known: Sequence[Version], to: int | None) -> Version:
    by_number = {version.number: version for version in known}
    if to is not None:
        if to not in by_number:
            raise ParameterError(
                f"{destination} has no version {to}",
                remedy=f"give one of its versions: {', '.join(map(str, by_number))}",
            )
        return by_number[to]
    passed_over = {known[-1].digest, *rolled_back(known)} - {""}
    for item in reversed(known[:-1]):
        if item.digest not in passed_over:
            return item
    raise ParameterError(
        "there is no earlier version to go back to that was not rolled back itself",
        received=f"{destination}, versions {', '.join(map(str, by_number))}",
        remedy="name one with --to",
    )


def _is_intact(destination: str, version: Version) -> bool:
    """Return whether the files of a version are those that were pushed."""
    with tempfile.TemporaryDirectory(prefix="paring-push-") as temporary:
        folder = storage.fetch(storage.join(destination, str(version.number)), Path(temporary))
        try:
            return content_digest(folder, StorageError) == version.digest
        except StorageError:
            # A link that leads out of it.
            return False


def _claim(destination: str, about: Version, changed: int = 0) -> tuple[Version, bool]:
    """Claim a number for `about`, write its record, and return the version and True.

    If another process has just pushed the same content, return its version and False; the
    version `changed` is not what its record states.
    """
    while True:
        there = _look(destination)
        newest = max(there.folders | there.recorded, default=0)
        if newest in there.recorded:
            other = _read(destination, newest)
            if other.digest == about.digest and newest != changed:
                if newest in there.complete:
                    return other, False
                if _seconds_since(other.when) < _PUTTING_SECONDS:
                    time.sleep(_LOOK_SECONDS)
                    continue
        claimed = replace(
            about,
            number=newest + 1,
            host=socket.gethostname(),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        text = json.dumps(asdict(claimed), indent=2) + "\n"
        if storage.create(_record(destination, claimed.number), text):
            return claimed, True


def _seconds_since(when: str) -> float:
    """Return the seconds since a record was written; infinitely many where it does not say when."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(when)).total_seconds()
    except (TypeError, ValueError):
        return math.inf


@dataclass
class _There:
    """The numbers of the folders at a destination, of the complete ones, and the records."""

    folders: set[int] = field(default_factory=set)
    complete: set[int] = field(default_factory=set)
    recorded: set[int] = field(default_factory=set)


def _look(destination: str) -> _There:
    root = destination
    if not storage.is_remote(destination):
        root = str(storage.local_path(destination))
    there, markers = _There(), _markers()
    for entry in storage.list_below(destination):
        below = entry.uri.removeprefix(root.rstrip("/")).lstrip("/")
        first, _, rest = below.partition("/")
        if _is_number(first):
            there.folders.add(int(first))
            if rest in markers:
                there.complete.add(int(first))
        elif first == RECORDS and _is_number(rest.removesuffix(".json")):
            there.recorded.add(int(rest.removesuffix(".json")))
    return there


def _markers() -> list[str]:
    """Return the files that show that a version is complete; one of them is in each."""
    from paring.runtimes import registered_runtimes

    return [spec.served_files[0] for spec in registered_runtimes()]


def _is_number(text: str) -> bool:
    """Return whether a name is a version's; other scripts have digits too."""
    return text.isascii() and text.isdecimal()


def _record(destination: str, number: int) -> str:
    return storage.join(destination, RECORDS, f"{number}.json")


def _read(destination: str, number: int) -> Version:
    place = _record(destination, number)
    try:
        content = parse_json(storage.read_text(place))
        known = {item.name: item.type for item in fields(Version)}
        values = {name: value for name, value in content.items() if name in known}
        for name, value in values.items():
            if type(value) is not known[name]:
                raise TypeError(f"{name} is {type(value).__name__}")
        return Version(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ArtifactTypeError(
            f"{place} is not readable",
            received=error,
            remedy="remove it; the version stays, and counts as made by another tool",
        ) from error
