"""Import of a user's model into Paring's layout."""

import logging
import shutil
from typing import TYPE_CHECKING

from paring.artifacts import DEFAULT_SIGNATURE, Model, content_bytes
from paring.errors import ModelError, ParingError, UnsupportedError, first_line
from paring.step import Input, Output, step
from paring.system.trees import copy_tree

if TYPE_CHECKING:
    from paring.models.loading import Loaded
    from paring.models.saved_model import SavedModel

_LOG = logging.getLogger(__name__)


@step(version="8", imports_models=True)
def import_model(
    original: Input[Model],
    model: Output[Model],
) -> None:
    """Import a trained model into Paring's layout, and check that it is complete.

    A SavedModel (bare, written by tf_keras, or in the `Format-Serving/` of TFX's
    Trainer) is copied byte by byte into `Format-Serving/`; a `.keras` or `.h5`
    file is exported to it. Where tf_keras can load the model, its Keras form is
    kept beside it for the training steps. A file of Keras 3 is rebuilt in
    tf_keras and checked to give the same outputs (`paring.models.bridge`). A model that can't
    be rebuilt is exported by Keras 3 itself: it can be converted, and the fact
    `not_trainable` states why it has no Keras form; prune and cluster train its graph.

    The signature of a SavedModel that the option `signature` names becomes a fact of the model,
    and of all that is made of it. A Keras form that does not compute it is left out.

    A Keras model that computes in half precision, such as mixed_float16, becomes
    the same model in float32, in both forms, and the fact `source_precision` states
    its former precision. A bare SavedModel stays as it is.

    A signature that takes serialized tf.Examples or text, looks up tables or hashes is cut:
    `Format-Serving/` gets its dense numeric core, which all other steps work on, and
    `Format-Parts/` the rest: the whole SavedModel in `source/`, its text work in `preprocess/`
    and `postprocess/`, and the tensors between in `interface.json`. The parts are checked to
    answer as the whole on made-up examples. The fact `preprocess_inputs` names what the whole
    takes; where there is no such core, `uncut` states the reason.

    Examples:
        >>> model = paring.import_model(network)
        >>> model.keras
        'tf_keras'

    Args:
        original: File or folder of the user's model.
        model: The imported model.

    Raises:
        ModelError: There is no model at the path, or it is broken.
        UntrustedModelError: The model contains code, and trust_model is off.
        UnsupportedError: A Keras file whose model has no declared inputs, or one
            of Keras 3 that can neither be rebuilt in tf_keras nor exported; or a model
            whose outputs depend on the calls before, as recurrent layers with
            stateful=True do.
    """
    from paring.models.checking import check_saved_model
    from paring.models.importing import import_keras_file
    from paring.models.loading import keras_source, load_whole
    from paring.models.saved_model import SavedModel
    from paring.models.state import refuse_state
    from paring.models.trust import read_contents, refuse_code

    if not original.path.exists():
        raise ModelError(
            f"{original.path} does not exist",
            remedy="give a .keras or .h5 file, or the folder of a SavedModel",
        )
    source = keras_source(original)
    if original.path.is_file():
        import_keras_file(original, model)
        _cut(model, DEFAULT_SIGNATURE)
        return

    saved = SavedModel.open(original)
    check_saved_model(saved)
    refuse_state(saved)
    model.keras = "none"
    if source is None:
        model.not_trainable = original.not_trainable
    if source is not None and source.is_dir():
        contents = read_contents(source)
        if not original.trusted:
            refuse_code(source, contents.configs)
        model.keras = _add_keras_form(original, saved, model)
    elif source is not None:
        loaded = load_whole(original)
        if loaded.source_precision:
            _save_in_float32(loaded, saved, model)
        else:
            model.keras_file.parent.mkdir()
            shutil.copyfile(source, model.keras_file)
            model.keras = "tf_keras"
            model.source_precision = original.source_precision
    if model.keras == "tf_keras" and saved.key != DEFAULT_SIGNATURE:
        from paring.training.keras_form import drop_other_form

        drop_other_form(model, saved)
    if not model.serving_dir.exists():
        copy_tree(saved.folder, model.serving_dir)
        model.size_bytes = content_bytes(model.serving_dir)
    _cut(model, saved.key)


def _cut(model: Model, key: str) -> None:
    """Put the numeric core of a signature that does text work in the model's place."""
    from paring.models.numeric_parts import SOURCE, does_text_work
    from paring.models.saved_model import SavedModel

    if not does_text_work(SavedModel(model.serving_dir, key)):
        return
    from paring.graphs.numeric_core import SignatureParts

    source = model.parts_dir / SOURCE
    model.parts_dir.mkdir()
    model.serving_dir.rename(source)
    try:
        whole = SavedModel(source, key)
        cut = SignatureParts(whole)
        interface = cut.write(model.parts_dir, model.serving_dir, trusted=model.trusted)
    except UnsupportedError as error:
        shutil.rmtree(model.serving_dir, ignore_errors=True)
        source.rename(model.serving_dir)
        shutil.rmtree(model.parts_dir)
        model.uncut = first_line(error)
        _LOG.warning("its numeric core can't be optimized apart from its text work: %s", error)
        return
    if model.keras_file.exists():
        shutil.rmtree(model.keras_file.parent)
        model.keras = "none"
        model.not_trainable = "its Keras form takes text, and the examples are those of its core"
    model.drop_signatures(set(whole.keys) - {key})
    model.preprocess_inputs = tuple(item.name for item in interface.inputs)
    model.size_bytes = content_bytes(model.serving_dir)


def _save_in_float32(loaded: "Loaded", saved: "SavedModel", model: Model) -> None:
    """Write both forms of a SavedModel whose Keras form was in half precision."""
    from paring.models.loading import save_model
    from paring.training.training import keep_signature

    keep_signature(loaded.model, saved.signature())
    save_model(loaded.model, model, saved)
    model.source_precision = loaded.source_precision


def _add_keras_form(original: Model, saved: "SavedModel", model: Model) -> str:
    """Write the Keras form of a tf_keras SavedModel; "none" where it has none.

    Keras loads classes that it does not know as stand-ins, which can't be
    stored in its own format or trained: such a model is served as it is.
    """
    from paring.models.loading import load_keras, load_whole, save_keras

    try:
        loaded = load_whole(original)
        if loaded.source_precision:
            _save_in_float32(loaded, saved, model)
        else:
            save_keras(loaded.model, model.keras_file)
        model.keras = "tf_keras"
        if not load_keras(model).inputs:
            raise ModelError(f"{original.path} has no declared inputs")
    except (
        ModelError,
        UnsupportedError,
        ValueError,
        TypeError,
        NotImplementedError,
        AttributeError,
    ) as error:
        _LOG.warning(
            "%s has no Keras form that can be trained, so that only its graph can be: %s",
            original.path,
            first_line(error),
        )
        # Without the paths of this machine, which errors of Paring name first.
        why = error.received if isinstance(error, ParingError) else first_line(error)
        model.not_trainable = f"tf_keras can't load its layers ({why})"
        model.source_precision = None
        shutil.rmtree(model.keras_file.parent, ignore_errors=True)
        shutil.rmtree(model.serving_dir, ignore_errors=True)
        return "none"
    return "tf_keras"
