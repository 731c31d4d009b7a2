"""Loading and saving of models in every stored form."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paring.artifacts import DEFAULT_SIGNATURE, Model, QuantizedModel, content_bytes
from paring.errors import ModelError, ParingError, UnsupportedError, first_line
from paring.models.arguments import argument_specs, name_signature, rename_inputs
from paring.models.library_types import KerasModel
from paring.models.plain_paths import plain_path
from paring.models.precision import in_float32
from paring.models.quiet import quiet_tensorflow
from paring.models.same_signatures import keep_methods, note_dropped, same_signatures
from paring.models.saved_model import SavedModel, find_saved_model
from paring.models.trust import (
    names_optimization_classes,
    own_classes,
    read_contents,
    refuse_code,
)
from paring.models.wrapper_masks import carry_masks
from paring.system.trees import describe_path

__all__ = [
    "KERAS_SUFFIXES",
    "Loaded",
    "Written",
    "as_tf_keras",
    "export",
    "has_trainable_layers",
    "keras_source",
    "load_as_written",
    "load_keras",
    "load_whole",
    "optimization_classes",
    "save_keras",
    "save_model",
]

KERAS_SUFFIXES = (".keras", ".h5", ".hdf5")

# The kinds of models that are made of layers.
_LAYERED = frozenset({"Functional", "Model", "Sequential"})


def keras_source(model: Model) -> Path | None:
    """Return the path that Keras can load: a file, or a SavedModel with Keras metadata.

    None for a bare SavedModel, and where import_model found that Keras can't
    take the model (`model.keras` is "none").

    Raises:
        ModelError: `model.path` holds no model at all.
    """
    if model.path.is_file():
        if model.path.suffix.lower() in KERAS_SUFFIXES:
            return model.path
        raise ModelError(
            f"{model.path} is no model file",
            received=describe_path(model.path),
            remedy="give a .keras or .h5 file, or the folder of a SavedModel",
        )
    if model.keras == "none":
        return None
    if model.keras_file.is_file():
        return model.keras_file
    folder = find_saved_model(model)
    return folder if (folder / "keras_metadata.pb").is_file() else None


def has_trainable_layers(model: Model) -> bool:
    """Return whether training steps take the model's Keras form, rather than its graph.

    A folder that tf_keras wrote of a subclassed model, or of layers of classes that are not
    here, has a Keras form whose layers can't be changed one by one.

    Raises:
        ModelError: `model.path` holds no model at all, or a broken one.
    """
    source = keras_source(model)
    if source is None or source.is_file():
        return source is not None
    configs = read_contents(source).configs
    root = configs[0] if configs and isinstance(configs[0], dict) else {}
    return root.get("class_name") in _LAYERED and not own_classes(configs)


def load_keras(model: Model, *, trust: bool = False) -> KerasModel:
    """Return the tf_keras model of `model`, not compiled, in float32.

    Args:
        model: A `.keras` or `.h5` file, an artifact with `Format-Keras/`, or a
            SavedModel with Keras metadata. What Keras 3 wrote is rebuilt.
        trust: Run code that the model carries, as `model.trusted` does too.

    Returns:
        A `tf_keras.Model`.

    Raises:
        UnsupportedError: It is a bare SavedModel, or one of Keras 3 that can't be
            rebuilt in tf_keras.
        UntrustedModelError: It carries code and is not trusted.
        ModelError: It is missing, broken, or needs classes that are not here.
    """
    return load_whole(model, trust=trust).model


@dataclass(frozen=True)
class Loaded:
    """A Keras model, and what was done to load it.

    Attributes:
        model: A `tf_keras.Model`, not compiled, that computes in float32.
        rebuilt_difference: Largest absolute difference from the Keras 3 model that it was
            rebuilt from; None where it is one of tf_keras.
        source_precision: The dtype policies in half precision that it was stored with;
            None where there are none.
    """

    model: KerasModel
    rebuilt_difference: float | None
    source_precision: tuple[str, ...] | None


def load_whole(model: Model, *, trust: bool = False) -> Loaded:
    """Load a model as `load_keras` does, and return it with the changes made to load it."""
    return as_tf_keras(load_as_written(model, trust=trust))


@dataclass(frozen=True)
class Written:
    """A Keras model of the library that wrote it.

    Attributes:
        model: A model of tf_keras or of Keras 3 that computes in float32.
        is_keras_3: Whether it is one of Keras 3.
        source_precision: See `Loaded`.
    """

    model: Any
    is_keras_3: bool
    source_precision: tuple[str, ...] | None


def as_tf_keras(written: Written) -> Loaded:
    """Return the model as one of tf_keras, rebuilt where it is one of Keras 3.

    Raises:
        UnsupportedError: It can't be rebuilt.
    """
    if not written.is_keras_3:
        return Loaded(written.model, None, written.source_precision)
    from paring.models.bridge import rebuild

    rebuilt = rebuild(written.model)
    return Loaded(rebuilt.model, rebuilt.difference, written.source_precision)


def load_as_written(model: Model, *, trust: bool = False) -> Written:
    """Load a model as `load_keras` does, but keep a model of Keras 3 as it is."""
    source = keras_source(model)
    if source is None and model.not_trainable:
        raise UnsupportedError(
            f"{model.path} has no form that can be trained",
            received=model.not_trainable,
            remedy="change that in the model and import it again; prune and cluster train on the"
            " graph of this one, and conversion works on it as it is",
        )
    if source is None:
        raise UnsupportedError(
            f"{model.path} is a bare SavedModel, and this step needs the Keras form",
            received="a SavedModel without keras_metadata.pb",
            remedy="give a .keras file, or a SavedModel written by tf_keras' model.save(DIR); prune"
            " and cluster train on the graph of this one, and conversion works on it as it is",
        )
    contents = read_contents(source)
    trusted = trust or model.trusted
    if not trusted:
        refuse_code(source, contents.configs)
    quiet_tensorflow()
    if source.is_dir():
        # Keras reads the graph too; a cut-off one is reported by name. Layers may call
        # any of its functions.
        saved = SavedModel(source, model.signature)
        saved.signature()
        if not trusted:
            saved.refuse_operators(all_functions=True)
    scope: AbstractContextManager[Any] = nullcontext()
    if isinstance(model, QuantizedModel) or names_optimization_classes(contents.configs):
        scope = optimization_classes()
    try:
        with scope:
            if contents.is_keras_3:
                import keras as library
            else:
                import tf_keras as library
            path = plain_path(source) if source.is_dir() else source
            loaded = library.models.load_model(path, compile=False, safe_mode=not trusted)
            loaded, precision = in_float32(loaded)
    except ParingError:
        raise
    except Exception as error:
        # Keras raises bare ValueError, TypeError, KeyError, OSError and
        # TensorFlow's own errors for broken files and unknown classes alike.
        own = ", ".join(own_classes(contents.configs))
        raise ModelError(
            f"{source} can't be loaded as a Keras model",
            received=f"classes of its own: {own}" if own else first_line(error),
            remedy="save it again; where it needs classes of your own, export it as a"
            " SavedModel without Keras metadata (model.export(DIR))",
        ) from error
    return Written(loaded, contents.is_keras_3, precision)


def save_model(keras_model: KerasModel, output: Model, source: SavedModel | None = None) -> None:
    """Write a tf_keras model into `output` and set its `size_bytes` and `keras`.

    `Format-Serving/` becomes a SavedModel whose signature takes
    and gives one tensor for each of the model's inputs and outputs, under their
    Keras names, at inference (training=False); `Format-Keras/model.keras` holds
    what training steps go on from.

    Args:
        keras_model: The model.
        output: Gets both forms.
        source: The SavedModel that it was made of. Its signature's name is kept, and those of
            the others that compute the same; the rest is added to
            `output.dropped_signatures`. Without it the signature is serving_default.

    Raises:
        UnsupportedError: The model has no declared inputs (it is subclassed).
    """
    export(keras_model, output.serving_dir)
    if source is not None:
        name_signature(output.serving_dir, DEFAULT_SIGNATURE, same_signatures(source))
        keep_methods(source, output.serving_dir)
        note_dropped(source, output)
    output.size_bytes = content_bytes(output.serving_dir)
    save_keras(keras_model, output.keras_file)
    output.keras = "tf_keras"


def save_keras(keras_model: KerasModel, file: Path) -> None:
    """Write the Keras form alone, in a file that `load_keras` can read again."""
    file.parent.mkdir(parents=True)
    if names_optimization_classes([keras_model.get_config()]):
        # The zip format can't be loaded again for the wrappers of
        # tensorflow-model-optimization (they are built twice); HDF5 can, and
        # tf_keras tells the two apart by content.
        hdf5 = file.with_suffix(".h5")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*legacy", category=UserWarning)
            keras_model.save(hdf5, save_format="h5", include_optimizer=False)
        hdf5.rename(file)
    else:
        keras_model.save(file, save_format="keras")


def export(keras_model: KerasModel, folder: Path) -> None:
    """Write the SavedModel alone; see `save_model`."""
    import tensorflow as tf
    import tf_keras

    if not keras_model.inputs:
        raise UnsupportedError(
            f"model {keras_model.name} has no declared inputs",
            received=type(keras_model).__name__,
            remedy="build it with the functional or sequential API of tf_keras",
        )
    structure = keras_model.input
    specs = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype)
        for name, tensor in zip(keras_model.input_names, keras_model.inputs, strict=True)
    }

    def serve(*tensors: Any) -> dict[str, Any]:
        packed = tf.nest.pack_sequence_as(structure, list(tensors))
        outputs = tf.nest.flatten(keras_model(packed, training=False))
        return dict(zip(keras_model.output_names, outputs, strict=True))

    archive = tf_keras.export.ExportArchive()
    archive.track(keras_model)
    archive.add_endpoint("serve", serve, input_signature=argument_specs(specs))
    # write_out prints the endpoints unless Keras is set not to be interactive.
    interactive = tf_keras.utils.is_interactive_logging_enabled()
    tf_keras.utils.disable_interactive_logging()
    try:
        archive.write_out(str(folder))
    finally:
        if interactive:
            tf_keras.utils.enable_interactive_logging()
    rename_inputs(folder, dict.fromkeys(("serve", DEFAULT_SIGNATURE), specs))


def optimization_classes() -> AbstractContextManager[Any]:
    """Register the classes of quantization-aware models with tf_keras.

    These carry masks then; see `paring.models.wrapper_masks`.
    """
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.quantization.keras import default_8bit

    carry_masks()
    # The library leaves this one out of its own scope.
    output_only = default_8bit.default_8bit_quantize_configs.Default8BitOutputQuantizeConfig
    scope: AbstractContextManager[Any] = tfmot.quantization.keras.quantize_scope(
        {output_only.__name__: output_only}
    )
    return scope
