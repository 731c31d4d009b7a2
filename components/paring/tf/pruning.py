"""Magnitude pruning with tensorflow-model-optimization, layer by layer."""

import logging
from typing import Any

import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry

from paring.tf.wrapping import share_of_zeros, wrap_layers

# Updates of the masks while the sparsity rises; each sorts every kernel.
_UPDATES = 100

_log = logging.getLogger(__name__)


class Pruning:
    """A model with its prunable layers wrapped, and when the wrappers are done.

    The sparsity rises from 0 to its target over the first half of the steps,
    as s(t) = s (1 - (1 - t/n)^3) of Zhu and Gupta, "To prune, or not to prune",
    2017 (arXiv:1710.01878); the other half recovers what that cost.

    Attributes:
        model: The wrapped model; it shares its weights with the one given.
        left_out: Names of layers with weights that can't be pruned.
    """

    def __init__(self, model: Any, *, sparsity: float, steps: int) -> None:
        """Wrap the layers of `model`.

        Args:
            model: A sequential or functional tf_keras model, with weights.
            sparsity: The share of zeros in each kernel at the end, in [0, 1).
            steps: How many steps the training will take, at least 1.

        Raises:
            UnsupportedError: No layer can be pruned.
        """
        ramp = max(1, steps // 2)
        frequency = max(1, ramp // _UPDATES)
        # The last update, the one to the target itself, falls on the last step.
        self._last_step = ramp - ramp % frequency
        self._schedule = tfmot.sparsity.keras.PolynomialDecay(
            initial_sparsity=0.0,
            final_sparsity=sparsity,
            begin_step=0,
            end_step=self._last_step,
            power=3,
            frequency=frequency,
        )
        wrapped = wrap_layers(model, self._wrap, step="prune", done="pruned")
        self.model, self.left_out = wrapped.model, wrapped.left_out
        self._wrappers = wrapped.wrappers
        if self.left_out:
            _log.info("not pruned, for want of support: %s", ", ".join(self.left_out))

    def callback(self) -> Any:
        """What keeps the wrappers' step and masks up to date in training."""
        return tfmot.sparsity.keras.UpdatePruningStep()

    def reached(self) -> bool:
        """Whether the sparsity has risen to its target."""
        return int(self._wrappers[0].pruning_step.numpy()) >= self._last_step

    def sparsity(self) -> float:
        """The share of zeros among all prunable weights, as they are now."""
        return share_of_zeros(
            kernel.numpy() for one in self._wrappers for kernel in one.prunable_weights
        )

    def strip(self) -> Any:
        """The model without wrappers, as it was given; it shares the weights."""
        return tfmot.sparsity.keras.strip_pruning(self.model)

    def _wrap(self, layer: Any) -> Any | None:
        if not _has_kernels(layer):
            return None
        return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=self._schedule)


def _has_kernels(layer: Any) -> bool:
    # The wrapper hands on one input only, and attention takes two.
    if isinstance(layer, tf_keras.layers.MultiHeadAttention) or not PruneRegistry.supports(layer):
        return False
    return bool(PruneRegistry.make_prunable(layer).get_prunable_weights())
