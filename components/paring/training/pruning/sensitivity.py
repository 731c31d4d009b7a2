"""Allocation of one budget of zeros to the layers, by their sensitivity.

The scan is that of Han, Pool, Tran and Dally, "Learning both Weights and Connections
for Efficient Neural Networks", 2015 (arXiv:1506.02626): each layer alone is pruned to
several sparsities, and the loss is looked at. The budget then goes to where it costs
least, as if the costs of layers added up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from paring.training.feeding import labelled_batches
from paring.training.pruning.patterns import Pattern, largest
from paring.training.pruning.pruning import kernels_of
from paring.training.training import Training, compile_loss

_LEVELS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9)
_HIGHEST = 0.95
# Examples that the loss is taken of.
EXAMPLES = 128


@dataclass(frozen=True)
class Sensitivity:
    """Loss of the model at each sparsity of one layer.

    Attributes:
        layer: The layer's name.
        weights: Number of its weights that can be pruned.
        levels: Sparsities in ascending order, the first of them 0.
        losses: The model's loss with this layer alone at each of them.
    """

    layer: str
    weights: int
    levels: tuple[float, ...]
    losses: tuple[float, ...]


def scan(
    training: Training, layers: Sequence[Any], *, sparsity: float, pattern: Pattern
) -> list[Sensitivity]:
    """Prune each layer alone to several sparsities; the model is left as it was.

    Args:
        training: Its model, and the rows held out of the train split for validation,
            up to 128 of which give the loss.
        layers: Layers of that model, or of models inside it.
        sparsity: The share of zeros to spread. A layer may get up to 0.95, or where
            that is near, up to half of what the share leaves.
        pattern: What the zeros are held to: unstructured or 1x4.
    """
    rows = training.portions.validation[:EXAMPLES]
    compile_loss(training.model, training.loss, jit_compile=training.devices.jit_compile)

    def loss() -> float:
        batches = labelled_batches(
            training.model,
            training.split,
            rows,
            batch_size=training.batch_size,
            full=training.devices.compiled,
        )
        return float(training.model.evaluate(batches, verbose=0))

    kernels = [(layer.name, kernels_of(layer)) for layer in layers]
    return scan_kernels(kernels, loss, sparsity=sparsity, pattern=pattern)


def scan_kernels(
    kernels: Sequence[tuple[str, Sequence[Any]]],
    loss: Callable[[], float],
    *,
    sparsity: float,
    pattern: Pattern,
) -> list[Sensitivity]:
    """Prune the kernels of each layer alone to several sparsities; they are left as they were.

    Args:
        kernels: The name of each layer, and its tf.Variables [..., channels in, channels out].
        loss: Computes the loss with the kernels as they are.
        sparsity: See `scan`.
        pattern: See `scan`.
    """
    levels = (*_LEVELS, max(_HIGHEST, (1 + sparsity) / 2))
    dense = loss()
    result: list[Sensitivity] = []
    for name, variables in kernels:
        before = [(variable, variable.numpy()) for variable in variables]
        losses = [dense]
        for level in levels[1:]:
            for variable, values in before:
                variable.assign(values * largest(values, level, pattern))
            losses.append(loss())
        for variable, values in before:
            variable.assign(values)
        size = sum(values.size for _, values in before)
        result.append(Sensitivity(name, size, levels, tuple(losses)))
    return result


def allocate(sensitivity: Sequence[Sensitivity], sparsity: float) -> list[float]:
    """Return the sparsity of each layer that gives all of them together the requested one.

    Between levels the loss is taken to be linear, and never to fall with more zeros; the
    lower convex hull of that is what is gone by. The budget is then best spent on the
    flattest pieces first.

    Args:
        sensitivity: The sensitivity of each layer.
        sparsity: The share of zeros among the weights of all layers, no more than the
            last of the levels.
    """
    pieces = sorted(
        (slope, index, start, end)
        for index, item in enumerate(sensitivity)
        for slope, start, end in _pieces(item)
    )
    left = sparsity * sum(item.weights for item in sensitivity)
    shares = [0.0] * len(sensitivity)
    for _, index, start, end in pieces:
        zeros = min(left, (end - start) * sensitivity[index].weights)
        shares[index] += zeros / sensitivity[index].weights
        left -= zeros
    return shares


def _pieces(sensitivity: Sensitivity) -> list[tuple[float, float, float]]:
    """Return the pieces of the hull: loss for a weight, and the sparsities between which."""
    losses = np.maximum.accumulate(sensitivity.losses).tolist()
    hull: list[tuple[float, float]] = []
    for point in zip(sensitivity.levels, losses, strict=True):
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return [
        (_slope(start, end) / sensitivity.weights, start[0], end[0])
        for start, end in pairwise(hull)
    ]


def _slope(start: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - start[1]) / (end[0] - start[0])
