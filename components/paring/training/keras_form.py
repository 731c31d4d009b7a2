"""Check that a model's Keras form computes the signature that it is imported for."""

import logging
import shutil
from typing import Any, Final

import numpy as np
import tensorflow as tf

from paring.artifacts import Model
from paring.errors import UnsupportedError
from paring.graphs.graph import concrete_shape
from paring.models.library_types import KerasModel
from paring.models.loading import load_whole
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature
from paring.runtimes import Features
from paring.runtimes.savedmodel import SavedModelRuntime
from paring.training.training import keep_signature

_log = logging.getLogger(__name__)

_TOLERANCE: Final = 1e-3
"""Largest difference that is let pass, relative to the largest value of the same output."""
# Of a model that computed in half precision, and does so in float32 as a Keras form.
_HALF_TOLERANCE: Final = 5e-2
_BATCH: Final = 4


def drop_other_form(model: Model, saved: SavedModel) -> None:
    """Remove a model's Keras form if it does not compute the signature that was chosen.

    A signature beside the model's own call may be anything, such as the features before the
    last layer, and training steps must not put the model in its place.

    Args:
        model: A model with its Keras form, and maybe with its SavedModel, which then is removed
            too, since it was made of that form.
        saved: The user's SavedModel, opened for the signature.
    """
    loaded = load_whole(model)
    tolerance = _HALF_TOLERANCE if loaded.source_precision else _TOLERANCE
    try:
        why_not = _difference(loaded.model, saved, tolerance)
    except UnsupportedError as error:
        why_not = f"{error.what} ({error.received})"
    if not why_not:
        return
    model.keras = "none"
    model.source_precision = None
    model.not_trainable = f"its Keras form is not the signature {saved.key}: {why_not}"
    _log.warning("%s can be converted, but not trained: %s", saved.folder, model.not_trainable)
    shutil.rmtree(model.keras_file.parent)
    shutil.rmtree(model.serving_dir, ignore_errors=True)


def _difference(network: KerasModel, saved: SavedModel, tolerance: float) -> str:
    """Return how the network's outputs differ from the signature's; "" where they do not.

    Raises:
        UnsupportedError: Their inputs or outputs have other names, in no clear order.
    """
    signature = saved.signature()
    keep_signature(network, signature)
    features = _random_features(signature)
    runtime = SavedModelRuntime(saved)
    try:
        expected = runtime.run(features)
    finally:
        runtime.close()
    given = [tf.constant(features[name]) for name in network.input_names]
    outputs: list[Any] = tf.nest.flatten(
        network(tf.nest.pack_sequence_as(network.input, given), training=False)
    )
    for name, output in zip(network.output_names, outputs, strict=True):
        wanted, made = expected[name].astype(np.float64), output.numpy().astype(np.float64)
        if wanted.shape != made.shape:
            return f"output {name} has the shape {list(made.shape)}, not {list(wanted.shape)}"
        difference = float(np.max(np.abs(wanted - made), initial=0))
        if not difference <= tolerance * max(float(np.max(np.abs(wanted), initial=0)), 1e-30):
            return f"output {name} differs by {difference:.2g}"
    return ""


def _random_features(signature: Signature) -> Features:
    """Return one call's inputs: floats uniform in [0, 1), 0 and 1 for other types."""
    generator = np.random.default_rng(0)
    features: dict[str, np.ndarray[Any, Any]] = {}
    for name, spec in signature.inputs.items():
        shape = concrete_shape(spec, _BATCH)
        is_float = spec.dtype.endswith(("float16", "float32", "float64"))
        drawn = generator.random(shape) if is_float else generator.integers(0, 2, shape)
        features[name] = np.asarray(drawn).astype(tf.as_dtype(spec.dtype).as_numpy_dtype)
    return features
