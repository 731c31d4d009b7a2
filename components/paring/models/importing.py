"""Keras files in Paring's layout, for every step that takes a model."""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from paring.artifacts import DEFAULT_SIGNATURE, Model, Servable, content_bytes
from paring.errors import ParingError, UnsupportedError, first_line
from paring.models.arguments import argument_specs, rename_inputs
from paring.models.loading import (
    KERAS_SUFFIXES,
    Written,
    as_tf_keras,
    load_as_written,
    save_model,
)
from paring.models.quiet import silent_stderr
from paring.models.saved_model import SavedModel
from paring.models.state import refuse_state

_log = logging.getLogger(__name__)


def is_keras_file(path: Path) -> bool:
    """Return whether the path is a file with a name that Keras gives to models."""
    return path.suffix.lower() in KERAS_SUFFIXES and path.is_file()


@contextmanager
def imported(inputs: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a step's inputs with Keras files replaced by models in Paring's layout.

    Args:
        inputs: Artifacts, or mappings of them, by the name of the input.

    Yields:
        The same; a Keras file is replaced by a model in a temporary folder.

    Raises:
        ParingError: See `import_keras_file`.
    """
    scratch: dict[Path, Path] = {}
    with ExitStack() as stack:

        def ready(item: Any) -> Any:
            if not isinstance(item, Servable) or not is_keras_file(item.path):
                return item
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paring-model-")))
            scratch[folder] = item.path
            model = Model(folder, digest=item.digest, trusted=item.trusted)
            import_keras_file(Model(item.path, trusted=item.trusted), model)
            return model

        try:
            yield {
                name: {key: ready(item) for key, item in value.items()}
                if isinstance(value, Mapping)
                else ready(value)
                for name, value in inputs.items()
            }
        except ParingError as error:
            # The user knows the file.
            for folder, path in scratch.items():
                error.rename(str(folder), str(path))
            raise


def import_keras_file(original: Model, model: Model) -> None:
    """Write a Keras file into `model`: its SavedModel, and its Keras form.

    What can't be rebuilt in tf_keras is exported by Keras 3 itself, without a Keras form, and
    the fact `not_trainable` says why.

    Args:
        original: A `.keras` or `.h5` file.
        model: Gets both forms, and the facts about them.

    Raises:
        ModelError: The file is missing or broken, or holds classes that are not here.
        UntrustedModelError: It carries code and is not trusted.
        UnsupportedError: It has no declared inputs, its outputs depend on the calls before,
            or a model of Keras 3 can neither be rebuilt nor exported.
    """
    written = load_as_written(original)
    try:
        loaded = as_tf_keras(written)
    except UnsupportedError as error:
        _export_as_written(written, original, model, error)
    else:
        model.rebuilt_difference = loaded.rebuilt_difference
        model.source_precision = loaded.source_precision
        save_model(loaded.model, model)
    refuse_state(SavedModel(model.serving_dir))


def _export_as_written(
    written: Written, original: Model, model: Model, why: UnsupportedError
) -> None:
    """Export a model of Keras 3 by Keras 3.

    Raises:
        UnsupportedError: `why`, where Keras 3 can't export it.
    """
    try:
        with silent_stderr():
            _export(written.model, model.serving_dir)
    except Exception as error:
        # Whatever the model's own operations raise while they are traced.
        _log.warning("Keras 3 can't export %s: %s", original.path, first_line(error))
        if isinstance(error, ParingError):
            raise
        raise why from error
    model.source_precision = written.source_precision
    model.keras = "none"
    model.not_trainable = why.what
    model.size_bytes = content_bytes(model.serving_dir)
    _log.warning("%s has no Keras form: %s", original.path, model.not_trainable)


def _export(network: Any, folder: Path) -> None:
    """Write a functional or sequential model of Keras 3 as a SavedModel, under its names."""
    import keras
    import tensorflow as tf

    graph = network._functional if isinstance(network, keras.Sequential) else network
    names = [tensor._keras_history.operation.name for tensor in graph.inputs]
    specs = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype)
        for name, tensor in zip(names, graph.inputs, strict=True)
    }
    structure = graph.input

    def serve(*tensors: Any) -> dict[str, Any]:
        given = keras.tree.pack_sequence_as(structure, list(tensors))
        outputs = keras.tree.flatten(network(given, training=False))
        return dict(zip(_output_names(graph), outputs, strict=True))

    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.add_endpoint("serve", serve, input_signature=argument_specs(specs))
    archive.write_out(str(folder), verbose=False)
    rename_inputs(folder, dict.fromkeys(("serve", DEFAULT_SIGNATURE), specs))


def _output_names(graph: Any) -> list[str]:
    """Return the names that the model's outputs have, numbered where they are not distinct."""
    names = [tensor._keras_history.operation.name for tensor in graph.outputs]
    if len(set(names)) < len(names):
        return [f"output_{index}" for index in range(len(names))]
    return names
