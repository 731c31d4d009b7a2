"""Magnitude pruning of a SavedModel's graph."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from paring.artifacts import PrunedModel
from paring.training.graphs.graph_training import GraphTraining
from paring.training.graphs.weights import GraphWeight
from paring.training.pruning.patterns import GROUP, Pattern, follows, largest, two_of_four
from paring.training.pruning.pruning import Schedule, shortfalls
from paring.training.pruning.sensitivity import EXAMPLES, allocate, scan_kernels
from paring.training.wrapping import share_of_zeros

Allocation = Literal["uniform", "sensitivity"]


@dataclass(frozen=True, eq=False)
class _PrunedKernel:
    """Kernel in training, with channels in and channels out as its last axes where it has these.

    Attributes:
        weight: The kernel of the source.
        variable: Its values in training.
        mask: 1 for weights that stay and 0 for the others, in the variable's shape.
    """

    weight: GraphWeight
    variable: Any
    mask: Any

    def value(self) -> Any:
        """Return the masked kernel, in the graph's order of axes."""
        masked = self.variable * self.mask
        return tf.transpose(masked) if self.weight.layout == "out_in" else masked


class GraphPruning:
    """Kernels of a graph that are pruned on a schedule while it is trained.

    Attributes:
        left_out: Names of other weights with several axes, each with the reason.
    """

    def __init__(self, training: GraphTraining, *, pattern: Pattern) -> None:
        """Take the kernels of a graph.

        Args:
            training: The training.
            pattern: What the zeros are held to; see `paring.training.pruning.patterns`.

        Raises:
            UnsupportedError: No kernel can be pruned.
        """
        self._training = training
        self._pattern = pattern
        self._kernels: list[_PrunedKernel] = []
        chosen, self.left_out = training.choose_kernels(
            lambda weight: _misfit(weight, pattern), step="prune", participle="pruned"
        )
        for weight in chosen:
            values = _oriented(weight, weight.value)
            kernel = _PrunedKernel(
                weight,
                tf.Variable(values, name="kernel"),
                tf.Variable(np.ones_like(values), trainable=False, name="mask"),
            )
            self._kernels.append(kernel)
        self._others = training.other_variables({item.weight for item in self._kernels})
        self._shares = dict.fromkeys(self._kernels, 0.0)
        self._step = 0

    def allocate(self, sparsity: float, allocation: Allocation) -> list[dict[str, Any]]:
        """Set the share of zeros of each kernel.

        Args:
            sparsity: The share of each kernel, or with sensitivity of all of them.
            allocation: uniform or sensitivity.

        Returns:
            With sensitivity, the losses that were measured and the share of each kernel.
        """
        if allocation == "uniform":
            self._shares = dict.fromkeys(self._kernels, sparsity)
            return []
        rows = self._training.portions.validation[:EXAMPLES]
        loss = self._training.validation_loss(self._values)
        measured = scan_kernels(
            [(item.weight.name, [item.variable]) for item in self._kernels],
            lambda: loss(rows),
            sparsity=sparsity,
            pattern=self._pattern,
        )
        shares = allocate(measured, sparsity)
        self._shares = dict(zip(self._kernels, shares, strict=True))
        return [
            asdict(item) | {"asked": share} for item, share in zip(measured, shares, strict=True)
        ]

    def train(self, *, epochs: int, learning_rate: float) -> None:
        """Prune on the schedule, and leave the weights at the best epoch at the full sparsity."""
        schedule = Schedule.of(epochs * self._training.steps_per_epoch, self._pattern)
        # The optimizer gets no gradient of what is masked, but goes on moving it.
        self._training.fine_tune(
            [*(item.variable for item in self._kernels), *self._others.values()],
            self._values,
            state=[item.mask for item in self._kernels],
            epochs=epochs,
            learning_rate=learning_rate,
            before_step=lambda: self._update(schedule),
            may_keep=lambda: self._step >= schedule.last_step,
        )

    def save(self, pruned: PrunedModel) -> None:
        """Write the pruned model, with facts that are read from its file.

        Raises:
            UnsupportedError: No kernel has even half of its zeros.
        """
        # Zeros without a sign, as other tools write them.
        values = {item.weight: item.value().numpy() + np.float32(0) for item in self._kernels}
        values |= {weight: variable.numpy() for weight, variable in self._others.items()}
        written = self._training.save(values, pruned)
        stored = {item.nodes: item for item in written.weights.kernels}
        kernels = [
            (item.weight.name, _oriented(item.weight, stored[item.weight.nodes].value), share)
            for item, share in self._shares.items()
        ]
        pruned.not_reached = tuple(shortfalls(kernels, self._pattern))
        pruned.sparsity = share_of_zeros(kernel for _, kernel, _ in kernels)
        pruned.layer_sparsities = tuple(
            f"{name} {share_of_zeros([kernel]):.3f}" for name, kernel, _ in kernels
        )
        followed = all(follows(kernel, self._pattern) for _, kernel, _ in kernels)
        pruned.pattern = self._pattern if followed else "unstructured"
        pruned.unpruned_layers = tuple(self.left_out)

    def _values(self) -> Mapping[GraphWeight, Any]:
        return {item.weight: item.value() for item in self._kernels} | {
            weight: variable.read_value() for weight, variable in self._others.items()
        }

    def _update(self, schedule: Schedule) -> None:
        """Count a step, and compute the masks where that is due."""
        self._step += 1
        if not schedule.is_due(self._step):
            return
        for item in self._kernels:
            values = item.variable.numpy() * item.mask.numpy()
            share = schedule.sparsity(self._step, self._shares[item])
            kept = (
                two_of_four(values)
                if self._pattern == "2:4"
                else largest(values, share, self._pattern)
            )
            item.mask.assign(kept.astype(np.float32))


def prune_graph(
    training: GraphTraining,
    pruned: PrunedModel,
    *,
    sparsity: float,
    pattern: Pattern,
    allocation: Allocation,
    epochs: int,
    learning_rate: float,
) -> None:
    """Prune a SavedModel's graph and write the result; see the step `prune`."""
    pruning = GraphPruning(training, pattern=pattern)
    table = pruning.allocate(sparsity, allocation)
    if table:
        pruned.sensitivity_file.write_text(json.dumps(table, indent=2) + "\n")
    pruning.train(epochs=epochs, learning_rate=learning_rate)
    pruning.save(pruned)


def _misfit(weight: GraphWeight, pattern: Pattern) -> str | None:
    """Return the reason why a kernel can't be pruned to the pattern; None if it can."""
    if "DepthwiseConv2dNative" in weight.operators:
        # As in Keras form: it has few weights, and each of them matters.
        return "the kernel of a depthwise convolution"
    if pattern == "unstructured":
        return None
    if weight.layout == "other":
        return f"pattern {pattern} is for convolutions and dense layers"
    axis, side = (-1, "output") if pattern == "1x4" else (-2, "input")
    if _oriented(weight, weight.value).shape[axis] < GROUP:
        return f"fewer than {GROUP} {side} channels"
    return None


def _oriented(weight: GraphWeight, values: NDArray[Any]) -> NDArray[Any]:
    """Return a kernel with channels in and channels out last, where it has these."""
    return np.ascontiguousarray(values.T) if weight.layout == "out_in" else values
