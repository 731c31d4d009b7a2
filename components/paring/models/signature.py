"""Signatures of SavedModels, and the errors of loading one."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from paring.errors import ModelError, first_line
from paring.models.plain_paths import plain_path


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

    @property
    def is_numeric(self) -> bool:
        """True if arrays of numbers can be given for it."""
        try:
            return np.dtype(self.dtype).kind in "biuf"
        except TypeError:
            return False

    def __str__(self) -> str:
        """Return its name, type and shape."""
        dtype = "string" if self.dtype == "object" else self.dtype
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {dtype} [{sizes}]"


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a SavedModel's function, sorted by key.

    Attributes:
        inputs, outputs: Tensors by key.
        key: Name of the signature; "" if it is none of a SavedModel.
        listed: A description of each signature of the SavedModel.
        usable: Names of those that take numbers alone.
    """

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    key: str = field(default="", compare=False)
    listed: tuple[str, ...] = field(default=(), compare=False, repr=False)
    usable: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def takes_numbers(self) -> bool:
        """True if it can be called with arrays of numbers alone."""
        return bool(self.inputs) and all(spec.is_numeric for spec in self.inputs.values())

    def __str__(self) -> str:
        """Return the tensors with their types and shapes."""
        given, made = (", ".join(map(str, specs.values())) for specs in (self.inputs, self.outputs))
        return f"({given}) -> ({made})"

    def beside(self, received: str) -> str:
        """Return what was received of this signature, and the signatures that there are."""
        return "; ".join((received, *self.listed))

    def advice(self, export: str) -> str:
        """Return what to do where this signature can't be used.

        Args:
            export: The remedy where no other signature would do.
        """
        return choose_signature(self.usable) if self.usable else export


def choose_signature(usable: tuple[str, ...]) -> str:
    """Return the remedy that names the signatures which would do; at least one."""
    options = " or ".join(f"--signature {shlex.quote(name)}" for name in usable)
    return f"give {options}, where that is what the model is served for"


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
