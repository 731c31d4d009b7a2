"""Signatures of SavedModels, and the errors of loading one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paring.errors import ModelError, first_line
from paring.models.plain_paths import plain_path

SERVING_KEY = "serving_default"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a signature.

    Attributes:
        name: Its key in the signature.
        shape: Its dimensions, None where one varies; () for a scalar, and
            also where not even the number of dimensions is known.
        dtype: NumPy's name of the type; "object" for TensorFlow strings.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a SavedModel's function, sorted by key."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]


@contextmanager
def loading_saved_model(folder: Path) -> Iterator[Path]:
    """Raise an error that names the SavedModel in `folder` if loading it fails.

    Yields:
        The path to load it from; see `paring.models.plain_paths`.

    Raises:
        ModelError: Loading it failed.
    """
    try:
        yield plain_path(folder)
    except Exception as error:
        # Depending on what is broken, TensorFlow raises OSError, ValueError, RuntimeError,
        # protobuf's DecodeError, an OpError or a KeyError.
        raise ModelError(
            f"{folder} can't be loaded as a SavedModel",
            received=first_line(error),
            remedy="export or copy the model again; the folder is incomplete or damaged",
        ) from error
