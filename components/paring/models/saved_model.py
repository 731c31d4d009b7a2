"""A SavedModel on disk: found, checked, and read once."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from paring.artifacts import DEFAULT_SIGNATURE, Servable
from paring.errors import ModelError, UntrustedModelError, first_line, nearest
from paring.models.library_types import MetaGraphDef
from paring.models.operators import ENGINE_NOTE, unlisted_operators
from paring.models.quiet import quiet_tensorflow
from paring.models.signature import Signature, TensorSpec, choose_signature
from paring.system.trees import describe_path, tree_files

# A larger graph, as of a model whose weights are constants, is read again each time, so that
# it does not take memory beside the model that TensorFlow loads.
_MAX_KEPT_BYTES: Final = 64 << 20
# The unlisted operators of the SavedModels that this process has checked, by file and state
# of the file: each round of a measurement opens its models again.
_MAX_KNOWN: Final = 32
_known_operators: dict[tuple[Any, ...], tuple[str, ...]] = {}


class SavedModel:
    """A SavedModel, whose saved_model.pb is read once.

    `open` is the way to one that a user may have brought: it is where such models are checked.
    The constructor is for folders that were opened so, or that Paring itself has written.

    Args:
        folder: The folder that holds saved_model.pb.
        key: Name of the signature that it is opened for.

    Attributes:
        folder, key: The same.
    """

    def __init__(self, folder: Path, key: str = DEFAULT_SIGNATURE) -> None:
        self.folder = folder
        self.key = key
        self._meta_graph: MetaGraphDef | None = None
        self._stamp: tuple[int, ...] = ()
        self._signatures: dict[str, Signature] = {}

    @classmethod
    def open(cls, model: Servable | Path) -> Self:
        """Find the SavedModel of an artifact, and check that it may be loaded.

        Args:
            model: An artifact, which states the signature too; a path is taken as one that is
                not trusted.

        Raises:
            ModelError: There is none, it is broken, or a link in it leads out of it; the
                message says what was found.
            UntrustedModelError: It has operators that may touch files, processes or the
                network, or engines of TensorRT's, and is not trusted.
        """
        artifact = Servable(model) if isinstance(model, Path) else model
        opened = cls(find_saved_model(artifact), artifact.signature)
        tree_files(opened.folder)
        if not artifact.trusted:
            opened.refuse_operators(engine_trusted=artifact.engine_trusted)
        return opened

    @property
    def file(self) -> Path:
        """Path of saved_model.pb."""
        return self.folder / "saved_model.pb"

    @property
    def meta_graph(self) -> MetaGraphDef:
        """MetaGraphDef (protocol buffer) for serving, which all readers share: copy, then change.

        Raises:
            ModelError: saved_model.pb is missing, cut off, or holds no graph.
        """
        if self._meta_graph is not None:
            return self._meta_graph
        # Taken before it is read: what another version held is no finding on this one.
        self._stamp = _stamp(self.file)
        read = _read_meta_graph(self.file)
        if read.ByteSize() <= _MAX_KEPT_BYTES:
            self._meta_graph = read
        return read

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of all signatures that a caller may use, sorted.

        Raises:
            ModelError: saved_model.pb can't be read.
        """
        return tuple(sorted(name for name in self.meta_graph.signature_def if _is_public(name)))

    def signature(self, key: str = "") -> Signature:
        """Return a signature.

        Args:
            key: Its name; "" for the one that the model was opened for.

        Raises:
            ModelError: saved_model.pb can't be read, or has no such signature with inputs; the
                message lists those that there are.
        """
        key = key or self.key
        if key not in self._signatures:
            self._signatures[key] = self._read_signature(key)
        return self._signatures[key]

    def refuse_operators(
        self, *, all_functions: bool = False, engine_trusted: bool = False
    ) -> None:
        """Raise if loading the model or calling its signatures may touch anything else.

        Args:
            all_functions: Look at the functions that no signature reaches too, as for Keras,
                whose layers call them; but for those of `adapt`, which are not called.
            engine_trusted: Whether TensorRT's engines may be in it.

        Raises:
            ModelError: It can't be read.
            UntrustedModelError: It reaches operators that are not on the list, files outside
                of its folder `assets`, or engines.
        """
        result = [
            operator
            for operator in self._unlisted_operators(all_functions)
            if not (engine_trusted and operator.endswith(ENGINE_NOTE))
        ]
        if result:
            raise UntrustedModelError(
                f"{self.folder} holds operators that may touch files, processes or the network,"
                " or that are not known to be harmless",
                received=", ".join(result[:8]),
                remedy="give --trust-model if you know where the model comes from, or export it"
                " without them",
            )

    def _unlisted_operators(self, all_functions: bool) -> tuple[str, ...]:
        stamp = _stamp(self.file) if self._meta_graph is None else self._stamp
        known = _known_operators.get((self.folder, all_functions, *stamp))
        if known is not None:
            return known
        meta_graph = self.meta_graph
        try:
            result = unlisted_operators(meta_graph, all_functions=all_functions)
        except (LookupError, TypeError, ValueError) as error:
            # Nodes without the inputs that their operators take.
            raise ModelError(
                f"{self.file} holds a graph that is broken",
                received=first_line(error),
                remedy="export or copy the model again",
            ) from error
        if len(_known_operators) >= _MAX_KNOWN:
            _known_operators.clear()
        _known_operators[(self.folder, all_functions, *self._stamp)] = result
        return result

    def _read_signature(self, key: str) -> Signature:
        definitions = {
            name: item for name, item in self.meta_graph.signature_def.items() if _is_public(name)
        }
        known = {
            name: Signature(_input_specs(item.inputs), _specs(item.outputs))
            for name, item in sorted(definitions.items())
        }
        listed = tuple(f"{name}{item}" for name, item in known.items())
        usable = tuple(name for name, item in known.items() if name != key and item.takes_numbers)
        if key not in known or not known[key].inputs:
            near = nearest(key, known) if known and key != DEFAULT_SIGNATURE else ""
            export = f"export the model with a signature named {key}, as tf_keras'"
            export += " model.save(DIR) and model.export(DIR) do"
            # Those that take text are cut at their numeric core when they are imported.
            others = usable or tuple(name for name, item in known.items() if item.inputs)
            remedy = choose_signature(others) if others else export
            raise ModelError(
                f"{self.folder} has no signature {key!r} with inputs",
                received=f"signatures {'; '.join(listed) or 'none'}",
                remedy=f"{remedy} ({near})" if near else remedy,
            )
        return replace(known[key], key=key, listed=listed, usable=usable)


