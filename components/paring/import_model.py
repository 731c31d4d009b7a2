"""Bring a model from outside into Paring's layout."""

import logging
import shutil

from paring.artifacts import Model, content_bytes
from paring.errors import ModelError, first_line
from paring.step import Input, Output, step

_LOG = logging.getLogger(__name__)


@step(version="1")
def import_model(
    original: Input[Model],
    model: Output[Model],
    *,
    trust_model: bool = False,
) -> None:
    """Bring a trained model into Paring's layout, checked to be whole.

    A SavedModel (bare, written by tf_keras, or in the `Format-Serving/` of TFX's
    Trainer) is copied byte by byte into `Format-Serving/`; a `.keras` or `.h5`
    file is exported to it. Where tf_keras can load the model, its Keras form is
    kept beside it for the training steps. A file of Keras 3 is rebuilt in
    tf_keras and checked to give the same outputs (`paring.tf.bridge`).

    Args:
        original: The file or folder that the user has.
        model: The imported model.
        trust_model: Let code inside the model (Lambda layers, classes from
            foreign modules) run when it is loaded, now and in later steps.

    Raises:
        ModelError: There is no model at the path, or it is broken.
        UntrustedModelError: It carries code, and `trust_model` is off.
        UnsupportedError: A Keras file whose model has no declared inputs, or one
            of Keras 3 that can't be rebuilt in tf_keras.
    """
    from paring.tf.checking import check_saved_model
    from paring.tf.loading import (
        keras_source,
        load_keras,
        load_with_difference,
        save_model,
        saved_model_dir,
    )
    from paring.tf.trust import read_contents, refuse_code

    if not original.path.exists():
        raise ModelError(
            f"{original.path} does not exist",
            remedy="give a .keras or .h5 file, or the folder of a SavedModel",
        )
    model.trusted = int(trust_model or bool(original.trusted))
    source = keras_source(original)
    if original.path.is_file():
        loaded, model.rebuilt_difference = load_with_difference(original, trust=trust_model)
        save_model(loaded, model)
        return

    folder = saved_model_dir(original)
    check_saved_model(folder)
    model.keras = "none"
    if source is not None and source.is_dir():
        contents = read_contents(source)
        if not model.trusted:
            refuse_code(source, contents.configs)
        model.keras = _add_keras_form(original, model)
    elif source is not None:
        load_keras(original, trust=trust_model)
        model.keras_file.parent.mkdir()
        shutil.copyfile(source, model.keras_file)
        model.keras = "tf_keras"
    shutil.copytree(folder, model.serving_dir)
    model.size_bytes = content_bytes(model.serving_dir)


def _add_keras_form(original: Model, model: Model) -> str:
    """Write the Keras form of a tf_keras SavedModel; "none" where it has none.

    Keras brings classes that it does not know back as stand-ins, which can't be
    stored in its own format or trained: such a model is served as it is.
    """
    from paring.tf.loading import load_keras, save_keras

    trust = bool(model.trusted)
    try:
        save_keras(load_keras(original, trust=trust), model.keras_file)
        model.keras = "tf_keras"
        if not load_keras(model, trust=trust).inputs:
            raise ModelError(f"{original.path} has no declared inputs")
    except (ModelError, ValueError, TypeError, NotImplementedError, AttributeError) as error:
        _LOG.warning(
            "%s has no Keras form that can be trained, so it can only be converted: %s",
            original.path,
            first_line(error),
        )
        shutil.rmtree(model.keras_file.parent, ignore_errors=True)
        return "none"
    return "tf_keras"
