"""Reproducible fine-tuning of a model.

The eval split takes no part in it: the best epoch is chosen by a validation
set held out of the train split, so the gate later sees data that no choice
was made on.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from paring.artifacts import Examples, Model
from paring.data.examples import Split, open_split
from paring.errors import ExamplesError, StepFailedError, UnsupportedError
from paring.models.library_types import KerasModel
from paring.models.loading import load_whole, save_model
from paring.models.precision import HALF_DTYPES
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature, TensorSpec
from paring.system.child_calls import call_in_child
from paring.system.workers import StrategyName
from paring.training.batch_norm import Reestimation, synchronized_batch_norm
from paring.training.dtype_policy import with_dtype_policy
from paring.training.feeding import (
    Portions,
    as_outputs,
    hold_out,
    labelled_at,
    labelled_batches,
    shuffled_batches,
)
from paring.training.losses import loss_for, total_loss
from paring.training.strategy import Devices, chosen_strategy, open_devices
from paring.training.xla import check_compiles, naming_refusals

_log = logging.getLogger(__name__)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and TensorFlow, and allow deterministic operations only.

    Call it before a model is built or loaded: layers draw their own seeds then.
    """
    tf_keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


@dataclass(frozen=True)
class Training:
    """Model to fine-tune in another form, and the data and devices for it.

    Attributes:
        model: The tf_keras model as it was loaded.
        signature: What its SavedModel takes and gives.
        split: The train split.
        portions: Its rows to train on and to validate on.
        loss: A tf_keras loss, or one for each output.
        batch_size: Examples in a step; the model's own where it is fixed.
        seed: Seed of all random numbers.
        devices: What it is spread over.
        source_precision: As in `paring.artifacts.Model`.
    """

    model: KerasModel
    signature: Signature
    split: Split
    portions: Portions
    loss: Any
    batch_size: int
    seed: int
    devices: Devices
    source_precision: tuple[str, ...] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in a pass over the training rows, at least 1."""
        return steps_per_epoch(self.portions, self.batch_size)

    def fine_tune(
        self, model: KerasModel, *, epochs: int, learning_rate: float, **more: Any
    ) -> None:
        """Train `model`, another form of the model; see `fine_tune`."""
        fine_tune(
            model,
            self.split,
            self.portions,
            loss=self.loss,
            epochs=epochs,
            batch_size=self.batch_size,
            learning_rate=learning_rate,
            seed=self.seed,
            devices=self.devices,
            **more,
        )

    def save(self, model: KerasModel, source: Model, output: Model) -> KerasModel:
        """Write what was trained, under the signature names of its source.

        Call it outside of the scope of `devices`.

        Returns:
            What was written: the model as one of a single device.
        """
        model = self.devices.take_off(model)
        if len(model.outputs) == len(self.model.outputs) > 1:
            # Wrapping keeps their order, if not their names.
            model.output_names = list(self.model.output_names)
        keep_signature(model, self.signature)
        # A Keras file has no signatures to keep.
        save_model(model, output, None if source.path.is_file() else SavedModel.open(source))
        output.trained_on = str(self.devices)
        output.trained_form = "keras"
        output.sample_weights = self.split.weights_column
        output.source_precision = self.source_precision
        return model


def open_training(
    model: Model,
    examples: Examples,
    *,
    batch_size: int,
    seed: int,
    strategy: StrategyName = "one_device",
    weights: str = "",
    mixed: bool = True,
) -> Training:
    """Load a model and its train split on the devices of `strategy`.

    All is checked before any work starts. What is made of the model must be made and
    trained within `training.devices.scope()`, and saved outside of it.

    Args:
        model: A model in Keras form.
        examples: Its train split is used.
        batch_size: Examples in a step, over all devices.
        seed: Seed of all random numbers.
        strategy: See `paring.training.strategy.open_devices`.
        weights: The column of sample weights; "" for those that the examples were imported
            with, or none.
        mixed: Compute in bfloat16 where the devices are best at that.

    Raises:
        UnsupportedError: The model is not in Keras form, ends in something that no
            loss goes with, or the examples lack labels for one of its outputs; or XLA can't
            compile its training, for strategy xla or tpu.
        ModelError: The model is missing or broken.
        ExamplesError: The examples are missing or not what the model takes.
    """
    if chosen_strategy(strategy) == "tpu":
        # In a process of its own, since a TPU must be opened before anything runs in this one.
        call_in_child(
            check_on_processor,
            model,
            examples,
            batch_size=batch_size,
            seed=seed,
            weights=weights,
            mixed=mixed,
        )
    devices = open_devices(strategy)
    if not mixed:
        devices = replace(devices, dtype_policy="float32")
    with devices.scope():
        seed_everything(seed)
        whole = load_whole(model)
        loaded = whole.model
        signature = signature_of(model, loaded)
        split = open_split(examples, "train", signature, weights=weights)
        batch_size = check_trainable(loaded, split, batch_size=batch_size, devices=devices)
        loss = loss_for(loaded, *order_labels(loaded, split))
        if devices.dtype_policy != "float32":
            loaded = with_dtype_policy(loaded, devices.dtype_policy)
    # Outside of the scope, where Keras's losses can be called by hand.
    if devices.jit_compile:
        _check_compiles(loaded, loss, split, batch_size)
    portions = hold_out(split, seed)
    precision = whole.source_precision or model.source_precision
    return Training(loaded, signature, split, portions, loss, batch_size, seed, devices, precision)


def check_on_processor(model: Model, examples: Examples, **options: Any) -> None:
    """Load a model and its train split as `open_training` does, and compile its training by XLA.

    Raises:
        ParingError: As `open_training`; what XLA can't compile is an UnsupportedError.
    """
    open_training(model, examples, strategy="xla", **options)


def _check_compiles(model: KerasModel, loss: Any, split: Split, batch_size: int) -> None:
    batch = labelled_at(model, split, split.used_rows[:batch_size])

    def total(labels: Any, outputs: Any, weights: Any = None) -> Any:
        return total_loss(loss, labels, outputs, weights)

    check_compiles(model, total, batch)


def check_trainable(model: KerasModel, split: Split, *, batch_size: int, devices: Devices) -> int:
    """Check that `model` can be fine-tuned on `split`, before any work starts.

    Returns:
        The batch size to train with: the model's own where it is fixed, else one that
        the devices' replicas get equal parts of.

    Raises:
        UnsupportedError: Without labels, or it is a model of another kind than
            sequential or functional, or has a fixed batch that can't be divided.
        ExamplesError: There are fewer examples than the model's fixed batch.
    """
    if not split.labels_by_output:
        raise UnsupportedError(
            "fine-tuning needs labels, and the examples have none",
            remedy="give examples with a label, or use a recipe without training steps",
        )
    if not isinstance(model, tf_keras.Sequential) and not getattr(
        model, "_is_graph_network", False
    ):
        raise UnsupportedError(
            f"model {model.name} is subclassed, and its layers can't be wrapped one by one",
            received=type(model).__name__,
            remedy="build it with the functional or sequential API of tf_keras",
        )
    fixed = model.inputs[0].shape[0]
    count = len(split.used_rows)
    if fixed is not None and fixed > count:
        raise ExamplesError(
            f"the model takes batches of {fixed}, and there are fewer examples to train on",
            received=f"{count} examples",
            remedy="give more examples, or a model with a free batch size",
        )
    return devices.batch_size(min(batch_size, count), fixed)


def order_labels(model: KerasModel, split: Split) -> list[NDArray[Any]]:
    """Put the labels of `split` in the order of the model's outputs.

    Returns:
        The labels of each output.

    Raises:
        UnsupportedError: Not every one of several outputs has labels.
    """
    result = split.labels_by_output
    if len(model.outputs) == 1:
        return list(result.values())
    names = list(model.output_names)
    lacking = [name for name in names if name not in result]
    if lacking:
        raise UnsupportedError(
            f"fine-tuning needs labels for each of the {len(names)} outputs of model {model.name}",
            received=f"no labels for {', '.join(lacking)}",
            remedy="give a column of labels under each output's name; conversion works without",
        )
    first, *others = names
    split.output, split.labels = first, result[first]
    split.other_labels = {name: result[name] for name in others}
    return [result[name] for name in names]


def fine_tune(
    model: KerasModel,
    split: Split,
    portions: Portions,
    *,
    loss: Any,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    devices: Devices = Devices("one_device"),  # noqa: B008
    decay: bool = False,
    targets: NDArray[Any] | None = None,
    callbacks: Sequence[Any] = (),
    may_keep: Callable[[], bool] = lambda: True,
) -> None:
    """Train `model` in place with Adam and leave it at its best epoch's weights.

    After each epoch the batch normalization is re-estimated, and then the loss
    on the validation rows decides. Two calls with the same arguments on equal
    models give equal weights on the same machine. A model that was made on several
    devices trains on all of them, each with its part of every batch; batch normalization
    takes the statistics of the whole batch.

    Args:
        model: A tf_keras model that takes `split.features`.
        split: The train split, with labels or `targets`. Its weights multiply the losses, as
            `sample_weight` of Keras does.
        portions: Its rows to train on and to validate on.
        loss: A tf_keras loss, a list of them, or a function like one; see `loss_for`.
        epochs: Passes over the training rows, at least 1.
        batch_size: Examples in a step. What is left over in a pass is skipped;
            each pass has an order of its own.
        learning_rate: Learning rate of the Adam optimizer.
        seed: Of the order and of whatever random layers the model has.
        devices: What the model was made on.
        decay: Let the learning rate fall to 0 by the last step, on half a cosine
            (Loshchilov and Hutter 2017, arXiv:1608.03983), rather than stay constant.
        targets: What the loss compares the outputs with in the labels' place, an
            array [count, ...] over the split.
        callbacks: More tf_keras callbacks; their epoch end comes first.
        may_keep: Asked at each epoch's end whether its weights may be the
            result; where none may, the last epoch's are.

    Raises:
        StepFailedError: The loss is not finite in any epoch that may be kept.
    """
    seed_everything(seed)
    steps = steps_per_epoch(portions, batch_size)
    rate = learning_rate
    if decay:
        rate = tf_keras.optimizers.schedules.CosineDecay(learning_rate, epochs * steps)
    compile_loss(model, loss, tf_keras.optimizers.Adam(rate), jit_compile=devices.jit_compile)
    reestimate = Reestimation(model, devices)
    best_loss = np.inf
    best: list[NDArray[Any]] | None = None

    def finish_epoch(epoch: int, logs: Any) -> None:
        nonlocal best_loss, best
        reestimate(split, portions.train, batch_size=batch_size, seed=seed)
        batches = labelled_batches(
            model,
            split,
            portions.validation,
            batch_size=batch_size,
            targets=targets,
            full=devices.compiled,
        )
        # The sum, where there are several losses.
        validation = model.evaluate(batches, verbose=0, return_dict=True)["loss"]
        _log.info("epoch %d of %d: validation loss %.4f", epoch + 1, epochs, validation)
        kept = may_keep() or epoch + 1 == epochs
        if kept and np.isfinite(validation) and validation < best_loss:
            best_loss = validation
            best = [variable.numpy() for variable in model.variables]

    with synchronized_batch_norm(model), naming_refusals(model):
        model.fit(
            shuffled_batches(
                model, split, portions.train, batch_size=batch_size, seed=seed, targets=targets
            ),
            steps_per_epoch=steps,
            epochs=epochs,
            verbose=0,
            callbacks=[*callbacks, tf_keras.callbacks.LambdaCallback(on_epoch_end=finish_epoch)],
        )
    if best is None:
        raise StepFailedError(
            "fine-tuning diverged: the validation loss is not a finite number",
            received=f"learning_rate {learning_rate}",
            remedy="give a lower learning_rate",
        )
    for variable, value in zip(model.variables, best, strict=True):
        variable.assign(value)


def compile_loss(
    model: KerasModel, loss: Any, optimizer: Any = "sgd", *, jit_compile: bool = False
) -> None:
    """Compile `model` with `loss`, in the form of the model's outputs.

    Args:
        model: A tf_keras model.
        loss: A loss, or a list of one for each output.
        optimizer: For `fit`.
        jit_compile: Whether XLA compiles the steps of `fit` and `evaluate`.
    """
    losses = loss if isinstance(loss, list) else [loss]
    model.compile(optimizer, as_outputs(model, losses), jit_compile=jit_compile)


def steps_per_epoch(portions: Portions, batch_size: int) -> int:
    """Return the training steps in a pass over the training rows, at least 1."""
    return max(1, len(portions.train) // batch_size)


def keep_signature(model: KerasModel, source: Signature) -> None:
    """Have `model` saved with the signature names of the model it was made from.

    Wrapping renames layers, and a SavedModel may have been exported under names
    that its Keras form does not know; callers of the model use the source's names.

    Raises:
        UnsupportedError: The names can't be matched to the model's tensors.
    """
    for what, wanted in (("input", source.inputs), ("output", source.outputs)):
        names = list(getattr(model, f"{what}_names"))
        if set(names) == set(wanted):
            continue
        if len(names) != 1 or len(wanted) != 1:
            raise UnsupportedError(
                f"the signature's {what}s are not the Keras model's, and their order is ambiguous",
                received=f"signature: {', '.join(wanted)}; Keras: {', '.join(names)}",
                remedy="export the model under its Keras names, as model.save(DIR) does",
            )
        setattr(model, f"{what}_names", list(wanted))


def signature_of(model: Model, keras_model: KerasModel) -> Signature:
    """Return the signature of `model`'s SavedModel, or of its Keras file where it is one.

    Args:
        model: The artifact that `keras_model` was loaded from.
        keras_model: A tf_keras model.

    Raises:
        ModelError: The SavedModel is broken.
    """
    if not model.path.is_file():
        stored = SavedModel.open(model).signature()
        return Signature(_widened(stored.inputs), _widened(stored.outputs))
    return Signature(
        _specs(keras_model.input_names, keras_model.inputs),
        _specs(keras_model.output_names, keras_model.outputs),
    )


def _widened(specs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Replace half precision, which a Keras form has no more once it is loaded."""
    return {
        name: replace(spec, dtype="float32") if spec.dtype in HALF_DTYPES else spec
        for name, spec in specs.items()
    }


def _specs(names: Sequence[str], tensors: Sequence[Any]) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(name, tuple(tensor.shape), tensor.dtype.name)
        for name, tensor in zip(names, tensors, strict=True)
    }
