"""Finished outputs of training below a prefix of a store or a path."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paring.errors import ParameterError
from paring.storage import Entry, is_remote, list_below, local_path, name_of
from paring_pipelines.kubeflow.sources import listing_digest

_SAVED_MODEL = "saved_model.pb"
_VERSION = re.compile(r"0|[1-9][0-9]*")


@dataclass(frozen=True)
class Output:
    """A finished output of training.

    Attributes:
        uri: Its folder.
        key: Names the folder and what lies in it, as hexadecimal digits.
        completed: When it was finished, in seconds since 1970.
    """

    uri: str
    key: str
    completed: float


@dataclass(frozen=True)
class Found:
    """Outputs found below a prefix.

    Attributes:
        finished: Finished outputs, in the order in which they were finished.
        unsettled: Folders that may still be written to.
    """

    finished: Sequence[Output]
    unsettled: Sequence[str]


def find_outputs(source: str, *, marker: str, settle: float, now: float) -> Found:
    """Return every finished output at or below `source`.

    With a marker, it is each folder that holds a file of that name, from the moment that
    this file is there. Without, it is each folder as TFX's Pusher and TF Serving have
    them: named by an integer without zeros before it, with a saved_model.pb in it. The
    Pusher copies one file after another and leaves no mark at the end, so nothing in the
    folder may have been written for `settle` seconds.

    Args:
        source: A path or URI.
        marker: The marker's name, "" for the Pusher's layout.
        settle: Seconds without a change.
        now: The time, in seconds since 1970.

    Raises:
        StorageError: The store can't be read.
        ParameterError: The store does not tell when files were written, or `source` is a
            file.
    """
    _check_folder(source)
    entries = list(list_below(source))
    folders: dict[str, list[Entry]] = {}
    for entry in entries:
        folder, _, name = entry.uri.rpartition("/")
        if name == marker or (not marker and name == _SAVED_MODEL and _is_version(folder)):
            folders[folder] = []
    for entry in entries:
        parent = entry.uri
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in folders:
                folders[parent].append(entry)
    finished: list[Output] = []
    unsettled: list[str] = []
    for folder, inside in folders.items():
        decisive = [item for item in inside if not marker or item.uri == f"{folder}/{marker}"]
        completed = _latest(folder, decisive)
        if not marker and now - completed < settle:
            unsettled.append(folder)
            continue
        key = listing_digest(folder, inside).removeprefix("sha256:")[:32]
        finished.append(Output(folder, key, completed))
    return Found(sorted(finished, key=lambda item: (item.completed, item.uri)), unsettled)


def _check_folder(source: str) -> None:
    """Refuse a file, below which nothing will ever be found."""
    if not is_remote(source) and local_path(source).exists() and not local_path(source).is_dir():
        raise ParameterError(
            "--source: this is a file",
            received=source,
            remedy="give the folder that training writes below",
        )


def _is_version(folder: str) -> bool:
    return _VERSION.fullmatch(name_of(folder)) is not None


def _latest(folder: str, entries: Iterable[Entry]) -> float:
    times = [entry.modified for entry in entries]
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        raise ParameterError(
            "--source: this store does not tell when files were written",
            received=folder,
            remedy="watch another place that the outputs are copied to",
        )
    return max(known)
