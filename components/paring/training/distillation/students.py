"""Building of students, of the mobile families or by a user's function."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import tf_keras

from paring.data.examples import Split
from paring.errors import ParameterError, UnsupportedError, first_line, nearest
from paring.models.library_types import KerasModel
from paring.models.signature import TensorSpec
from paring.models.trust import embedded_code
from paring.system.user_modules import import_function, working_directory_first
from paring.training.distillation.families import FAMILIES, features
from paring.training.feeding import Rows
from paring.training.losses import last_activation

layers = tf_keras.layers

SMALLEST_IMAGE = 32
"""Smaller images are enlarged to it: the families halve them five times."""

_CHUNK = 256


@dataclass(frozen=True)
class StudentSpec:
    """Input and output that a student must have.

    Attributes:
        input: The signature's input.
        units: Values in the output [batch, units].
        activation: Activation of the output: softmax, sigmoid or linear.
    """

    input: TensorSpec
    units: int
    activation: str


def check_student(student: str, *, width: float, compound: float) -> None:
    """Refuse a name that is no student's, and a scale that it has no use for.

    Raises:
        ParameterError: It is so.
    """
    if ":" not in student and student not in FAMILIES:
        raise ParameterError(
            f"student: there is none called {student!r}",
            remedy=f"{nearest(student, FAMILIES)}; or name a function of yours, MODULE:FUNCTION",
        )
    if width != 1 and not _is_mobilenet(student):
        raise ParameterError(
            f"width: scales a MobileNet, and the student is {student}",
            received=width,
            remedy="give compound for efficientnet; a function of yours has its own width",
        )
    if compound != 0 and student != "efficientnet":
        raise ParameterError(
            f"compound: scales an EfficientNet, and the student is {student}",
            received=compound,
            remedy="give width for a MobileNet; a function of yours has its own size",
        )


def build_student(
    student: str, wanted: StudentSpec, *, split: Split, rows: Rows, width: float, compound: float
) -> KerasModel:
    """Return the untrained student; call `seed_everything` before it.

    Args:
        student: A family's name, or `module:function`; see `check_student`.
        wanted: What it must take and give.
        split: Its `rows` give the images' mean and deviation of each channel, by
            which the families standardize; so any range of pixels can be learned from.
        rows: Row numbers of the split.
        width: Times the channels of a MobileNet.
        compound: The coefficient phi of an EfficientNet: 1.1^phi times the channels,
            1.2^phi the blocks, 1.15^phi the resolution.

    Returns:
        A functional `tf_keras.Model` with one input and one output.

    Raises:
        UnsupportedError: A family's student is wanted for what is no image.
        ParameterError: The function can't be had, or makes something else.
    """
    # Layers get numbered names, which end up in converted files; they must not depend
    # on what this process made before.
    tf_keras.backend.reset_uids()
    if ":" in student:
        return _by_function(student, wanted)
    images = split.features[wanted.input.name]
    shape = wanted.input.shape
    if len(shape) != 4 or not 1 <= images.shape[3] <= images.shape[1]:
        raise UnsupportedError(
            f"student {student} takes images [batch, height, width, channels], and the"
            " source does not",
            received=f"input {wanted.input.name!r} of shape {list(shape)}",
            remedy="name a function that builds a student for it: student = MODULE:FUNCTION",
        )
    scale = width if _is_mobilenet(student) else 1.1**compound
    size = _image_size(images.shape[1], images.shape[2], 1.15**compound)

    image = tf_keras.Input(batch_shape=shape, dtype=wanted.input.dtype)
    mean, deviation = _channel_statistics(images, rows)
    values = layers.Rescaling(
        (1 / deviation).tolist(), offset=(-mean / deviation).tolist(), name="standardize"
    )(image)
    if size != shape[1:3]:
        values = layers.Resizing(*size, name="resize")(values)
    values = features(student, values, width=scale, depth=1.2**compound)
    ending = None if wanted.activation == "linear" else wanted.activation
    scores = layers.Dense(wanted.units, activation=ending, name="scores")(values)
    return tf_keras.Model(image, scores, name=student)


@functools.cache
def count_parameters(
    student: str, channels: int, units: int, *, width: float = 1.0, compound: float = 0.0
) -> int:
    """Return the elements of all weights that a family's student would have.

    Args:
        student: The family's name.
        channels: Of its images, whose size does not matter.
        units: Of its output.
        width: See `build_student`.
        compound: Likewise.
    """
    image = tf_keras.Input((SMALLEST_IMAGE, SMALLEST_IMAGE, channels))
    scale = width if _is_mobilenet(student) else 1.1**compound
    values = features(student, image, width=scale, depth=1.2**compound)
    scores = layers.Dense(units)(values)
    return int(tf_keras.Model(image, scores).count_params())


def _is_mobilenet(student: str) -> bool:
    return student in FAMILIES and student.startswith("mobilenet")


def _image_size(height: int, width: int, resolution: float) -> tuple[int, int]:
    """Return the scaled size, with at least `SMALLEST_IMAGE` on the shorter side."""
    short = min(height, width)
    ratio = max(SMALLEST_IMAGE, max(SMALLEST_IMAGE, short) * resolution) / short
    return round(height * ratio), round(width * ratio)


def _channel_statistics(images: Any, rows: Rows) -> tuple[Any, Any]:
    """Return the mean and standard deviation of each channel; 1 where a channel is constant."""
    count, total, squares = 0, np.zeros(images.shape[3]), np.zeros(images.shape[3])
    for start in range(0, len(rows), _CHUNK):
        pixels = np.asarray(images[rows[start : start + _CHUNK]], np.float64)
        pixels = pixels.reshape(-1, images.shape[3])
        count += len(pixels)
        total += pixels.sum(axis=0)
        squares += np.square(pixels).sum(axis=0)
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0))
    return mean, np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6), deviation, 1.0)


def _by_function(name: str, wanted: StudentSpec) -> KerasModel:
    """Return the checked model of the user's function, with the wanted activation at its end."""
    function = import_function(
        "student", name, remedy="write a function(shape, units) that returns a model"
    )
    try:
        with working_directory_first():
            made = function(wanted.input.shape[1:], wanted.units)
    except Exception as error:
        # It is the user's own code; anything may come out of it.
        raise ParameterError(
            f"student: {name} failed",
            received=f"{type(error).__name__}: {error}",
            remedy=f"fix it; it was called with {wanted.input.shape[1:]} and {wanted.units}",
        ) from error
    if any(kind.__module__.startswith("keras.src") for kind in type(made).__mro__):
        from paring.models.bridge import rebuild

        made = rebuild(made).model
    if not isinstance(made, tf_keras.Model) or not getattr(made, "_is_graph_network", False):
        raise ParameterError(
            f"student: {name} returned no functional or sequential model",
            received=type(made).__name__,
            remedy="build it with the functional API, or with Sequential and an Input",
        )
    _check_tensors(name, made, wanted)
    _check_layers(name, made)
    activation = last_activation(made.outputs[0])
    if activation == wanted.activation:
        return made
    if activation != "linear":
        raise ParameterError(
            f"student: {name} returned a model that ends in {activation}, and the source's"
            f" ends in {wanted.activation}",
            remedy="leave the last activation off; the source's is added",
        )
    ending = layers.Activation(wanted.activation)(made.output)
    return tf_keras.Model(made.input, ending, name=made.name)