def _is_public(key: str) -> bool:
    """Return whether a signature is one for callers; TensorFlow has others for loading."""
    return not key.startswith("__")


def find_saved_model(model: Servable) -> Path:
    """Return the folder of `model` that holds saved_model.pb, without looking into it.

    It is `Format-Serving/` in Paring's and TFX's layouts, else the folder itself.

    Raises:
        ModelError: There is none; the message says what was found.
    """
    for folder in (model.serving_dir, model.path):
        if holds_saved_model(folder):
            return folder
    raise ModelError(
        f"{model.path} holds no SavedModel",
        received=describe_path(model.path),
        remedy="give the folder that holds saved_model.pb, or import a Keras file with"
        " import_model",
    )


def holds_saved_model(folder: Path) -> bool:
    """Return whether a SavedModel lies right in the folder."""
    return (folder / "saved_model.pb").is_file()


def _stamp(file: Path) -> tuple[int, ...]:
    """Return what changes with the content of a file."""
    status = file.stat() if file.is_file() else None
    return (status.st_mtime_ns, status.st_size, status.st_ino) if status else ()


def _read_meta_graph(file: Path) -> MetaGraphDef:
    quiet_tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

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
    # Of several graphs, loaders take the one with the tags that they ask for and no others.
    return next((item for item in serving if set(item.meta_info_def.tags) == {"serve"}), serving[0])


def _input_specs(tensors: Any) -> dict[str, TensorSpec]:
    """Return the specs of inputs; sparse, ragged and other composite ones are of no NumPy type."""
    specs = _specs(tensors)
    kinds = {"coo_sparse": "sparse", "composite_tensor": "composite"}
    for name, spec in specs.items():
        if kind := kinds.get(tensors[name].WhichOneof("encoding")):
            specs[name] = replace(spec, dtype=f"{kind} {spec.dtype}")
    return specs


def _specs(tensors: Any) -> dict[str, TensorSpec]:
    import tensorflow as tf

    specs: dict[str, TensorSpec] = {}
    for name in sorted(tensors):
        info = tensors[name]
        shape = tuple(None if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)
        dtype = tf.dtypes.as_dtype(info.dtype)
        specs[name] = TensorSpec(name, shape, "object" if dtype == tf.string else dtype.name)
    return specs
