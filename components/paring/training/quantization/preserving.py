"""Preservation of zeros and shared values in quantization-aware training.

Weights that are equal stay equal if they start so and always get equal gradients,
since the optimizer works on each weight alone. So a zero gets none, and the weights
of a cluster all get the sum of theirs, as in Han, Mao and Dally, "Deep Compression",
2016 (arXiv:1510.00149).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import (
    QuantizeWrapper,
)

from paring.errors import UnsupportedError
from paring.models.library_types import KerasModel
from paring.training.wrapping import share_of_zeros

# As many as the step `cluster` makes, and as int8 can tell apart.
_MOST_CLUSTERS = 256


@dataclass(frozen=True)
class _Kernel:
    """Kernel whose zeros or shared values are kept.

    Attributes:
        variable: The kernel itself.
        zeros: Where it is zero and stays so, bool in the kernel's shape; or None.
        clusters: The number of each weight's cluster, likewise int32; or None.
    """

    variable: Any
    zeros: NDArray[np.bool_] | None
    clusters: NDArray[np.int32] | None

    def settle(self) -> None:
        """Make the weights of each cluster equal to the bit, at their mean."""
        if self.clusters is None:
            return
        # Vectorized and other parts of a loop may round differently.
        flat = self.clusters.reshape(-1)
        values = self.variable.numpy()
        means = np.bincount(flat, values.reshape(-1)) / np.bincount(flat)
        settled = means[self.clusters].astype(values.dtype)
        self.variable.assign(settled if self.zeros is None else np.where(self.zeros, 0, settled))


class Preserving:
    """Kernels of a model with fake quantization whose zeros or shared values are kept.

    Attributes:
        not_preserved: The layers with kernels that do not keep all that was
            requested, each with the reason.
    """

    def __init__(self, model: KerasModel, *, sparsity: bool, clusters: bool) -> None:
        """Make the training of `model` preserve its kernels, in place.

        The int8 scale of a kernel with clusters is one for all of its channels, so
        that it has no more distinct int8 values than clusters.

        Args:
            model: What `paring.training.quantization.qat.fake_quantized` made, not trained yet.
            sparsity: Keep zeros where they are.
            clusters: Keep equal weights equal: in kernels where, zeros aside, at
                most half as many values as weights occur, and no more than 256.

        Raises:
            UnsupportedError: No kernel has zeros, or none has clusters.
        """
        self._kernels: list[_Kernel] = []
        self.not_preserved: list[str] = []
        for layer in model.layers:
            if isinstance(layer, QuantizeWrapper) and layer._weight_vars:
                self._preserve(layer, sparsity, clusters)
            elif any(len(weight.shape) > 1 for weight in layer.trainable_weights):
                self.not_preserved.append(f"{layer.name} (in float)")
        if sparsity and all(kernel.zeros is None for kernel in self._kernels):
            raise self._nothing_to_keep(model, "zeros", "prune")
        if clusters and all(kernel.clusters is None for kernel in self._kernels):
            raise self._nothing_to_keep(model, "clusters", "cluster")

    def settle(self) -> None:
        """Restore the equality of weights that rounding in training has changed."""
        for kernel in self._kernels:
            kernel.settle()

    def sparsity(self) -> float | None:
        """Return the share of zeros among the kernels whose zeros are kept, as they are now."""
        kept = [kernel.variable.numpy() for kernel in self._kernels if kernel.zeros is not None]
        return share_of_zeros(kept) if kept else None

    def distinct_weights(self) -> int | None:
        """Return the most distinct values in any kernel whose clusters are kept."""
        kept = [item.variable.numpy() for item in self._kernels if item.clusters is not None]
        return max((len(np.unique(kernel)) for kernel in kept), default=None)

    def _preserve(self, wrapper: Any, sparsity: bool, clusters: bool) -> None:
        missing: list[str] = []
        quantized: list[Any] = []
        for variable, quantizer, ranges in wrapper._weight_vars:
            values = variable.numpy()
            kernel = _Kernel(
                variable,
                _zeros(values) if sparsity else None,
                _clusters(values) if clusters else None,
            )
            if sparsity and kernel.zeros is None:
                missing.append("no zeros")
            if clusters and kernel.clusters is None:
                missing.append("no clusters")
            self._kernels.append(kernel)
            quantized.append((variable, _Quantizer(quantizer, kernel), ranges))
        wrapper._weight_vars = quantized
        if missing:
            self.not_preserved.append(f"{wrapper.name} ({', '.join(dict.fromkeys(missing))})")

    def _nothing_to_keep(self, model: KerasModel, what: str, step: str) -> UnsupportedError:
        return UnsupportedError(
            f"model {model.name} has no {what} to preserve in any kernel that is quantized",
            received=", ".join(self.not_preserved[:5]),
            remedy=f"{step} it first: a recipe with a step {step} before quantize",
        )


class _Quantizer:
    """Quantizer of a kernel, as the library's, with its own range and gradients."""

    def __init__(self, rounding: Any, kernel: _Kernel) -> None:
        self._rounding = rounding
        self._restricted = _restricted(kernel)
        per_channel = rounding.per_axis and kernel.clusters is None
        # One range for each of the last axis, or one for all.
        self._axes = list(range(len(kernel.variable.shape) - 1)) if per_channel else None

    def __call__(self, inputs: Any, training: Any, weights: Mapping[str, Any]) -> Any:
        if training:
            inputs = self._restricted(tf.convert_to_tensor(inputs))
            limit = tf.reduce_max(tf.abs(inputs), axis=self._axes)
            # A channel of zeros takes any scale but a tiny one, which its bias would not
            # fit: the converter stores that at a product of the scale.
            limit = tf.where(limit > 0, limit, 1)
            for name, bound in (("min_var", -limit), ("max_var", limit)):
                weights[name].assign(tf.broadcast_to(bound, weights[name].shape))
        # Not in training the quantizer uses the range as it is.
        return self._rounding(inputs, False, weights)


def _restricted(kernel: _Kernel) -> Any:
    """Return the identity, with the gradients that keep `kernel` as it is."""
    mask = None if kernel.zeros is None else tf.constant(~kernel.zeros, kernel.variable.dtype)
    clusters = None if kernel.clusters is None else tf.constant(kernel.clusters)
    count = 0 if kernel.clusters is None else int(kernel.clusters.max()) + 1

    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def restricted(values: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            if clusters is not None:
                sums = tf.math.unsorted_segment_sum(upstream, clusters, count)
                upstream = tf.gather(sums, clusters)
            return upstream if mask is None else upstream * mask

        return tf.identity(values), gradient

    return restricted


def _zeros(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    zeros: NDArray[np.bool_] = values == 0
    return zeros if zeros.any() else None


def _clusters(values: NDArray[Any]) -> NDArray[np.int32] | None:
    centroids, numbers = np.unique(values, return_inverse=True)
    if len(centroids) > _MOST_CLUSTERS:
        return None
    nonzero = np.count_nonzero(values)
    if nonzero == 0 or 2 * np.count_nonzero(centroids) > nonzero:
        return None
    return numbers.reshape(values.shape).astype(np.int32)
