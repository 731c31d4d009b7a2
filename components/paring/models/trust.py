"""Check of a Keras model's configuration before any library loads it.

Loading a Keras model calls whatever class or function its configuration names, on
arguments that the configuration holds. So the configuration is read as plain JSON first,
and everything that it names must be on the lists of `paring.models.allowed`, unless the
user trusts the model.
"""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paring.errors import ModelError, UntrustedModelError, first_line
from paring.models.allowed import (
    ATTRIBUTES,
    CLASSES,
    FUNCTIONS,
    OPERATORS,
    RAGGED_METHODS,
    REGISTERED,
    SYMBOLS,
)
from paring.models.hdf5 import broken_file, inspect_hdf5
from paring.models.quiet import quiet_tensorflow
from paring.system.archives import describe_excess

_PACKAGES = frozenset({"builtins", "keras", "tf_keras", "tensorflow_model_optimization"})
# Where TensorFlow's own functions come from, given as an activation, and its initializers.
_FUNCTION_MODULES = "tensorflow.python.ops."
_INITIALIZER_MODULES = "tensorflow.python.ops.init_ops"
# Losses, metrics and optimizers of the outermost model: models are loaded without them.
# Those of a model inside it are loaded.
_NOT_LOADED = frozenset({"compile_config", "training_config"})
# What the libraries turn into values by themselves.
_VALUES = frozenset(
    {
        "__bytes__",
        "__ellipsis__",
        "__keras_tensor__",
        "__numpy__",
        "__slice__",
        "__tensor__",
        "__tuple__",
        "CompositeTensor",
        "TensorShape",
    }
)
_TYPE_SPECS = frozenset({"TensorSpec", "RaggedTensorSpec", "SparseTensorSpec"})
_LOOKUPS = frozenset({"IndexLookup", "IntegerLookup", "StringLookup", "TextVectorization"})
_MAX_CONFIG_BYTES = 256 << 20
# Of an archive: metadata.json, config.json and the weights.
_USUAL_MEMBERS = 3
# PrintV2 writes into the file that an attribute names. In a graph the stream is looked at, and
# no layer needs it.
_LAYER_OPERATORS = OPERATORS - {"PrintV2"}


@dataclass(frozen=True)
class Contents:
    """The configurations inside a Keras model, read as plain JSON.

    Attributes:
        configs: Of the model; of each part, where it is a SavedModel.
        is_keras_3: Whether Keras 3 wrote it, rather than tf_keras.
    """

    configs: list[Any]
    is_keras_3: bool


@dataclass(frozen=True)
class _Finding:
    """Something that a configuration names and that no list holds.

    Attributes:
        text: A description, with the layer's name.
        is_class: A class whose module is not named, which only a class that is already
            registered in this process can stand for.
    """

    text: str
    is_class: bool = False


def read_contents(source: Path) -> Contents:
    """Read the configurations in a `.keras` or `.h5` file, or in a SavedModel of tf_keras.

    Raises:
        ModelError: The file is broken.
    """
    if source.is_dir():
        return Contents(list(_saved_model_configs(source / "keras_metadata.pb")), False)
    if source.suffix != ".keras" and source.suffix.lower() == ".keras":
        raise ModelError(
            f"{source}: Keras reads an archive only if its name ends with .keras",
            received=source.suffix,
            remedy=f"rename it to {source.stem}.keras",
        )
    config, version = _read_zip(source) if is_keras_zip(source) else _read_h5(source)
    return Contents([config], version.startswith("3"))


def is_keras_zip(file: Path) -> bool:
    """Return whether both libraries would read `file` as a zip archive.

    It must be their own rule: a file can be a zip archive and HDF5 at once, and the one
    that is checked must be the one that is loaded.
    """
    return file.name.endswith(".keras") and zipfile.is_zipfile(file)


def refuse_code(source: Path, configs: list[Any]) -> None:
    """Raise if loading the model would run anything but Keras's own layers.

    A SavedModel's classes that are not Keras's are let pass: Keras looks them up among
    its own alone, and puts a stand-in for the graph that the file holds in their place.

    Raises:
        UntrustedModelError: It has Lambda layers, reads other files, or names classes or
            functions that are not on the lists.
    """
    result = {
        finding.text
        for config in configs
        for finding in _findings(config)
        if not (finding.is_class and source.is_dir())
    }
    if not source.is_dir():
        result |= set(_foreign_weights(source))
    if result:
        raise UntrustedModelError(
            f"{source} contains code of its own, or names code that is not known to be harmless",
            received="; ".join(sorted(result)[:5]),
            remedy="give --trust-model if you know where the model comes from, or export"
            " it as a SavedModel without Keras metadata (model.export(DIR))",
        )


