"""Magnitude pruning with tensorflow-model-optimization, layer by layer."""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras
from numpy.typing import NDArray
from tensorflow_model_optimization.python.core.sparsity.keras.prune_registry import PruneRegistry
from tensorflow_model_optimization.python.core.sparsity.keras.pruning_wrapper import (
    PruneLowMagnitude,
)

from paring.errors import UnsupportedError
from paring.models.library_types import KerasModel
from paring.models.wrapper_masks import call_arguments, output_mask
from paring.training.pruning.patterns import BlockPruning, Pattern, follows, misfit, zero_groups
from paring.training.wrapping import share_of_zeros, wrap_layers

# Updates of the masks while the sparsity rises; each sorts every kernel.
_UPDATES = 100
# Of Zhu and Gupta's schedule.
_POWER = 3

# Of the requested share of zeros; a model none of whose kernels has it was not pruned.
_LEAST_SHARE = 0.5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """Training steps in which masks are computed again, and the sparsity in each.

    The sparsity rises from 0 to its target over the first half of the steps, as
    s(t) = s (1 - (1 - t/n)^3) of Zhu and Gupta, "To prune, or not to prune", 2017
    (arXiv:1710.01878). In pattern 2:4 all zeros are there from the first step.

    Attributes:
        frequency: Steps from one update of the masks to the next.
        last_step: The step of the last update, the one to the target.
    """

    frequency: int
    last_step: int

    @classmethod
    def of(cls, steps: int, pattern: Pattern) -> Self:
        """Return the schedule of a training of so many steps, at least 1."""
        if pattern == "2:4":
            return cls(1, 1)
        ramp = max(1, steps // 2)
        frequency = max(1, ramp // _UPDATES)
        # The last update falls on the last step.
        return cls(frequency, ramp - ramp % frequency)

    def is_due(self, step: int) -> bool:
        """Return whether the masks are computed again in a step; the first one is 1."""
        return step <= self.last_step and step % self.frequency == 0

    def sparsity(self, step: int, target: float) -> float:
        """Return the sparsity in a step."""
        left = 1 - min(step, self.last_step) / self.last_step
        return float(target * (1 - left**_POWER))


class PrunedLayer(PruneLowMagnitude):  # type: ignore[misc]
    """The library's wrapper, with masks that `MaskUpdates` makes.

    The library's own makes masks in calls with training=True alone, and so none in a
    model that is called with training=False, as a base in transfer learning is; it
    counts a step in each call of a layer that is called several times; and it loses the
    masks of padding.
    """

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        """Call the layer with its kernels masked."""
        self.add_update(self.pruning_obj.weight_mask_op())
        kwargs = call_arguments(self.layer, kwargs)
        if "training" in inspect.getfullargspec(self.layer.call).args:
            kwargs["training"] = training
        return self.layer.call(inputs, **kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the mask that the layer gives its outputs."""
        return output_mask(self.layer, inputs, mask)


class MaskUpdates(tf_keras.callbacks.Callback):  # type: ignore[misc]
    """Callback that updates the masks of wrappers during training.

    Attributes:
        steps: Training steps that began.
    """

    def __init__(self, wrappers: Sequence[Any], is_due: Callable[[int], bool]) -> None:
        """Take the wrappers, and the steps in which their masks are computed again."""
        super().__init__()
        self._wrappers = wrappers
        self._is_due = is_due
        self.steps = 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Count the step, and make the masks where they are due."""
        self.steps += 1
        if self._is_due(self.steps):
            for wrapper in self._wrappers:
                wrapper.pruning_step.assign(self.steps)
                wrapper.pruning_obj.conditional_mask_update()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Mask what the last step of the optimizer made of the kernels."""
        for wrapper in self._wrappers:
            wrapper.pruning_obj.weight_mask_op()


class Pruning:
    """A model with its prunable layers wrapped, and when the wrappers are done.

    The sparsity rises from 0 to its target over the first half of the steps,
    as s(t) = s (1 - (1 - t/n)^3) of Zhu and Gupta, "To prune, or not to prune",
    2017 (arXiv:1710.01878); the other half recovers what that cost. In pattern 2:4
    all zeros are there from the first step.

    Attributes:
        model: The wrapped model; it shares its weights with the one given.
        left_out: Names of layers with weights that can't be pruned.
    """

    def __init__(
        self, model: KerasModel, *, sparsities: Mapping[Any, float], steps: int, pattern: Pattern
    ) -> None:
        """Wrap the layers of `model`.

        Args:
            model: A sequential or functional tf_keras model, with weights.
            sparsities: The share of zeros at the end, in [0, 1), in each kernel of each
                layer of `prunable_layers`.
            steps: How many steps the training will take, at least 1.
            pattern: What the zeros are held to; see `paring.training.pruning.patterns`. In 2:4 the
                sparsity is that of the pattern.

        Raises:
            UnsupportedError: No layer can be pruned.
        """
        self._pattern = pattern
        self._schedule = Schedule.of(steps, pattern)
        self._sparsities = sparsities
        self._wrapped_layers: list[Any] = []
        wrapped = wrap_layers(model, self._wrap, kernels_of, step="prune", done="pruned")
        self.model, self.left_out = wrapped.model, wrapped.left_out
        self._wrappers = wrapped.wrappers
        self._asked = [sparsities[layer] for layer in self._wrapped_layers]
        self._masks = MaskUpdates(self._wrappers, self._schedule.is_due)
        if pattern == "1x4":
            for wrapper in self._wrappers:
                wrapper.pruning_obj = BlockPruning(
                    lambda wrapper=wrapper: wrapper.pruning_step,
                    wrapper.pruning_vars,
                    wrapper.pruning_schedule,
                    block_size=(1, 1),
                    block_pooling_type="AVG",
                )
        if self.left_out:
            _log.info("not pruned, for want of support: %s", ", ".join(self.left_out))

    def callback(self) -> Any:
        """Return the callback that makes the masks in training."""
        return self._masks

    def reached(self) -> bool:
        """Return whether the sparsity has risen to its target."""
        return self._masks.steps >= self._schedule.last_step

    def shortfalls(self) -> list[str]:
        """Return the layers that have fewer zeros than requested, each with the reason.

        Raises:
            UnsupportedError: No kernel has even half of its zeros.
        """
        return shortfalls(
            (
                (wrapper.layer.name, kernel.numpy(), asked)
                for wrapper, asked in zip(self._wrappers, self._asked, strict=True)
                for kernel in wrapper.prunable_weights
            ),
            self._pattern,
        )

    def sparsity(self) -> float:
        """Return the share of zeros among all prunable weights, as they are now."""
        return share_of_zeros(self._kernels())

    def layer_sparsities(self) -> list[tuple[str, float]]:
        """Return the name of each layer, and the share of zeros in its kernels as they are now."""
        return [
            (
                wrapper.layer.name,
                share_of_zeros(kernel.numpy() for kernel in wrapper.prunable_weights),
            )
            for wrapper in self._wrappers
        ]

    def pattern(self) -> Pattern:
        """Return the requested pattern, if all kernels follow it as they are now."""
        if all(follows(kernel, self._pattern) for kernel in self._kernels()):
            return self._pattern
        return "unstructured"

    def strip(self) -> KerasModel:
        """Return the model without wrappers, as it was given; it shares the weights."""
        return tfmot.sparsity.keras.strip_pruning(self.model)

    def _kernels(self) -> list[NDArray[Any]]:
        return [kernel.numpy() for wrapper in self._wrappers for kernel in wrapper.prunable_weights]

    def _wrap(self, layer: Any) -> Any | None:
        kernels = kernels_of(layer)
        if not kernels:
            return None
        reason = misfit(layer, kernels[0], self._pattern)
        if reason is not None:
            return reason
        self._wrapped_layers.append(layer)
        return PrunedLayer(
            layer,
            pruning_schedule=tfmot.sparsity.keras.PolynomialDecay(
                initial_sparsity=0.0,
                final_sparsity=self._sparsities[layer],
                begin_step=0,
                end_step=self._schedule.last_step,
                power=_POWER,
                frequency=self._schedule.frequency,
            ),
            sparsity_m_by_n=(2, 4) if self._pattern == "2:4" else None,
        )


def shortfalls(kernels: Iterable[tuple[str, NDArray[Any], float]], pattern: Pattern) -> list[str]:
    """Return the layers that have fewer zeros than requested, each with the reason.

    Args:
        kernels: Name, kernel and requested share of zeros of each.
        pattern: What the zeros are held to.

    Raises:
        UnsupportedError: No kernel has even half of its zeros.
    """
    short: list[str] = []
    least: list[bool] = []
    for name, kernel, asked in kernels:
        zeros, groups = zero_groups(kernel, pattern)
        wanted = int(asked * groups)
        if wanted:
            least.append(zeros >= _LEAST_SHARE * wanted)
        # Rounding the number of weights that stay may take one.
        if zeros < wanted - 1:
            short.append(f"{name}: {zeros / groups:.3f} of {asked:.3f}, {_reason(kernel)}")
    if least and not any(least):
        raise UnsupportedError(
            "no kernel of the model has the requested zeros after training",
            received="; ".join(short[:5]),
            remedy="use a recipe without prune",
        )
    return short


def _reason(kernel: NDArray[Any]) -> str:
    """Return why a kernel has fewer zeros than its mask was to make."""
    left = np.abs(kernel[kernel != 0])
    values = len(np.unique(left))
    if 2 * values <= left.size:
        return f"since its other {left.size} weights have {values} magnitudes, and equal ones stay"
    return "since its mask was not made"


def prunable_layers(model: KerasModel, pattern: Pattern) -> list[Any]:
    """Return the layers of `model`, and of models inside it, that can be pruned to the pattern."""
    result: dict[Any, None] = {}
    for layer in model.layers:
        if isinstance(layer, tf_keras.Model):
            result |= dict.fromkeys(prunable_layers(layer, pattern))
        elif (kernels := kernels_of(layer)) and misfit(layer, kernels[0], pattern) is None:
            result[layer] = None
    return list(result)


def kernels_of(layer: Any) -> list[Any]:
    """Return the variables of `layer` that the library can prune."""
    # The wrapper hands on one input only, and attention takes two.
    if isinstance(layer, tf_keras.layers.MultiHeadAttention) or not PruneRegistry.supports(layer):
        return []
    return list(PruneRegistry.make_prunable(layer).get_prunable_weights())
