"""Importance of each channel of a model, by three published measures."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from paring.training.channels.channel_graph import ChannelGraph, Channels, Role, WeightAxis
from paring.training.feeding import labelled_batches
from paring.training.losses import total_loss
from paring.training.training import Training

Scores = NDArray[np.float64]

# Examples that the gradients are taken from.
_EXAMPLES = 512


def channel_scores(graph: ChannelGraph, importance: str, training: Training) -> Scores:
    """Return the scores by `filter_norms`, `normalization_scales` or `loss_changes`.

    Args:
        graph: What `trace` found of the model of `training`.
        importance: "l1", "batch_norm" or "taylor".
        training: See `loss_changes`.
    """
    match importance:
        case "l1":
            return filter_norms(graph)
        case "batch_norm":
            return normalization_scales(graph)
    return loss_changes(graph, training)


def filter_norms(graph: ChannelGraph) -> Scores:
    """Return the L1 norms of the filters that make each channel.

    Li, Kadav, Durdanovic, Samet and Graf, "Pruning Filters for Efficient ConvNets",
    2017 (arXiv:1608.08710). Where several layers make tied channels, the norms are
    added up, those of each layer relative to their mean: a large kernel has no more
    say than a small one.

    Returns:
        float64 [channels], at the number that stands for all that are tied to it.
    """

    def relative(part: WeightAxis) -> Scores:
        norms = part.totals(np.abs(part.weight.numpy()))
        return norms / max(float(norms.mean()), np.finfo(np.float64).tiny)

    return _added_up(graph, Role.PRODUCER, relative)


def normalization_scales(graph: ChannelGraph) -> Scores:
    """Return the absolute scales (gamma) of the batch normalizations that a channel goes through.

    Liu, Li, Shen, Huang, Yan and Zhang, "Learning Efficient Convolutional Networks
    through Network Slimming", 2017 (arXiv:1708.06519), without its penalty on the
    scales in training. Several are added up.

    Returns:
        float64 [channels], as `filter_norms`; nan for a channel without a scale.
    """
    scales = _added_up(graph, Role.SCALES, lambda part: np.abs(part.weight.numpy()))
    result = _added_up(graph, Role.SCALES, lambda part: np.ones(len(part.channels)))
    return np.where(result > 0, scales, np.nan)


def loss_changes(graph: ChannelGraph, training: Training) -> Scores:
    """Return the squared change of the loss without each channel, to first order.

    Molchanov, Mallya, Tyree, Frosio and Kautz, "Importance Estimation for Neural
    Network Pruning", 2019 (arXiv:1906.10771): a set of weights as one, the set being a gate
    wherever a layer reads the channel. The gate's gradient is that of the weights which the
    channel is multiplied by, times these weights; it is squared for each batch and
    averaged, over 512 training rows or all if there are fewer, at inference. Sample weights
    multiply the losses.

    Args:
        graph: What `trace` found of the model.
        training: Holds the model, the loss, the rows and the seed that draws some.

    Returns:
        float64 [channels], as `filter_norms`.
    """
    rows = training.portions.train
    if len(rows) > _EXAMPLES:
        rows = np.sort(np.random.default_rng(training.seed).choice(rows, _EXAMPLES, replace=False))
    reading = [part for part in graph.parts if part.role is Role.CONSUMER]
    kernels = [part.weight for part in reading]
    squares: list[Scores] = []
    batches = labelled_batches(training.model, training.split, rows, batch_size=training.batch_size)
    for features, labels, *weights in batches:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(kernels)
            outputs = training.model(features, training=False)
            loss = total_loss(training.loss, labels, outputs, *weights)
        result = tape.gradient(loss, kernels, unconnected_gradients="zero")
        slopes = {id(part): item.numpy() for part, item in zip(reading, result, strict=True)}
        squares.append(_added_up(graph, Role.CONSUMER, partial(_gate_gradients, slopes)) ** 2)
    return np.asarray(np.mean(squares, axis=0))


def _gate_gradients(slopes: Mapping[int, NDArray[Any]], part: WeightAxis) -> Scores:
    return part.totals(part.weight.numpy() * slopes[id(part)])


def _added_up(graph: ChannelGraph, role: Role, score: Callable[[WeightAxis], Scores]) -> Scores:
    roots: Channels = graph.roots()
    total = np.zeros(len(roots))
    for part in graph.parts:
        if part.role is role:
            np.add.at(total, roots[part.channels], score(part))
    return total
