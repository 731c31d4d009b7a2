"""Structured pruning of channels with fine-tuning."""

from dataclasses import replace
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from paring.artifacts import ChannelPrunedModel, Examples, Model
from paring.errors import UnsupportedError
from paring.step import Input, Output, Search, step
from paring.system.workers import StrategyName


@step(version="6", imports_models=True)
def prune_channels(
    model: Input[Model],
    examples: Input[Examples],
    pruned: Output[ChannelPrunedModel],
    *,
    ratio: Annotated[float, Gt(0), Lt(1), Search(0.1, 0.7, spacing=0.05)] = 0.3,
    importance: Literal["taylor", "l1", "batch_norm"] = "taylor",
    multiple_of: Annotated[int, Ge(1)] = 1,
    epochs: Annotated[int, Ge(1), Search(1, 16, log=True)] = 2,
    batch_size: Annotated[int, Ge(1)] = 32,
    learning_rate: Annotated[float, Gt(0), Search(1e-4, 5e-3, log=True)] = 1e-3,
    seed: Annotated[int, Ge(0)] = 0,
    weights: str = "",
    strategy: StrategyName = "auto",
) -> None:
    """Remove the least important channels of `model` and fine-tune the rest.

    Structured pruning: filters and units are removed with everything that is coupled to
    them (batch normalization, depthwise filters, residual sums, gates, concatenations), so
    that the layers themselves are smaller. Channels that the same layers produce are
    compared with each other, by one of three measures:

    - `taylor`: the change of the loss without them, to first order (Molchanov et al.
      2019, arXiv:1906.10771), on up to 512 training rows;
    - `l1`: the L1 norm of their filters (Li et al. 2017, arXiv:1608.08710);
    - `batch_norm`: the scale of the batch normalization after them (Liu et al. 2017,
      arXiv:1708.06519); channels without one stay.

    Channels that reach the model's output, or a layer of a kind that can't be followed,
    are kept, and the facts name the reason. The best epoch is kept, by the loss on a
    tenth of the train split; the eval split is not read. Batch-normalization
    statistics are re-estimated.

    Examples:
        >>> narrow = paring.prune_channels(network, arrays, ratio=0.5, epochs=1)
        >>> narrow.parameters < narrow.source_parameters
        True

    Args:
        model: A classifier in Keras form.
        examples: Labelled examples; its train split is used.
        pruned: The smaller model, with the same layer names, inputs and outputs under
            the same signature names, and the facts `parameters`, `flops`,
            `channels_removed` and `unprunable_groups`.
        ratio: The share of each group of channels to remove, rounded down.
        importance: Measure of importance; see above. The least important channels are removed.
        multiple_of: The number of channels that a group keeps is rounded up to a multiple
            of this.
        epochs: Passes over the train split.
        batch_size: Examples in a training step.
        learning_rate: Learning rate of the Adam optimizer.
        seed: Seed of all random numbers.
        weights: Column of sample weights, a number of 0 or more for each example, by which its
            loss is multiplied; "" for the column that the examples were imported with, if any.
            Examples of weight 0 are left out.
        strategy: Devices of the training: one_device; mirrored, all GPUs of the machine;
            multi_worker, the machines that TF_CONFIG names; tpu; xla, one device with the
            compiled steps of a TPU; auto takes what there is.

    Raises:
        UnsupportedError: No channel can be removed, the examples have no labels, or the model
            is no classifier in Keras form.
        ModelError: `model` is missing or broken.
        ExamplesError: `examples` are missing or not what the model takes.
        StepFailedError: The training diverged.
        MissingDependencyError: Strategy tpu was requested, and there is no TPU.
    """
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    from paring.graphs.graph import keras_cost
    from paring.training.channels.importance import channel_scores
    from paring.training.channels.surgery import choose, without_channels
    from paring.training.channels.tracing import trace
    from paring.training.training import open_training

    training = open_training(
        model, examples, batch_size=batch_size, seed=seed, strategy=strategy, weights=weights
    )
    devices = training.devices
    # What is cut is chosen on one device: the variables of several give no gradients here.
    source = replace(training, model=devices.take_off(training.model))
    graph = trace(source.model)
    scores = channel_scores(graph, importance, source)
    cut = choose(graph, scores, ratio=ratio, multiple_of=multiple_of)
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
    pruned.unprunable_groups = tuple(cut.unprunable_groups)
