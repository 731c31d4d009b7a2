"""Choice of the channels to remove, and building of the model without them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tf_keras
from numpy.typing import NDArray

from paring.errors import UnsupportedError
from paring.models.library_types import KerasModel
from paring.models.precision import finalize
from paring.training.channels.channel_graph import ChannelGraph, Channels
from paring.training.channels.tracing import is_graph


@dataclass(frozen=True)
class Cut:
    """Channels that are kept.

    Attributes:
        graph: Result of `trace` for the model.
        kept: bool [channels].
        unprunable_groups: The groups of channels that lose none, each with the reason.
    """

    graph: ChannelGraph
    kept: NDArray[np.bool_]
    unprunable_groups: list[str]

    @property
    def removed(self) -> int:
        """Number of filters and units that are removed."""
        return int(np.count_nonzero(~self.kept[self.graph.made()]))

    def stay(self, channels: Channels) -> Channels:
        """Return the places of these channels that stay."""
        return np.flatnonzero(self.kept[channels])


def choose(
    graph: ChannelGraph, scores: NDArray[np.float64], *, ratio: float, multiple_of: int
) -> Cut:
    """Choose the channels to remove: those with the lowest scores of each group.

    Args:
        graph: Result of `trace` for the model.
        scores: As `importance` gives them; a group with nan among its scores is left
            whole.
        ratio: Share of each group that goes, rounded down.
        multiple_of: As many more stay as it takes to have a multiple of this.

    Raises:
        UnsupportedError: No group can lose a channel.
    """
    kept = np.ones(len(scores), np.bool_)
    unprunable_groups: list[str] = []
    for group in graph.groups():
        count = len(group.channels)
        going = _going(count, ratio, multiple_of)
        own = scores[group.channels]
        if group.whole:
            unprunable_groups.append(f"{group}: {group.whole}")
        elif np.isnan(own).any():
            unprunable_groups.append(f"{group}: no batch normalization with a scale comes after")
        elif going == 0:
            unprunable_groups.append(f"{group}: only {count} that can go one by one")
        else:
            kept[group.channels[np.argsort(own, kind="stable")[:going]]] = False
    if kept.all():
        raise UnsupportedError(
            "no channels can be removed from the model",
            received="; ".join(unprunable_groups) or "no layer that makes channels",
            remedy="use a recipe without prune_channels, or a higher ratio where a group is"
            " only too small for it",
        )
    return Cut(graph, kept[graph.roots()], unprunable_groups)


def _going(count: int, ratio: float, multiple_of: int) -> int:
    # 0.29 x 100 is a little below 29 in binary.
    staying = count - int(ratio * count + 1e-9)
    return count - min(count, -(-staying // multiple_of) * multiple_of)


def without_channels(model: KerasModel, cut: Cut) -> KerasModel:
    """Return `model` without the removed channels, with fewer parameters and operations.

    The layers have the same names and are called in the same order; those that lose
    nothing are shared with `model`. Without training, the result computes what
    `model` would with zeros in place of these channels wherever a layer reads them.
    """
    copies = _Copies(cut)
    smaller = tf_keras.models.clone_model(model, clone_function=copies.of)
    copies.fill()
    return smaller


class _Copies:
    """The layers of the smaller model, each made once: it may be called several times."""

    def __init__(self, cut: Cut) -> None:
        self._widths: dict[int, dict[str, int]] = {}
        for width in cut.graph.widths:
            staying = len(cut.stay(width.channels))
            if staying < len(width.channels):
                self._widths.setdefault(id(width.layer), {})[width.key] = staying
        # What stays along the axes of each weight.
        self._places: dict[int, list[tuple[int, Channels]]] = {}
        self._losing = set(self._widths)
        for part in cut.graph.parts:
            places = cut.stay(part.channels)
            if len(places) < len(part.channels):
                self._places.setdefault(id(part.weight), []).append((part.axis, places))
                self._losing.add(id(part.layer))
        self._made: dict[int, Any] = {}
        self._narrowed: list[tuple[Any, Any]] = []

    def of(self, layer: Any) -> Any:
        """Return the replacement of `layer`: the layer itself if it loses no channels."""
        if id(layer) not in self._made:
            self._made[id(layer)] = self._make(layer)
        return self._made[id(layer)]

    def fill(self) -> None:
        """Give the layers their weights, once all have been built by being called."""
        for layer, narrowed in self._narrowed:
            narrowed.set_weights([self._staying(weight) for weight in layer.weights])
            finalize(narrowed)

    def _make(self, layer: Any) -> Any:
        if is_graph(layer):
            inputs = [self.of(tensor._keras_history.layer).output for tensor in layer.inputs]
            return tf_keras.models.clone_model(layer, inputs, clone_function=self.of)
        is_input = isinstance(layer, tf_keras.layers.InputLayer)
        if id(layer) not in self._losing and not is_input:
            return layer
        config = _resized(layer.get_config(), self._widths.get(id(layer), {}))
        if not is_input:
            # The Input says what comes in.
            config.pop("batch_input_shape", None)
        narrowed = type(layer).from_config(config)
        self._narrowed.append((layer, narrowed))
        return narrowed

    def _staying(self, weight: Any) -> NDArray[Any]:
        value: NDArray[Any] = weight.numpy()
        for axis, places in self._places.get(id(weight), []):
            value = np.take(value, places, axis)
        return value


def _resized(config: dict[str, Any], widths: dict[str, int]) -> dict[str, Any]:
    """Return the config with other numbers of channels; in a shape, they are the last number."""
    resized = dict(config)
    for key, width in widths.items():
        old = config[key]
        resized[key] = (*old[:-1], width) if isinstance(old, (list, tuple)) else width
    return resized