def embedded_code(configs: list[Any]) -> list[str]:
    """Describe the Lambda layers, and the classes and functions that are on no list."""
    return sorted({finding.text for config in configs for finding in _findings(config)})


def names_optimization_classes(configs: list[Any]) -> bool:
    """Return whether a class of tensorflow-model-optimization must be known to load it."""
    text = repr(configs)
    return "QuantizeWrapper" in text or "QuantizeLayer" in text or "QuantizeAnnotate" in text


def own_classes(configs: list[Any]) -> list[str]:
    """List the classes and functions registered with Keras by users, as `package>name`."""
    return sorted(set(_registered(configs)))


def _registered(config: Any) -> Iterator[str]:
    for value, _, _ in _walk(config):
        name = value.get("registered_name")
        if isinstance(name, str) and ">" in name:
            yield name


def _walk(config: Any) -> Iterator[tuple[dict[str, Any], str, bool]]:
    """Yield each dictionary of a configuration, the name of its layer, and if it is the first.

    Without recursion: a configuration may be nested more deeply than Python calls can be.
    """
    pending: list[tuple[Any, str, bool]] = [(config, "the model", True)]
    while pending:
        value, owner, first = pending.pop()
        if isinstance(value, (list, tuple)):
            pending += [(item, owner, False) for item in value]
        elif isinstance(value, dict):
            inner = value.get("config")
            name = inner.get("name") if isinstance(inner, dict) else None
            owner = name if isinstance(name, str) else owner
            yield value, owner, first
            pending += [
                (item, owner, False)
                for key, item in value.items()
                if not (first and key in _NOT_LOADED)
            ]


def _findings(config: Any) -> Iterator[_Finding]:
    for value, owner, _ in _walk(config):
        if value.get("function_type") == "lambda":
            yield _Finding(f"a Lambda layer ({owner})")
        if "class_name" in value:
            yield from _object_findings(value, owner)
        for key, item in value.items():
            if not (str(key).endswith("activation") and isinstance(item, str)):
                continue
            if item not in FUNCTIONS and item not in CLASSES:
                yield _Finding(f"activation {item} ({owner})")


def _object_findings(value: dict[str, Any], owner: str) -> Iterator[_Finding]:
    """Yield findings in what the libraries make an object of: a dictionary with a class name."""
    kind, module = value["class_name"], value.get("module")
    if kind in ("Lambda", "__lambda__"):
        yield _Finding(f"a Lambda layer ({owner})")
        return
    if not isinstance(kind, str):
        yield _Finding(f"a class name that is no text ({owner})")
        return
    if kind in _VALUES:
        return
    if kind in ("TypeSpec", "__typespec__"):
        if not _is_type_spec(value):
            yield _Finding(f"a type specification {value.get('spec_name')} ({owner})")
        return
    is_function = kind == "function"
    name = value.get("config") if is_function else kind
    if not _is_known_module(module, is_function=is_function):
        yield _Finding(f"{name} from module {module} ({owner})")
    registered = value.get("registered_name")
    if is_function:
        known = isinstance(name, str) and name in FUNCTIONS and registered in (None, "", name)
    elif ">" in kind:
        known = kind in REGISTERED
    else:
        known = kind in CLASSES or kind in _CALLS
        known &= registered in (None, "", kind) or (
            registered in REGISTERED and registered == f"Custom>{kind}"
        )
    if not known:
        shown = registered if isinstance(registered, str) and registered else name
        yield _Finding(
            f"{'function' if is_function else 'class'} {shown} ({owner})",
            is_class=module is None and not is_function,
        )
    inner = value.get("config")
    inner = inner if isinstance(inner, dict) else {}
    if kind in _LOOKUPS and isinstance(inner.get("vocabulary"), str):
        yield _Finding(f"the file {inner['vocabulary']}, which {kind} reads ({owner})")
    if kind in _CALLS:
        called = _CALLS[kind](inner)
        if called is not None:
            yield _Finding(f"a call of {called} ({owner})")


def _is_known_module(module: object, *, is_function: bool) -> bool:
    if module is None:
        return True
    if not isinstance(module, str):
        return False
    if module.startswith(_FUNCTION_MODULES if is_function else _INITIALIZER_MODULES):
        return True
    return module.split(".")[0] in _PACKAGES


def _is_type_spec(value: dict[str, Any]) -> bool:
    if value["class_name"] == "TypeSpec":
        return str(value.get("type_spec")).removeprefix("tf.") in _TYPE_SPECS
    module = value.get("module")
    return (
        value.get("spec_name") in _TYPE_SPECS
        and isinstance(module, str)
        and module.startswith(("tensorflow.python.", "tf.", "tensorflow."))
        and value.get("registered_name") in (None, "", value.get("spec_name"))
    )


