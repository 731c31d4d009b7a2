"""The step `distill`."""

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


@step(version="3")
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
    strategy: StrategyName = "auto",
) -> None:
    """Train another, lighter network to say what `model` says.

    The student starts from random weights and learns from the source's scores on the
    train split, softened by a temperature (Hinton, Vinyals and Dean 2015,
    arXiv:1503.02531), from the labels, and, if asked, from the source's features by a
    linear regressor that is dropped afterwards (Romero et al. 2015, arXiv:1412.6550).
    The learning rate falls to 0 on a cosine. The best epoch is kept, by the loss on a
    tenth of the train split; the eval split is not looked at. Batch-normalization
    statistics are re-estimated.

    Args:
        model: A classifier with one input; a bare SavedModel too, without its features.
        examples: Its train split is used; without labels at a `soft_weight` of 1.
        distilled: The student under the source's signature: names, shapes, dtypes and
            last activation; with the facts `student`, `parameters`,
            `source_parameters`, and `agreement` with the source on held-out rows.
        student: mobilenet_v2, mobilenet_v3_small, mobilenet_v3_large or efficientnet,
            for images; or MODULE:FUNCTION, which gets the input's shape without the
            batch and the number of outputs, and makes a Keras model.
        width: Times the channels of a MobileNet.
        compound: The compound coefficient of an EfficientNet; 0 is B0, negative ones
            give smaller ones.
        temperature: What the logits of both are divided by before they are compared.
        soft_weight: Weight of the source's scores; the labels have the rest.
        feature_weight: Weight of the features' mean squared error; 0 for none.
        epochs: Passes over the train split.
        batch_size: Examples in a training step.
        learning_rate: Adam's, in the beginning.
        seed: Everything random follows from it, the first weights too.
        strategy: What the training runs on: one_device; mirrored, all GPUs of the machine;
            multi_worker, the machines that TF_CONFIG names; tpu; auto takes what there is.

    Raises:
        ParameterError: There is no such student, it has no use for a given scale, or
            the function can't be had or makes what does not fit.
        UnsupportedError: The source is no classifier with one input, the student does
            not take its input, the examples have no labels at a `soft_weight` below
            1, or features are wanted where there are none.
        ModelError: `model` is missing or broken.
        ExamplesError: `examples` are missing or not what the model takes.
        StepFailedError: The training diverged.
        MissingDependencyError: There is no TPU, and strategy tpu was asked for.
    """
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    from paring.data.examples import class_ids, open_split
    from paring.models.loading import save_model
    from paring.training.distillation.distillation import (
        agreement,
        ask_teacher,
        open_teacher,
        pupil,
    )
    from paring.training.distillation.students import build_student, check_student
    from paring.training.feeding import hold_out
    from paring.training.strategy import open_devices
    from paring.training.training import fine_tune, keep_signature, seed_everything

    check_student(student, width=width, compound=compound)
    devices = open_devices(strategy)
    teacher = open_teacher(model, seed)
    split = open_split(examples, "train", teacher.signature)
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
    size = devices.batch_size(min(batch_size, split.count), teacher.input.shape[0])
    portions = hold_out(split, seed)
    with tempfile.TemporaryDirectory(prefix="paring-distill-") as folder:
        lessons = ask_teacher(
            teacher, split, Path(folder) / "lessons.npy", with_features=feature_weight > 0
        )
        # The first weights don't depend on what was loaded before.
        seed_everything(seed)
        network = build_student(
            student, lessons.wanted, split, portions.train, width=width, compound=compound
        )
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
                decay=True,
                targets=lessons.table,
            )
            distilled.agreement = agreement(network, lessons, split, portions.validation)
    network = devices.take_off(network)
    keep_signature(network, teacher.signature)
    save_model(network, distilled)
    distilled.trained_on = str(devices)
    distilled.student = student
    distilled.parameters = network.count_params()
    distilled.source_parameters = teacher.parameters
    if distilled.parameters > teacher.parameters:
        _LOG.warning(
            "the student has %d parameters, more than the source's %d",
            distilled.parameters,
            teacher.parameters,
        )
