"""The step `prune_channels`."""

from dataclasses import replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from paring.artifacts import ChannelPrunedModel, Examples, Model
from paring.errors import UnsupportedError
from paring.step import Input, Output, step
from paring.system.workers import StrategyName


@step(version="4", imports_models=True)
def prune_channels(
    model: Input[Model],
    examples: Input[Examples],
    pruned: Output[ChannelPrunedModel],
    *,
    ratio: Annotated[float, Gt(0), Lt(1)] = 0.3,
    importance: Literal["taylor", "l1", "batch_norm"] = "taylor",
    multiple_of: Annotated[int, Ge(1)] = 1,
    epochs: Annotated[int, Ge(1)] = 2,
    batch_size: Annotated[int, Ge(1)] = 32,
    learning_rate: Annotated[float, Gt(0)] = 1e-3,
    seed: Annotated[int, Ge(0)] = 0,
    strategy: StrategyName = "auto",
) -> None:
    """Take the least important channels out of `model` and fine-tune what is left.

    Structured pruning: filters and units go with everything that is coupled to them
    (batch normalization, depthwise filters, residual sums, gates, concatenations), so
    that the layers themselves are smaller. Channels that the same layers make are
    compared with each other, by one of three measures:

    - `taylor`: the change of the loss without them, to first order (Molchanov et al.
      2019, arXiv:1906.10771), on up to 512 training rows;
    - `l1`: the L1 norm of their filters (Li et al. 2017, arXiv:1608.08710);
    - `batch_norm`: the scale of the batch normalization after them (Liu et al. 2017,
      arXiv:1708.06519); channels without one stay.

    Channels stay where they reach the model's output or a layer whose kind is not
    followed, and the facts name the reason. The best epoch is kept, by the loss on a
    tenth of the train split; the eval split is not looked at. Batch-normalization
    statistics are re-estimated.

    Args:
        model: A classifier in Keras form.
        examples: Labelled examples; its train split is used.
        pruned: The smaller model, with the same layer names, inputs and outputs under
            the same signature names, and the facts `parameters`, `flops`,
            `channels_removed` and `left_whole`.
        ratio: The share of each group of channels that goes, rounded down.
        importance: Which channels go first.
        multiple_of: Groups keep a multiple of this many channels: as many more stay
            as it takes.
        epochs: Passes over the train split.
        batch_size: Examples in a training step.
        learning_rate: Adam's.
        seed: Everything random follows from it.
        strategy: What the training runs on: one_device; mirrored, all GPUs of the machine;
            multi_worker, the machines that TF_CONFIG names; tpu; auto takes what there is.

    Raises:
        UnsupportedError: No channel can go, the examples have no labels, or the model
            is no classifier in Keras form.
        ModelError: `model` is missing or broken.
        ExamplesError: `examples` are missing or not what the model takes.
        StepFailedError: The training diverged.
        MissingDependencyError: There is no TPU, and strategy tpu was asked for.
    """
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    from paring.graphs.graph import keras_cost
    from paring.training.channels.importance import channel_scores
    from paring.training.channels.surgery import choose, without_channels
    from paring.training.channels.tracing import trace
    from paring.training.training import open_training

    training = open_training(model, examples, batch_size=batch_size, seed=seed, strategy=strategy)
    devices = training.devices
    # What is cut is chosen on one device: the variables of several give no gradients here.
    source = replace(training, model=devices.take_off(training.model))
    coupling = trace(source.model)
    scores = channel_scores(coupling, importance, source)
    cut = choose(coupling, scores, ratio=ratio, multiple_of=multiple_of)
    smaller = without_channels(source.model, cut)
    pruned.source_parameters, pruned.source_flops = keras_cost(source.model)
    with devices.scope():
        smaller = devices.put_on(smaller)
        training.fine_tune(smaller, epochs=epochs, learning_rate=learning_rate)
    pruned.parameters, pruned.flops = keras_cost(training.save(smaller, model, pruned))
    if (pruned.parameters or 0) >= (pruned.source_parameters or 0):
        raise UnsupportedError(
            "the model has no fewer weights after its channels were removed",
            received=f"{pruned.parameters} of {pruned.source_parameters}",
            remedy="use a recipe without prune_channels",
        )
    pruned.channels_removed = cut.removed
    pruned.left_whole = "; ".join(cut.left_whole)
