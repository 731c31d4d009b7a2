"""Knowledge distillation into a smaller network."""

import logging
import tempfile
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Le

from paring.artifacts import DistilledModel, Examples, Model
from paring.errors import UnsupportedError
from paring.step import Input, Output, step
from paring.system.workers import StrategyName

_LOG = logging.getLogger(__name__)


@step(version="5")
def distill(
    model: Input[Model],
    examples: Input[Examples],
    distilled: Output[DistilledModel],
    *,
    student: str = "mobilenet_v2",
    width: Annotated[float, Gt(0), Le(4)] = 1.0,
    compound: Annotated[float, Ge(-20), Le(10)] = 0.0,
    temperature: Annotated[float, Gt(0)] = 4.0,
    soft_weight: Annotated[float, Ge(0), Le(1)] = 0.9,
    feature_weight: Annotated[float, Ge(0)] = 0.0,
    epochs: Annotated[int, Ge(1)] = 30,
    batch_size: Annotated[int, Ge(1)] = 32,
    learning_rate: Annotated[float, Gt(0)] = 4e-3,
    seed: Annotated[int, Ge(0)] = 0,
    weights: str = "",
    strategy: StrategyName = "auto",
) -> None:
    """Train a smaller network, the student, to predict the outputs of `model`.

    The student starts from random weights and learns from the source's scores on the
    train split, softened by a temperature (Hinton, Vinyals and Dean 2015,
    arXiv:1503.02531), from the labels, and, with `feature_weight`, from the source's features
    by a linear regressor that is dropped afterwards (Romero et al. 2015, arXiv:1412.6550).
    The learning rate falls to 0 on a cosine. The best epoch is kept, by the loss on a
    tenth of the train split; the eval split is not read. Batch-normalization
    statistics are re-estimated.

    Examples:
        >>> distilled = paring.distill(network, arrays, student="mobilenet_v3_small", epochs=1)
        >>> distilled.student
        'mobilenet_v3_small'

    Args:
        model: A classifier with one input; a bare SavedModel too, without its features.
        examples: Its train split is used; without labels at a `soft_weight` of 1.
        distilled: The student under the source's signature: names, shapes, dtypes and
            last activation; with the facts `student`, `parameters`,
            `source_parameters`, and `agreement` with the source on held-out rows.
        student: mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large or efficientnet,
            for images; or MODULE:FUNCTION, which gets the input's shape without the
            batch and the number of outputs, and returns a Keras model.
        width: Factor on the number of channels of a MobileNet.
        compound: The compound coefficient of an EfficientNet; 0 is B0, negative ones
            give smaller ones.
        temperature: Divisor of the logits of both models before they are compared.
        soft_weight: Weight of the source's scores; the labels have the rest of 1.
        feature_weight: Weight of the features' mean squared error; 0 for none.
        epochs: Passes over the train split.
        batch_size: Examples in a training step.
        learning_rate: Initial learning rate of the Adam optimizer.
        seed: Seed of all random numbers, those of the initial weights too.
        weights: Column of sample weights, a number of 0 or more for each example, by which its
            loss is multiplied; "" for the column that the examples were imported with, if any.
            Examples of weight 0 are left out.
        strategy: Devices of the training: one_device; mirrored, all GPUs of the machine;
            multi_worker, the machines that TF_CONFIG names; tpu; xla, one device with the
            compiled steps of a TPU; auto takes what there is.

    Raises:
        ParameterError: There is no such student, it has no such scale, or the
            function can't be imported or returns a model that does not fit.
        UnsupportedError: The source is no classifier with one input, the student does
            not take its input, the examples have no labels at a `soft_weight` below
            1, or features are wanted where there are none.
        ModelError: `model` is missing or broken.
        ExamplesError: `examples` are missing or not what the model takes.
        StepFailedError: The training diverged.
        MissingDependencyError: Strategy tpu was requested, and there is no TPU.
    """
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    from paring.data.examples import class_ids, open_split
    from paring.models.loading import save_model
    from paring.models.saved_model import SavedModel
    from paring.system.child_calls import call_in_child
    from paring.training.distillation.compiling import check_on_processor, check_student_compiles
    from paring.training.distillation.distillation import (
        agreement,
        compute_teacher_outputs,
        open_teacher,
        pupil,
    )
    from paring.training.distillation.students import build_student, check_student
    from paring.training.feeding import hold_out
    from paring.training.strategy import chosen_strategy, open_devices
    from paring.training.training import fine_tune, keep_signature, seed_everything

    check_student(student, width=width, compound=compound)
    if chosen_strategy(strategy) == "tpu":
        # In a process of its own, as `open_training` does it.
        call_in_child(
            check_on_processor,
            model,
            examples,
            student=student,
            width=width,
            compound=compound,
            batch_size=batch_size,
        )
    devices = open_devices(strategy)
    teacher = open_teacher(model, seed)
    split = open_split(examples, "train", teacher.signature, weights=weights)
    if split.labels is not None and class_ids(split.labels) is None:
        raise UnsupportedError(
            "distillation takes a classifier, and the labels are no class ids",
            received=f"labels of {split.labels.dtype} and shape {list(split.labels.shape)}",
            remedy="use a recipe without distill",
        )
    if split.labels is None and soft_weight < 1:
        raise UnsupportedError(
            "the examples have no labels to learn from",
            received=f"soft_weight {soft_weight}",
            remedy="give soft_weight = 1, to learn from the source's scores alone",
        )
    size = devices.batch_size(min(batch_size, len(split.used_rows)), teacher.input.shape[0])
    portions = hold_out(split, seed)
    with tempfile.TemporaryDirectory(prefix="paring-distill-") as folder:
        lessons = compute_teacher_outputs(
            teacher, split, Path(folder) / "lessons.npy", with_features=feature_weight > 0
        )
        # The first weights don't depend on what was loaded before.
        seed_everything(seed)
        network = build_student(
            student,
            lessons.wanted,
            split=split,
            rows=portions.train,
            width=width,
            compound=compound,
        )
        if devices.jit_compile:
            check_student_compiles(network, split, size)
        with devices.scope():
            network = devices.put_on(network)
            taught = pupil(
                network,
                lessons,
                temperature=temperature,
                soft_weight=soft_weight,
                feature_weight=feature_weight,
            )
            fine_tune(
                taught.model,
                split,
                portions,
                loss=taught.loss,
                epochs=epochs,
                batch_size=size,
                learning_rate=learning_rate,
                seed=seed,
                devices=devices,
                decay=True,
                targets=lessons.table,
            )
            with devices.on_host():
                distilled.agreement = agreement(
                    network, lessons, split=split, rows=portions.validation
                )
    network = devices.take_off(network)
    keep_signature(network, teacher.signature)
    save_model(network, distilled, SavedModel.open(model))
    distilled.trained_on = str(devices)
    distilled.trained_form = "keras"
    distilled.sample_weights = split.weights_column
    distilled.student = student
    distilled.parameters = network.count_params()
    distilled.source_parameters = teacher.parameters
    if distilled.parameters > teacher.parameters:
        _LOG.warning(
            "the student has %d parameters, more than the source's %d",
            distilled.parameters,
            teacher.parameters,
        )
