"""Find code inside a Keras model before anything of it is loaded.

A Keras config can hold Python bytecode (Lambda layers) or name any importable
module and attribute as a class, which loading then calls. So the config is
read as plain JSON first and refused unless the user trusts the model.
"""

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paring.errors import ModelError, UntrustedModelError, first_line

_KNOWN_PACKAGES = frozenset({"builtins", "keras", "tf_keras", "tensorflow_model_optimization"})
# Losses, metrics and optimizers: models are loaded without them.
_NOT_LOADED = frozenset({"compile_config", "training_config"})


@dataclass(frozen=True)
class Contents:
    """What a Keras model says of itself, read as plain JSON.

    Attributes:
        configs: Of the model; of each part, where it is a SavedModel.
        is_keras_3: Whether Keras 3 wrote it, rather than tf_keras.
    """

    configs: list[Any]
    is_keras_3: bool


def read_contents(source: Path) -> Contents:
    """What is in a `.keras` or `.h5` file, or in a SavedModel folder of tf_keras.

    Raises:
        ModelError: The file is broken.
    """
    if source.is_dir():
        return Contents(list(_saved_model_configs(source / "keras_metadata.pb")), False)
    config, version = _read_zip(source) if zipfile.is_zipfile(source) else _read_h5(source)
    return Contents([config], version.startswith("3"))


def refuse_code(source: Path, configs: list[Any]) -> None:
    """Raise if loading the model would run code that is not Keras's own.

    Raises:
        UntrustedModelError: It has Lambda layers or names foreign modules.
    """
    found = carried_code(configs)
    if found:
        raise UntrustedModelError(
            f"{source} carries code of its own, which loading it would run",
            received="; ".join(found[:5]),
            remedy="give --trust-model if you know where the model comes from, or export"
            " it as a SavedModel without Keras metadata (model.export(DIR))",
        )


def carried_code(configs: list[Any]) -> list[str]:
    """The Lambda layers and the classes of foreign modules in it, described."""
    return sorted({one for config in configs for one in _code(config, "the model")})


def names_optimization_classes(configs: list[Any]) -> bool:
    """Whether a class of tensorflow-model-optimization must be known to load it."""
    text = repr(configs)
    return "QuantizeWrapper" in text or "QuantizeLayer" in text or "QuantizeAnnotate" in text


def own_classes(configs: list[Any]) -> list[str]:
    """The classes and functions that the user registered with Keras, as `package>name`."""
    return sorted(set(_registered(configs)))


def _registered(config: Any) -> Iterator[str]:
    if isinstance(config, list):
        for item in config:
            yield from _registered(item)
    elif isinstance(config, dict):
        name = config.get("registered_name")
        if isinstance(name, str) and ">" in name:
            yield name
        yield from _registered(list(config.values()))


def _code(config: Any, owner: str) -> Iterator[str]:
    if isinstance(config, list):
        for item in config:
            yield from _code(item, owner)
    if not isinstance(config, dict):
        return
    inner = config.get("config")
    name = inner.get("name", owner) if isinstance(inner, dict) else owner
    kind = config.get("class_name")
    if kind in ("Lambda", "__lambda__") or config.get("function_type") == "lambda":
        yield f"a Lambda layer ({name})"
    module = config.get("module")
    foreign = isinstance(module, str) and module.split(".")[0] not in _KNOWN_PACKAGES
    if kind is not None and foreign:
        yield f"{kind} from module {module} ({name})"
    for key, value in config.items():
        if key not in _NOT_LOADED:
            yield from _code(value, name)


def _read_zip(file: Path) -> tuple[Any, str]:
    """The config, and the version of Keras that wrote it."""
    try:
        with zipfile.ZipFile(file) as archive:
            metadata = json.loads(archive.read("metadata.json"))
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise _broken(file, error) from error
    return config, str(metadata.get("keras_version", ""))


def _read_h5(file: Path) -> tuple[Any, str]:
    import h5py

    try:
        with h5py.File(file, "r") as stored:
            config = stored.attrs.get("model_config")
            version = stored.attrs.get("keras_version", "")
    except OSError as error:
        raise _broken(file, error) from error
    if config is None:
        raise ModelError(
            f"{file} holds weights but no model",
            remedy="save the whole model with model.save(FILE), not save_weights",
        )
    text = version.decode() if isinstance(version, bytes) else str(version)
    return json.loads(config), text


def _saved_model_configs(file: Path) -> Iterator[Any]:
    from google.protobuf.message import DecodeError
    from tf_keras.protobuf import saved_metadata_pb2

    metadata = saved_metadata_pb2.SavedMetadata()
    try:
        metadata.ParseFromString(file.read_bytes())
        for node in metadata.nodes:
            if node.metadata:
                yield json.loads(node.metadata)
    except (DecodeError, ValueError, OSError) as error:
        raise _broken(file, error) from error


def _broken(file: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{file} can't be read as a Keras model: it is broken, or was cut off",
        received=first_line(error),
        remedy="save or copy the model anew",
    )