def _check_tensors(name: str, made: KerasModel, wanted: StudentSpec) -> None:
    spec = wanted.input
    if len(made.inputs) != 1 or len(made.outputs) != 1:
        raise ParameterError(
            f"student: {name} returned a model of several inputs or outputs",
            received=f"{len(made.inputs)} inputs, {len(made.outputs)} outputs",
            remedy="make one that takes and gives what the source does",
        )
    (taken,), (given,) = made.inputs, made.outputs
    fits = taken.shape[0] in (None, spec.shape[0]) and tuple(taken.shape[1:]) == spec.shape[1:]
    if not fits or taken.dtype.name != spec.dtype:
        raise ParameterError(
            f"student: {name} returned a model that does not take what the source takes",
            received=f"{taken.dtype.name} {list(taken.shape)}",
            remedy=f"give it an Input of {list(spec.shape[1:])}, dtype {spec.dtype!r}",
        )
    if tuple(given.shape[1:]) != (wanted.units,) or given.dtype.name != "float32":
        raise ParameterError(
            f"student: {name} returned a model that does not give what the source gives",
            received=f"{given.dtype.name} {list(given.shape)}",
            remedy=f"end it in float32 [batch, {wanted.units}]",
        )


def _check_layers(name: str, made: KerasModel) -> None:
    try:
        own = embedded_code([made.get_config()])
    except (NotImplementedError, TypeError) as error:
        own = [first_line(error)]
    if own:
        raise ParameterError(
            f"student: {name} returned a model with layers that are not of tf_keras, which no"
            " later step could load",
            received="; ".join(own[:5]),
            remedy="use the layers of tf_keras, without Lambda",
        )