def _called_symbol(config: dict[str, Any]) -> str | None:
    """Return the symbol that a TFOpLambda calls, if it is on no list."""
    symbol = config.get("function")
    if not isinstance(symbol, str):
        return "something that is no name"
    plain = symbol.removeprefix("compat.v1.")
    if symbol in SYMBOLS or plain in SYMBOLS:
        return None
    space, _, operator = plain.rpartition(".")
    if space == "raw_ops" and operator in _LAYER_OPERATORS:
        return None
    return symbol


def _called_method(config: dict[str, Any]) -> str | None:
    owner, method = config.get("cls_symbol"), config.get("method_name")
    if owner == "RaggedTensor" and method in RAGGED_METHODS:
        return None
    return f"{owner}.{method}"


def _called_attribute(config: dict[str, Any]) -> str | None:
    name = config.get("attr_name")
    return None if isinstance(name, str) and name in ATTRIBUTES else f"attribute {name}"


def _called_operator(config: dict[str, Any]) -> str | None:
    """Return the operator of a layer of TensorFlow 2.0 to 2.3, if it is on no list."""
    node = config.get("node_def")
    if isinstance(node, str):
        node = _parsed_node(node)
    if not isinstance(node, dict):
        return "an operator that can't be read"
    operator = node.get("op")
    calls = any("func" in str(attribute) for attribute in node.get("attr", {}).values())
    if isinstance(operator, str) and operator in _LAYER_OPERATORS and not calls:
        return None
    return f"operator {operator}"


def _parsed_node(text: str) -> Any:
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import DecodeError
    from tensorflow.core.framework import node_def_pb2

    node = node_def_pb2.NodeDef()
    try:
        node.ParseFromString(text.encode())
    except (DecodeError, UnicodeEncodeError):
        return None
    return MessageToDict(node)


# Layers that call what their configuration names.
_CALLS = {
    "TFOpLambda": _called_symbol,
    "SlicingOpLambda": _called_symbol,
    "ClassMethod": _called_method,
    "InstanceMethod": _called_attribute,
    "InstanceProperty": _called_attribute,
    "TensorFlowOpLayer": _called_operator,
}


def _foreign_weights(source: Path) -> tuple[str, ...]:
    """Return the weights that links inside of an HDF5 file read from files other than `source`."""
    if not is_keras_zip(source):
        return inspect_hdf5(source).foreign
    with _broken_if_unreadable(source), zipfile.ZipFile(source) as archive:
        held = archive.namelist()
    name = "model.weights.h5"
    return inspect_hdf5(source, name).foreign if name in held else ()


def _read_zip(file: Path) -> tuple[Any, str]:
    """Return the configuration, and the version of Keras that wrote it."""
    with _broken_if_unreadable(file), zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        temporary = Path(tempfile.gettempdir())
        # What else there is, such as vocabularies, tf_keras unpacks with all the rest.
        excess = (
            describe_excess(file, members, temporary) if len(members) > _USUAL_MEMBERS else None
        )
        if excess is not None:
            raise ModelError(
                f"{file}: its members take more than can be unpacked",
                received=excess,
                remedy="save the model again, or free disk space for temporary files",
            )
        metadata = _parse(archive.read(_checked_member(archive, "metadata.json")), file)
        config = _parse(archive.read(_checked_member(archive, "config.json")), file)
        version = metadata.get("keras_version", "") if isinstance(metadata, dict) else ""
    return config, str(version)


def _checked_member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    info = archive.getinfo(name)
    if info.file_size > _MAX_CONFIG_BYTES:
        raise ValueError(f"{name} would take {info.file_size} bytes")
    return info


def _read_h5(file: Path) -> tuple[Any, str]:
    stored = inspect_hdf5(file)
    if stored.config is None:
        raise ModelError(
            f"{file} holds weights but no model",
            remedy="save the whole model with model.save(FILE), not save_weights",
        )
    return _parse(stored.config, file), stored.version


def _parse(text: str | bytes, file: Path) -> Any:
    """Parse JSON; text that is too deeply nested or no JSON is a broken file."""
    with _broken_if_unreadable(file):
        return json.loads(text)


def _saved_model_configs(file: Path) -> Iterator[Any]:
    quiet_tensorflow()
    from tf_keras.protobuf import saved_metadata_pb2

    metadata = saved_metadata_pb2.SavedMetadata()
    with _broken_if_unreadable(file):
        metadata.ParseFromString(file.read_bytes())
    for node in metadata.nodes:
        if node.metadata:
            yield _parse(node.metadata, file)


@contextmanager
def _broken_if_unreadable(file: Path) -> Iterator[None]:
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        # zipfile, zlib and protobuf raise some twenty classes for broken bytes.
        raise broken_file(file, first_line(error)) from error
