"""Patterns of the zeros of a pruned kernel.

Kernels are [..., channels in, channels out], as tf_keras has them.

- unstructured: the zeros are anywhere.
- 1x4: the zeros come in blocks of four neighbouring output channels at one input, as
  the sparse kernels of Elsen, Dukhan, Gale and Simonyan, "Fast Sparse ConvNets", 2019
  (arXiv:1911.09723) take them. Where four does not divide the channels, the last
  block is smaller.
- 2:4: two of four neighbouring input channels are zero, as sparse tensor cores take
  them: Mishra and others, "Accelerating Sparse Deep Neural Networks", 2021
  (arXiv:2104.08378). A last group of fewer than four keeps two weights.
"""

from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_impl import Pruning

Pattern = Literal["unstructured", "1x4", "2:4"]

GROUP = 4
_KINDS = (tf_keras.layers.Conv2D, tf_keras.layers.Dense, tf_keras.layers.SeparableConv2D)


def misfit(layer: Any, kernel: Any, pattern: Pattern) -> str | None:
    """Return the reason why a layer's kernel can't follow the pattern; None if it can."""
    if pattern == "unstructured":
        return None
    if type(layer) not in _KINDS:
        return f"pattern {pattern} is for convolutions and dense layers"
    axis, side = (-1, "output") if pattern == "1x4" else (-2, "input")
    if kernel.shape[axis] < GROUP:
        return f"fewer than {GROUP} {side} channels"
    return None


def follows(kernel: NDArray[Any], pattern: Pattern) -> bool:
    """Return whether the zeros of the kernel follow the pattern everywhere."""
    if pattern == "unstructured":
        return True
    # The groups lie along the last axis.
    nonzero = (kernel if pattern == "1x4" else np.swapaxes(kernel, -1, -2)) != 0
    starts, sizes = _groups(nonzero.shape[-1], GROUP)
    counts = np.add.reduceat(nonzero.astype(int), starts, axis=-1)
    if pattern == "2:4":
        return bool(np.all(counts <= 2))
    return bool(np.all((counts == 0) | (counts == sizes)))


def zero_groups(kernel: NDArray[Any], pattern: Pattern) -> tuple[int, int]:
    """Count what a sparsity is a share of: weights, or in pattern 1x4 blocks.

    Returns:
        How many of them are zero, and how many there are. In pattern 2:4, where a last
        group of fewer than four keeps two weights, that group is not counted.
    """
    if pattern == "1x4":
        starts, _ = _groups(kernel.shape[-1], GROUP)
        nonzero = np.add.reduceat((kernel != 0).astype(int), starts, axis=-1)
        return int(np.count_nonzero(nonzero == 0)), nonzero.size
    counted = kernel
    if pattern == "2:4":
        counted = kernel[..., : kernel.shape[-2] // GROUP * GROUP, :]
    return int(np.count_nonzero(counted == 0)), counted.size


def largest(kernel: NDArray[Any], sparsity: float, pattern: Pattern) -> NDArray[np.bool_]:
    """Return a mask of the weights that stay at a sparsity: those of the largest magnitude.

    Args:
        kernel: Of two dimensions or more.
        sparsity: The share that does not stay, in [0, 1).
        pattern: unstructured, or 1x4, which ranks blocks by the mean of their magnitudes.

    Returns:
        A mask of the kernel's shape.
    """
    starts, sizes = _groups(kernel.shape[-1], GROUP if pattern == "1x4" else 1)
    scores = np.add.reduceat(np.abs(kernel), starts, axis=-1) / sizes
    dropped = scores.size - max(1, round(scores.size * (1 - sparsity)))
    threshold = np.partition(scores, dropped, axis=None)[dropped]
    kept: NDArray[np.bool_] = np.repeat(scores >= threshold, sizes, axis=-1)
    return kept


def two_of_four(kernel: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask of the weights that stay in pattern 2:4: the two largest of each group.

    Args:
        kernel: [..., channels in, channels out].

    Returns:
        A mask of the kernel's shape.
    """
    scores = np.swapaxes(np.abs(kernel), -1, -2)
    padded = np.pad(
        scores, [(0, 0)] * (scores.ndim - 1) + [(0, -scores.shape[-1] % GROUP)], constant_values=-1
    )
    groups = padded.reshape(*padded.shape[:-1], -1, GROUP)
    # Stable, so that of equal ones the first stay.
    order = np.argsort(-groups, axis=-1, kind="stable")
    kept = np.zeros(groups.shape, bool)
    np.put_along_axis(kept, order[..., :2], True, axis=-1)
    mask: NDArray[np.bool_] = kept.reshape(padded.shape)[..., : scores.shape[-1]]
    return np.swapaxes(mask, -1, -2)


def _groups(channels: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the start and size of each group of neighbouring channels."""
    starts = np.arange(0, channels, width)
    return starts, np.minimum(width, channels - starts)


class BlockPruning(Pruning):  # type: ignore[misc]
    """The library's pruning with masks for pattern 1x4.

    Its own blocks are for kernels with two dimensions alone.
    """

    def _maybe_update_block_mask(self, weights: Any) -> Any:
        channels = weights.shape[-1]
        flat = tf.abs(tf.reshape(weights, [-1, channels]))
        padded = tf.pad(flat, [[0, 0], [0, -channels % GROUP]])
        sums = tf.reduce_sum(tf.reshape(padded, [flat.shape[0], -1, GROUP]), axis=-1)
        _, sizes = _groups(channels, GROUP)
        threshold, mask = self._update_mask(sums / tf.constant(sizes, sums.dtype))
        mask = tf.repeat(mask, GROUP, axis=1)[:, :channels]
        return threshold, tf.reshape(mask, weights.shape)
