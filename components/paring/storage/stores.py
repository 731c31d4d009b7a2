"""Object stores, through fsspec, and their errors."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from paring.errors import (
    MissingDependencyError,
    ParameterError,
    StorageError,
    UnsupportedError,
    nearest,
)

_PROTOCOLS = {"s3": "s3", "minio": "s3", "gs": "gs"}
_PACKAGES = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gcs")}
_ENVIRONMENT = ("AWS_", "GOOGLE_", "STORAGE_EMULATOR_")

_REMEDIES = {
    "s3": "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and for a store other"
    " than Amazon's AWS_ENDPOINT_URL; or give the pod's service account a role",
    "gs": "check GOOGLE_APPLICATION_CREDENTIALS, or give the pod's service account a role",
}


def is_remote(uri: str) -> bool:
    """Return whether `uri` is in an object store, not on this machine.

    Raises:
        ParameterError: The URI has a scheme that Paring does not know.
    """
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme == "file":
        return False
    if scheme not in _PROTOCOLS:
        raise ParameterError(
            "no store of this kind is known",
            received=uri,
            remedy=f"{nearest(scheme, (*_PROTOCOLS, 'file'))}; or give a plain path",
        )
    return True


def filesystem(uri: str) -> Any:
    """Return the fsspec file system of a remote URI.

    Raises:
        MissingDependencyError: The package for it is not installed.
        ParameterError: The URI is of no known kind.
    """
    if not is_remote(uri):
        raise ParameterError("this URI is in no object store", received=uri)
    # One for each environment, since it keeps the address and credentials it found there.
    environment = {
        name: value for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)
    }
    return _open(_protocol(uri), tuple(sorted(environment.items())))


@cache
def _open(protocol: str, environment: tuple[tuple[str, str], ...]) -> Any:
    import fsspec

    package, extra = _PACKAGES[protocol]
    try:
        # Others write to the same stores: nothing that was listed is kept.
        return fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False)
    except ImportError as error:
        raise MissingDependencyError(
            f"{protocol}:// needs the package {package}",
            received=error,
            remedy=f"pip install 'paring[{extra}]'",
        ) from error


_CREATE_TRIES = 5

_refusing: set[tuple[Any, str]] = set()
"""Stores with their buckets that were seen to refuse an object that is there."""


def create_in_store(uri: str, text: str) -> bool:
    """See `paring.storage.create`."""
    with asked(uri) as (store, key):
        refuses = (store, key.partition("/")[0])
        created = _create(store, key, text)
        if created and refuses not in _refusing and _create(store, key, text):
            raise UnsupportedError(
                "this store ignores conditional writes, and overwrites existing objects",
                received=uri,
                remedy="use a store or a release of it that has conditional writes",
            )
        _refusing.add(refuses)
        return created


def _create(store: Any, key: str, text: str) -> bool:
    for _ in range(_CREATE_TRIES - 1):
        try:
            return _create_once(store, key, text)
        except OSError as error:
            # S3 answers so where two writers come at once, and asks for another try.
            if _error_code(error) not in ("ConditionalRequestConflict", "409"):
                raise
    return _create_once(store, key, text)


def _create_once(store: Any, key: str, text: str) -> bool:
    try:
        store.pipe_file(key, text.encode("utf-8"), mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        # Not every store says which condition it was.
        if _error_code(error) in ("PreconditionFailed", "412"):
            return False
        raise
    return True


def _protocol(uri: str) -> str:
    return _PROTOCOLS[uri.partition("://")[0]]


def key_of(uri: str) -> str:
    """Return the bucket and key, as fsspec takes them."""
    key = uri.partition("://")[2].rstrip("/")
    if not key.partition("/")[0]:
        raise ParameterError("this URI names no bucket", received=uri)
    return key


def files_below(store: Any, key: str) -> dict[str, Any]:
    """Return fsspec's description of each file at or below `key`, sorted by name."""
    result = store.find(key, detail=True)
    # Some tools mark a folder with an empty object whose name ends in a slash.
    return {
        name: facts
        for name, facts in sorted(result.items())
        if facts["type"] == "file" and not facts["name"].endswith("/")
    }


def below(uri: str, key: str, name: str) -> Path:
    """Return the path of an object below its folder, which its name can't lead out of."""
    parts = name.removeprefix(key).lstrip("/").split("/")
    if parts == [""]:
        return Path()
    if any(part in ("", ".", "..") for part in parts):
        raise StorageError(
            f"{uri} holds an object whose name is no path", received=name, remedy="rename it"
        )
    return Path(*parts)


def check_bucket(what: str, uri: str) -> None:
    """Refuse the URI of a store without a bucket; a path is let pass.

    Args:
        what: The option that names it, for the error.
        uri: A URI or path; "" for none.

    Raises:
        ParameterError: It has no bucket, or a scheme that Paring does not know.
    """
    try:
        remote = is_remote(uri)
    except ParameterError as error:
        raise ParameterError(
            f"{what}: {error.what}", received=error.received, remedy=error.remedy
        ) from error
    if remote and not uri.partition("://")[2].partition("/")[0]:
        raise ParameterError(
            f"{what}: a bucket is missing",
            received=uri,
            remedy=f"write {uri.partition('://')[0]}://BUCKET/FOLDER",
        )


def check_size(what: str, expected: int, result: int) -> None:
    """Refuse a file that is not as long as it was where it came from."""
    if expected != result:
        raise StorageError(
            f"{what} was not transferred completely",
            received=f"{result} bytes of {expected}",
            remedy="try again; something else may have written there meanwhile",
        )


@contextmanager
def asked(uri: str) -> Iterator[tuple[Any, str]]:
    """Yield the store of `uri` and its key there; what the store says comes as StorageError."""
    key = key_of(uri)
    store = filesystem(uri)
    try:
        yield store, key
    except _failures(_protocol(uri)) as error:
        raise explained(uri, error) from error


def _failures(protocol: str) -> tuple[type[BaseException], ...]:
    """Return the errors that a store's library raises when a request fails."""
    if protocol == "s3":
        from botocore.exceptions import BotoCoreError, ClientError

        return OSError, BotoCoreError, ClientError
    from aiohttp import ClientError as AioHttpError
    from gcsfs.retry import ChecksumError, HttpError
    from google.auth.exceptions import GoogleAuthError

    # A ValueError is an answer that a request was bad.
    return OSError, HttpError, ChecksumError, GoogleAuthError, AioHttpError, ValueError


def _error_code(error: BaseException) -> str:
    """Return the error's code in S3, or its HTTP status; "" where it has none."""
    response = getattr(error.__cause__, "response", None)
    result = response.get("Error", {}).get("Code", "") if isinstance(response, dict) else ""
    return str(result or getattr(error, "code", "") or "")


def explained(uri: str, error: BaseException) -> StorageError:
    """Return a library's error as an error that names the URI."""
    result = f"{type(error).__name__}: {error}"
    if isinstance(error, FileNotFoundError):
        bucket = uri.partition("://")[2].partition("/")[0]
        # Google's API says of all alike that it is not found; of a bucket by its path.
        if _error_code(error) == "NoSuchBucket" or str(error).endswith(f"b/{bucket}/o"):
            return StorageError(
                f"{uri}: there is no bucket {bucket}", remedy="create it, or name another"
            )
        return StorageError("there is nothing at this place", received=uri)
    remedy = _REMEDIES[_protocol(uri)] if is_remote(uri) else "check the path and its permissions"
    return StorageError(f"{uri} can't be reached", received=result, remedy=remedy)
