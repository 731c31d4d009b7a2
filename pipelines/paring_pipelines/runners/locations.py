"""Locations of a run's sources and results, on this machine or in a store."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from paring import storage
from paring.artifacts import RECORD
from paring.errors import ExamplesError, ModelError, OutputError, ParameterError

RESULTS = ("selected", "report.html", "selection.json")
"""What a run leaves, the last one last: whoever sees it finds the others."""

DEFAULT_OUT = "out"


@dataclass(frozen=True)
class Destination:
    """Destination of the results of a run.

    Attributes:
        folder: On this machine, with the artifacts and the metadata of the run.
        uri: Where the results are put as well; "" for nowhere.
    """

    folder: Path
    uri: str = ""

    def check(self) -> None:
        """Refuse a place in a store that can't be asked, or is not Paring's.

        Raises:
            StorageError: The store can't be reached.
            OutputError: It holds files of the results' names that Paring did not write.
        """
        if not self.uri:
            return
        result = [item.uri.removeprefix(f"{self.uri}/") for item in storage.list_below(self.uri)]
        taken = [name for name in RESULTS if any(item.split("/")[0] == name for item in result)]
        if taken and f"selected/{RECORD}" not in result:
            raise OutputError(
                "--out: this place holds files that Paring did not write",
                received=f"{self.uri} ({', '.join(taken)})",
                remedy="give another place",
            )

    def publish(self, name: str) -> None:
        """Put one of the folder's files or folders into the store, if there is one."""
        if self.uri:
            storage.put(self.folder / name, storage.join(self.uri, name))

    def withdraw(self, name: str) -> None:
        """Remove a file that an earlier run put into the store, if there is one."""
        if self.uri:
            storage.delete(storage.join(self.uri, name))


def destination(out: str, work: Path | None) -> Destination:
    """Return the destination that --out and --work describe.

    Raises:
        ParameterError: There is a folder to work in beside one on this machine.
    """
    if storage.is_remote(out):
        return Destination(work or Path(DEFAULT_OUT), out.rstrip("/"))
    if work is not None:
        raise ParameterError(
            "--work: the results' own folder is worked in, unless it is in a store",
            received=f"--work {work} --out {out}",
            remedy="leave --work out, or give --out gs:// or s3://",
        )
    return Destination(storage.local_path(out))


@contextmanager
def fetched_for_now(model: str, examples: str) -> Iterator[tuple[Path, Path]]:
    """See `fetched`; what is in a store lies in a temporary folder meanwhile."""
    with TemporaryDirectory(prefix="paring-sources-") as folder:
        yield fetched(model, examples, Path(folder))


def fetched(model: str, examples: str, folder: Path) -> tuple[Path, Path]:
    """Return the paths of both sources; what is in a store is brought below `folder`.

    A copy lies there under the parts of its URI, so that lineage tells where it came
    from, and is taken again as long as the store lists the same files, each with the
    same size, time and tag.

    Raises:
        ModelError, ExamplesError: There is nothing at a URI.
        StorageError: It can't be read.
    """
    return (
        _fetched("--model", model, folder, ModelError),
        _fetched("--examples", examples, folder, ExamplesError),
    )


def _fetched(
    option: str, uri: str, folder: Path, error: type[ModelError] | type[ExamplesError]
) -> Path:
    if not storage.is_remote(uri):
        return storage.local_path(uri)
    entries = [list(astuple(item)) for item in storage.list_below(uri)]
    if not entries:
        raise error(
            f"{option}: there is nothing at this place",
            received=uri,
            remedy="check the bucket and the name; an object store holds no empty folders",
        )
    scheme, _, name = uri.rstrip("/").partition("://")
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ParameterError(
            f"{option}: this URI can't be taken", received=uri, remedy="write it without // or .."
        )
    into = folder.joinpath(scheme, *parts[:-1])
    # In a folder of its own, since it must not lie where objects are fetched to.
    listing = folder.joinpath("listings", scheme, *parts[:-1], f"{parts[-1]}.json")
    known = json.loads(listing.read_text()) if listing.is_file() else None
    place = into / parts[-1]
    if place.exists() and known == entries:
        return place
    # What an interruption leaves must not pass for what is listed next.
    listing.unlink(missing_ok=True)
    fetched_to = storage.fetch(uri, into)
    storage.write_text(str(listing), json.dumps(entries))
    return fetched_to
