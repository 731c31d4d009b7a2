"""Files and folders at plain paths, file://, gs:// and s3://.

A mounted volume of Kubernetes (PVC) is a plain path. minio:// is S3, as Kubeflow
writes it. Stores are reached through fsspec with s3fs and gcsfs, which are imported
when a URI of theirs comes up. Credentials and addresses come from the environment
alone, as those two and the SDKs below them read it: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL for a store other than
Amazon's, GOOGLE_APPLICATION_CREDENTIALS, STORAGE_EMULATOR_HOST.

An object store has no folders: what lies below `URI/` is the folder `URI`, and an
empty one is nothing.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paring.errors import ParameterError, StorageError
from paring.storage.local import (
    create_locally,
    files_on_disk,
    local_path,
    replace,
    unwritable,
    written_beside,
)
from paring.storage.stores import (
    asked,
    below,
    check_bucket,
    check_size,
    create_in_store,
    explained,
    files_below,
    filesystem,
    is_remote,
    key_of,
)
from paring.system.trees import copy_tree, tree_files

__all__ = [
    "Entry",
    "check_bucket",
    "create",
    "delete",
    "exists",
    "fetch",
    "filesystem",
    "is_remote",
    "join",
    "list_below",
    "local_path",
    "move",
    "name_of",
    "put",
    "read_text",
    "replace",
    "write_text",
    "written_beside",
]


@dataclass(frozen=True)
class Entry:
    """A file below a URI.

    Attributes:
        uri: Where it lies, as `fetch` and `read_text` take it.
        size: In bytes.
        modified: When it was last written, in seconds since 1970; None if unknown.
        tag: Changes with the content, in stores that have such a thing; else "".
    """

    uri: str
    size: int
    modified: float | None
    tag: str = ""


def join(uri: str, *names: str) -> str:
    """Join a URI and the names of folders and files below it."""
    return "/".join((uri.rstrip("/"), *names))


def name_of(uri: str) -> str:
    """Return the last part of a path or URI."""
    return uri.rstrip("/").rpartition("/")[2]


def exists(uri: str) -> bool:
    """Return whether there is a file, or a folder that is not empty, at `uri`.

    Raises:
        StorageError: The store can't be reached.
    """
    if not is_remote(uri):
        return local_path(uri).exists()
    with asked(uri) as (store, key):
        return bool(store.exists(key))


def list_below(uri: str) -> Iterator[Entry]:
    """Yield the files at or below `uri`, sorted; none if there is nothing.

    Others may write there meanwhile: what goes away while it is looked at is not listed.

    Raises:
        StorageError: The place can't be read, or there is no such bucket.
    """
    if not is_remote(uri):
        for file, size, modified in files_on_disk(local_path(uri)):
            yield Entry(file, size, modified)
        return
    with asked(uri) as (store, key):
        result = files_below(store, key)
    scheme = uri.partition("://")[0]
    for name, facts in result.items():
        modified = facts.get("LastModified") or facts.get("mtime")
        yield Entry(
            f"{scheme}://{name}",
            facts["size"],
            modified.timestamp() if modified else None,
            str(facts.get("ETag") or facts.get("etag") or ""),
        )


def read_text(uri: str, *, errors: Literal["strict", "replace"] = "strict") -> str:
    """Return the text of a small file.

    Args:
        uri: Where it lies.
        errors: Whether bytes that are no UTF-8 are an error or are replaced.

    Raises:
        StorageError: It is not there, can't be read, or is not UTF-8.
    """
    if is_remote(uri):
        with asked(uri) as (store, key):
            content: bytes = store.cat_file(key)
    else:
        try:
            content = local_path(uri).read_bytes()
        except OSError as error:
            raise explained(uri, error) from error
    try:
        return content.decode("utf-8", errors=errors)
    except UnicodeDecodeError as error:
        raise StorageError(
            "this file is no text in UTF-8",
            received=f"{uri} ({error.reason} at byte {error.start})",
            remedy="delete it, or write it again in UTF-8",
        ) from error


def write_text(uri: str, text: str) -> None:
    """Write a small file whole: a reader sees the old text or the new one.

    Raises:
        OutputError, StorageError: It can't be written.
    """
    if is_remote(uri):
        with asked(uri) as (store, key):
            store.pipe_file(key, text.encode("utf-8"))
        return
    with written_beside(local_path(uri)) as staged:
        staged.write_text(text, encoding="utf-8")
        staged.replace(local_path(uri))


def create(uri: str, text: str) -> bool:
    """Write a small file unless there is one, of several writers for one alone.

    On S3 by a PUT with `If-None-Match: *`, on Google Cloud Storage with
    `ifGenerationMatch=0`, locally by a hard link or, where there are none, a rename that
    replaces nothing. In all of them a reader sees the whole text or no file. A store that
    ignores the condition is found out: the first object that is created in a bucket is put
    there twice, and must be refused once.

    The answer to a request may be lost and the request repeated, which then finds what
    itself made: a writer that must know writes text that is its own, and reads it back
    on False.

    Returns:
        Whether this call wrote it; False if it was there.

    Raises:
        UnsupportedError: The store ignores the condition, or the file system has neither
            of the two; no caller got True.
        OutputError, StorageError: It can't be written.
    """
    if is_remote(uri):
        return create_in_store(uri, text)
    return create_locally(local_path(uri), text)


def delete(uri: str) -> None:
    """Remove a file, or a folder with all below it; nothing if there is nothing.

    Raises:
        ParameterError: It is a whole bucket.
        OutputError, StorageError: It can't be removed.
    """
    if not is_remote(uri):
        path = local_path(uri)
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from error
        return
    with asked(uri) as (store, key):
        if "/" not in key:
            raise ParameterError("a whole bucket is not removed", received=uri)
        # By name, one after another: names given to rm() are taken for patterns.
        for name in files_below(store, key):
            store.rm_file(name)


def move(source: str, target: str, *, last: str = "") -> None:
    """Move a folder to a free place in the same store, or on the same disk.

    Locally that is a rename. In a store each file is copied, without passing through
    this machine, and then those of `source` are removed.

    Args:
        source: The folder.
        target: Where it shall be; there must be nothing.
        last: The name below it of the file that is copied when all others are there,
            for readers who take it for the sign that the folder is complete.

    Raises:
        OutputError, StorageError: It can't be read or written, or is not free.
    """
    if not is_remote(source):
        try:
            local_path(source).rename(local_path(target))
        except OSError as error:
            raise unwritable(local_path(target), error) from error
        return
    with asked(source) as (store, key):
        names = list(files_below(store, key))
        names.sort(key=lambda name: name == f"{key}/{last}")
        for name in names:
            store.cp_file(name, f"{key_of(target)}/{name.removeprefix(f'{key}/')}")
        for name in names:
            store.rm_file(name)


def fetch(uri: str, into: Path) -> Path:
    """Download the file or folder `uri` to this machine.

    It is written beside its place, checked by the size of each file, and renamed.

    Args:
        uri: Where it lies.
        into: The folder that gets it, under the URI's last name.

    Returns:
        Where it lies now; a local path is returned as it is, and not looked at.

    Raises:
        StorageError: It is not there, can't be read, or changed meanwhile.
        OutputError: `into` can't be written.
    """
    if not is_remote(uri):
        return local_path(uri)
    target = into / name_of(uri)
    with written_beside(target) as staged:
        with asked(uri) as (store, key):
            result = files_below(store, key)
            if not result:
                raise FileNotFoundError(uri)
            places = [staged / below(uri, key, name) for name in result]
            store.get(list(result), [str(place) for place in places])
        for (name, facts), place in zip(result.items(), places, strict=True):
            check_size(f"{uri} ({name})", facts["size"], place.stat().st_size)
        replace(staged, target)
    return target


def put(path: Path, uri: str) -> None:
    """Put a file or folder at `uri`, in the place of what is there.

    Locally it is written beside and renamed. In a store each file is replaced whole, and
    what is no longer there is removed at the end; a reader may meanwhile see some of the
    new files beside some of the old ones.

    Raises:
        OutputError, StorageError: It can't be written, or has not come through whole.
    """
    if not is_remote(uri):
        target = local_path(uri)
        with written_beside(target) as staged:
            if path.is_dir():
                copy_tree(path, staged, StorageError)
            else:
                shutil.copyfile(path, staged)
            replace(staged, target)
        return
    files = [path] if path.is_file() else [item for _, item in tree_files(path, StorageError)]
    with asked(uri) as (store, key):
        sizes = {
            key if file == path else f"{key}/{file.relative_to(path).as_posix()}": (
                file.stat().st_size
            )
            for file in files
        }
        store.put([str(file) for file in files], list(sizes))
        result = files_below(store, key)
        for name, size in sizes.items():
            answer = result[name]["size"] if name in result else store.info(name)["size"]
            check_size(f"{uri} ({name})", size, answer)
        for name in result:
            if name not in sizes:
                store.rm_file(name)
