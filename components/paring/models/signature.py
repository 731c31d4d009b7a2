"""Signature of a SavedModel, read from its file without loading it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paring.errors import ModelError, first_line, nearest
from paring.models.plain_paths import plain_path
from paring.models.quiet import quiet_tensorflow

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


def read_signature(saved_model_dir: Path, key: str = SERVING_KEY) -> Signature:
    """Return the signature `key` of the SavedModel in `saved_model_dir`.

    Raises:
        ModelError: There is no saved_model.pb, it can't be read, or it has no
            such signature.
    """
    graph = read_meta_graph(saved_model_dir)
    if key not in graph.signature_def or not graph.signature_def[key].inputs:
        known = [name for name in graph.signature_def if not name.startswith("__")]
        raise ModelError(
            f"{saved_model_dir} has no signature {key!r} with inputs",
            received=f"signatures {', '.join(sorted(known)) or 'none'}",
            remedy="export the model with a signature named "
            f"{key}, as tf_keras' model.save(DIR) and model.export(DIR) do"
            + (f" ({nearest(key, known)})" if known else ""),
        )
    definition = graph.signature_def[key]
    return Signature(_specs(definition.inputs), _specs(definition.outputs))


def read_meta_graph(saved_model_dir: Path) -> Any:
    """Return the MetaGraphDef (protocol buffer) for serving.

    Raises:
        ModelError: saved_model.pb is missing, cut off, or holds no graph.
    """
    quiet_tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    file = saved_model_dir / "saved_model.pb"
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(
            f"{file} can't be read",
            received=error.strerror or error,
            remedy="give the folder of a SavedModel, the one that holds saved_model.pb",
        ) from error
    saved = saved_model_pb2.SavedModel()
    try:
        saved.ParseFromString(content)
    except DecodeError as error:
        raise ModelError(
            f"{file} is broken: it is no SavedModel, or was cut off",
            received=f"{len(content)} bytes",
            remedy="export or copy the model again",
        ) from error
    serving = [graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags]
    if not serving:
        tags = [" ".join(graph.meta_info_def.tags) for graph in saved.meta_graphs]
        raise ModelError(
            f"{file} holds no graph for serving",
            received=f"{len(content)} bytes, graphs tagged {tags}",
            remedy="export or copy the model again",
        )
    return serving[0]


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


def _specs(tensors: Any) -> dict[str, TensorSpec]:
    import tensorflow as tf

    specs: dict[str, TensorSpec] = {}
    for name in sorted(tensors):
        info = tensors[name]
        shape = tuple(None if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)
        dtype = tf.dtypes.as_dtype(info.dtype)
        specs[name] = TensorSpec(name, shape, "object" if dtype == tf.string else dtype.name)
    return specs
