"""Batch-normalization statistics, computed again after the weights have changed.

The moving averages that training keeps lag behind the weights; after a short
fine-tuning they can be far off what the layers see at inference. So they are
replaced by the averages over the training data with the weights as they are:
"precise BN" of Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021
(arXiv:2105.07576), section 3.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from paring.data.examples import Split
from paring.models.library_types import KerasModel
from paring.training.feeding import Rows, feature_batches
from paring.training.strategy import Devices

# Wu and Johnson find 1,000 to 10,000 examples enough; fewer are all taken.
_ENOUGH = 10_000


def reestimate_batch_norm(
    model: KerasModel,
    split: Split,
    rows: Rows,
    *,
    batch_size: int,
    seed: int = 0,
    devices: Devices = Devices("one_device"),  # noqa: B008
) -> None:
    """Set each moving mean and variance to those of the layer's inputs over `rows`.

    As in training, each layer normalizes with its batch's own statistics while
    the layers after it are measured; all other layers run as at inference, so
    no dropout adds variance and no fake-quantization range moves. Layers whose
    `trainable` is False keep their statistics, which they were trained with.

    Args:
        model: A tf_keras model with or without wrappers around its layers.
        split: Gives the features.
        rows: Row numbers of the split; 10,000 drawn from them if there are more.
        batch_size: Examples in a batch; every one weighs the same.
        seed: Of that draw.
        devices: What the model was made on.
    """
    Reestimation(model, devices)(split, rows, batch_size=batch_size, seed=seed)


class Reestimation:
    """`reestimate_batch_norm` for a model that it is called on again and again.

    Its graph is traced once, which takes longer than running it on a small split. Where XLA
    compiles the training steps, it compiles this too, once for each size of batch; each replica
    measures whole batches then, and the first one's statistics count.

    Args:
        model: A tf_keras model with or without wrappers around its layers.
        devices: What it was made on.
    """

    def __init__(
        self,
        model: KerasModel,
        devices: Devices = Devices("one_device"),  # noqa: B008
    ) -> None:
        self._model = model
        self._layers = [item for item in _batch_norm_layers(model) if item.trainable]
        self._statistics = [_Statistics(layer) for layer in self._layers]

        # A function of its own: those that Keras keeps know nothing of this.
        def forward(values: Any) -> None:
            model(values, training=False)

        if devices.compiled:
            strategy = model.distribute_strategy
            compiled = tf.function(forward, jit_compile=devices.jit_compile or None)
            self._forward = tf.function(lambda values: strategy.run(compiled, args=(values,)))
        else:
            self._forward = tf.function(forward, reduce_retracing=True)

    def __call__(self, split: Split, rows: Rows, *, batch_size: int, seed: int = 0) -> None:
        """Set the statistics to those over `rows`; see `reestimate_batch_norm`."""
        if not self._layers:
            return
        if len(rows) > _ENOUGH:
            rows = np.sort(np.random.default_rng(seed).choice(rows, _ENOUGH, replace=False))
        for statistics in self._statistics:
            statistics.reset()
        with _measured(zip(self._layers, self._statistics, strict=True)):
            for batch in feature_batches(self._model, split, rows, batch_size=batch_size):
                self._forward(batch)
        for layer, result in zip(self._layers, self._statistics, strict=True):
            layer.moving_mean.assign(tf.cast(result.mean, layer.moving_mean.dtype))
            variance = result.squares / result.count
            layer.moving_variance.assign(tf.cast(variance, layer.moving_variance.dtype))


class _Statistics:
    """Running mean and sum of squared deviations of each channel, in float64."""

    def __init__(self, layer: Any) -> None:
        shape = layer.moving_mean.shape
        self.count = _variable(())
        self.mean = _variable(shape)
        self.squares = _variable(shape)
        self._channels = list(layer.axis)

    def reset(self) -> None:
        """Reset the statistics."""
        for variable in (self.count, self.mean, self.squares):
            variable.assign(tf.zeros_like(variable))

    def add(self, values: Any, mask: Any) -> None:
        """Take in a batch; merged as by Chan, Golub and LeVeque, 1983."""
        values = tf.cast(values, tf.float32)
        axes = [axis for axis in range(values.shape.rank) if axis not in self._channels]
        weights = tf.ones_like(values[..., :1])
        if mask is not None:
            weights *= tf.cast(mask, tf.float32)[..., tf.newaxis]
        mean, variance = tf.nn.weighted_moments(values, axes, weights)
        mean, variance = tf.cast(mean, tf.float64), tf.cast(variance, tf.float64)
        count = tf.cast(tf.reduce_sum(weights), tf.float64)
        total = self.count + count
        away = mean - self.mean
        self.squares.assign_add(count * variance + away**2 * self.count * count / total)
        self.mean.assign_add(away * count / total)
        self.count.assign(total)


def _variable(shape: Any) -> tf.Variable:
    """Return zeros in float64, of which each replica has its own, and the first one's are read."""
    return tf.Variable(
        tf.zeros(shape, tf.float64),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


@contextmanager
def _measured(pairs: Iterable[tuple[Any, _Statistics]]) -> Iterator[None]:
    """Make the layers measure their inputs and normalize as in training."""
    changed = []
    try:
        for layer, statistics in pairs:
            layer.call = _measuring(layer.call, statistics)
            changed.append(layer)
        yield
    finally:
        for layer in changed:
            # The class's own method shows again.
            del layer.call


@contextmanager
def synchronized_batch_norm(model: KerasModel) -> Iterator[None]:
    """Make the layers normalize by the whole batch, not by each device's part of it.

    On one device nothing changes.

    Args:
        model: A tf_keras model with or without wrappers around its layers.
    """
    changed = []
    if model.distribute_strategy.num_replicas_in_sync > 1:
        changed = [item for item in _batch_norm_layers(model) if not item.synchronized]
    kept = [(layer, layer.fused) for layer in changed]
    try:
        for layer in changed:
            # The fused kernel knows of its own device alone.
            layer.synchronized, layer.fused = True, False
        yield
    finally:
        for layer, fused in kept:
            layer.synchronized, layer.fused = False, fused


def _measuring(call: Any, statistics: _Statistics) -> Any:
    # The wrappers of quantization look for an argument of the name `training`.
    def measuring_call(inputs: Any, training: Any = None, mask: Any = None) -> Any:
        statistics.add(inputs, mask)
        return call(inputs, training=True, mask=mask)

    return tf.autograph.experimental.do_not_convert(measuring_call)


def _batch_norm_layers(model: KerasModel) -> list[Any]:
    kinds = (
        tf_keras.layers.BatchNormalization,
        tf_keras.layers.experimental.SyncBatchNormalization,
    )
    return [submodule for submodule in model.submodules if isinstance(submodule, kinds)]
