"""The step `prune`."""

from typing import Annotated

from annotated_types import Ge, Gt, Lt

from paring.artifacts import Examples, Model, PrunedModel
from paring.step import Input, Output, step


@step(version="1")
def prune(
    model: Input[Model],
    examples: Input[Examples],
    pruned: Output[PrunedModel],
    *,
    sparsity: Annotated[float, Ge(0), Lt(1)] = 0.5,
    epochs: Annotated[int, Ge(1)] = 2,
    batch_size: Annotated[int, Ge(1)] = 32,
    learning_rate: Annotated[float, Gt(0)] = 1e-3,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Set the smallest weights of `model` to zero and fine-tune the rest.

    Magnitude pruning of each kernel on the gradual schedule of Zhu and Gupta
    (2017, arXiv:1710.01878), by tensorflow-model-optimization. Layers that it
    can't prune stay dense and are named in the facts. The best epoch among those at the
    full sparsity is kept, by the loss on a tenth of the train split; the eval
    split is not looked at. Batch-normalization statistics are re-estimated.

    Args:
        model: A classifier in Keras form.
        examples: Labelled examples; its train split is used.
        pruned: The same architecture under the same signature names, with the
            facts `sparsity`, measured over the prunable kernels, and `left_dense`.
        sparsity: The share of each prunable kernel that becomes zero.
        epochs: Passes over the train split.
        batch_size: Examples in a training step.
        learning_rate: Adam's.
        seed: Everything random follows from it.

    Raises:
        UnsupportedError: No layer can be pruned, the examples have no labels, or
            the model is no classifier in Keras form.
        ModelError: `model` is missing or broken.
        ExamplesError: `examples` are missing or not what the model takes.
        StepFailedError: The training diverged.
    """
    from paring.tf.loading import load_keras, quiet_tensorflow, save_model

    quiet_tensorflow()
    from paring.tf.examples import open_split
    from paring.tf.feeding import hold_out
    from paring.tf.pruning import Pruning
    from paring.tf.training import (
        check_trainable,
        fine_tune,
        keep_signature,
        loss_for,
        seed_everything,
        signature_of,
        steps_per_epoch,
    )

    seed_everything(seed)
    source = load_keras(model)
    signature = signature_of(model, source)
    split = open_split(examples, "train", signature)
    batch_size = check_trainable(source, split, batch_size)
    loss = loss_for(source)
    portions = hold_out(split, seed)
    steps = epochs * steps_per_epoch(portions, batch_size)
    pruning = Pruning(source, sparsity=sparsity, steps=steps)
    fine_tune(
        pruning.model,
        split,
        portions,
        loss=loss,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        callbacks=[pruning.callback()],
        may_keep=pruning.reached,
    )
    stripped = pruning.strip()
    keep_signature(stripped, signature)
    save_model(stripped, pruned)
    pruned.trusted = model.trusted
    pruned.sparsity = pruning.sparsity()
    pruned.left_dense = ", ".join(pruning.left_out)
