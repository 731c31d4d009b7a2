"""The step `prune`."""

from typing import Annotated

from annotated_types import Ge, Gt, Lt

from paring.artifacts import Examples, Model, PrunedModel
from paring.step import Input, Output, step


@step(version="2")
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
        model: A model in Keras form, with class scores or values as outputs.
        examples: Labelled examples; its train split is used.
        pruned: The same architecture under the same signature names, with the
            facts `sparsity`, measured over the prunable kernels, and `left_dense`.
        sparsity: The share of each prunable kernel that becomes zero.
        epochs: Passes over the train split.
        batch_size: Examples in a training step.
        learning_rate: Adam's.
        seed: Everything random follows from it.

    Raises:
        UnsupportedError: No layer can be pruned, the examples lack labels, or
            the model is not in Keras form, or no loss goes with its outputs.
        ModelError: `model` is missing or broken.
        ExamplesError: `examples` are missing or not what the model takes.
        StepFailedError: The training diverged.
    """
    from paring.tf.quiet import quiet_tensorflow

    quiet_tensorflow()
    from paring.tf.pruning import Pruning
    from paring.tf.training import open_training

    training = open_training(model, examples, batch_size, seed)
    steps = epochs * training.steps_per_epoch
    pruning = Pruning(training.model, sparsity=sparsity, steps=steps)
    training.fine_tune(
        pruning.model,
        epochs=epochs,
        learning_rate=learning_rate,
        callbacks=[pruning.callback()],
        may_keep=pruning.reached,
    )
    training.save(pruning.strip(), model, pruned)
    pruned.sparsity = pruning.sparsity()
    pruned.left_dense = ", ".join(pruning.left_out)
