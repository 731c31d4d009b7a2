"""Check that XLA compiles the training of a student, before a TPU is opened for it."""

from typing import Any

import numpy as np
import tensorflow as tf

from paring.artifacts import Examples, Model
from paring.data.examples import Split, open_split
from paring.models.library_types import KerasModel
from paring.training.distillation.distillation import open_teacher
from paring.training.distillation.students import StudentSpec, build_student
from paring.training.dtype_policy import with_dtype_policy
from paring.training.feeding import features_at
from paring.training.losses import last_activation
from paring.training.xla import check_compiles


def check_on_processor(
    model: Model,
    examples: Examples,
    *,
    student: str,
    width: float,
    compound: float,
    batch_size: int,
) -> None:
    """Build a student as `distill` does, and compile its training by XLA in mixed_bfloat16.

    Args:
        model: The teacher, whose outputs are not computed.
        examples: Its train split is used.
        student: A family's name, or `module:function`.
        width: Factor on the number of channels of a MobileNet.
        compound: The coefficient of an EfficientNet.
        batch_size: Examples in a training step.

    Raises:
        ParingError: The teacher, the examples or the student can't be used, or XLA can't
            compile the student's training.
    """
    teacher = open_teacher(model, seed=0)
    split = open_split(examples, "train", teacher.signature)
    # Of a bare SavedModel only its values show the activation, which XLA takes in any case.
    activation = (
        "softmax"
        if teacher.keras_model is None
        else last_activation(teacher.keras_model.outputs[0])
    )
    wanted = StudentSpec(teacher.input, teacher.units, activation)
    rows = split.used_rows[:batch_size]
    network = build_student(student, wanted, split=split, rows=rows, width=width, compound=compound)
    check_student_compiles(network, split, batch_size)


def check_student_compiles(network: KerasModel, split: Split, batch_size: int) -> None:
    """Refuse a student whose training in mixed_bfloat16 XLA can't compile.

    The loss of `distill` it can.

    Raises:
        UnsupportedError: A layer takes no bfloat16; or see `paring.training.xla.check_compiles`.
    """
    network = with_dtype_policy(network, "mixed_bfloat16")
    rows = split.used_rows[:batch_size]

    def loss(_: Any, outputs: Any) -> Any:
        return tf.reduce_mean(outputs)

    labels = np.zeros(len(rows), np.float32)
    check_compiles(network, loss, (features_at(network, split, rows), labels))
