"""Channels of a model, and the groups that can only be removed together.

A channel is a number. Each tensor's last axis is an array of such numbers, so a
concatenation is one of arrays, and flattening repeats an array. Numbers are tied where
layers need it: an addition ties its operands' channels one by one.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

Channels = NDArray[np.int64]


class Role(Enum):
    """Relation of an axis of a weight to the channels along it.

    PRODUCER: slices are the filters that make the channels.
    CONSUMER: slices are what the layer multiplies the channels by to mix them.
    SCALES: entries are the scales of a batch normalization.
    PASSTHROUGH: entries go when the channels go, and say nothing about them.
    """

    PRODUCER = auto()
    CONSUMER = auto()
    SCALES = auto()
    PASSTHROUGH = auto()


@dataclass(frozen=True)
class WeightAxis:
    """An axis of a layer's weight, and the channel of each place along it.

    Attributes:
        layer: The layer.
        weight: One of its variables.
        axis: Negative, from the end.
        channels: int64 [size of that axis].
        role: See `Role`.
    """

    layer: Any
    weight: Any
    axis: int
    channels: Channels
    role: Role

    def totals(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sums of `values`, shaped as the weight, for each place along the axis."""
        others = tuple(axis for axis in range(values.ndim) if axis != self.axis % values.ndim)
        return np.asarray(values.sum(axis=others, dtype=np.float64))


@dataclass(frozen=True)
class ChannelCount:
    """A number in a layer's config that counts channels.

    Attributes:
        layer: The layer.
        key: The config's key; of a shape, the last number is meant.
        channels: The channels that are counted.
    """

    layer: Any
    key: str
    channels: Channels


@dataclass(frozen=True)
class Group:
    """Channels that the same layers make, compared with each other.

    Attributes:
        makers: Names of those layers.
        channels: A number for each set of tied channels, int64 [n].
        whole: Why none of them can be removed; empty if they can.
    """

    makers: tuple[str, ...]
    channels: Channels
    whole: str

    def __str__(self) -> str:
        """Return the first layers by name."""
        more = len(self.makers) - 3
        return ", ".join(self.makers[:3]) + (f" and {more} more" if more > 0 else "")


class ChannelGraph:
    """All channels of a model, their ties, and the weights along them.

    Attributes:
        parts: Every axis of a weight that shrinks with the channels along it.
        widths: Every number in a config that does.
    """

    def __init__(self) -> None:
        self.parts: list[WeightAxis] = []
        self.widths: list[ChannelCount] = []
        self._parent: list[int] = []
        self._makers: dict[int, str] = {}
        self._whole: list[tuple[Channels, str]] = []

    def new(self, count: int, maker: Any | None = None) -> Channels:
        """Add `count` channels; those that no layer makes are in no group, and are kept."""
        made = np.arange(len(self._parent), len(self._parent) + count)
        self._parent.extend(made.tolist())
        if maker is not None:
            self._makers.update(dict.fromkeys(made.tolist(), maker.name))
        return made

    def tie(self, item: Channels, other: Channels) -> None:
        """Tie each channel of `item` to that of `other`: they can only be removed together."""
        for a, b in zip(item.tolist(), other.tolist(), strict=True):
            first, second = sorted((self._root(a), self._root(b)))
            self._parent[second] = first

    def keep_whole(self, channels: Channels, reason: str) -> None:
        """Mark these channels as not removable."""
        self._whole.append((channels, reason))

    def add_axis(
        self, layer: Any, weight: Any, *, axis: int, channels: Channels, role: Role
    ) -> None:
        """Note a `WeightAxis`."""
        self.parts.append(WeightAxis(layer, weight, axis, channels, role))

    def add_count(self, layer: Any, key: str, channels: Channels) -> None:
        """Note a `ChannelCount`."""
        self.widths.append(ChannelCount(layer, key, channels))

    def roots(self) -> Channels:
        """Return for each channel the representative of all channels that are tied to it."""
        return np.array([self._root(item) for item in range(len(self._parent))], np.int64)

    def made(self) -> Channels:
        """Return the channels that layers of the model make: its filters and units."""
        return np.array(sorted(self._makers), np.int64)

    def groups(self) -> list[Group]:
        """Return the channels that layers make, by those layers and by whether they can go."""
        reasons: dict[int, str] = {}
        for channels, reason in self._whole:
            reasons.update((self._root(item), reason) for item in channels.tolist())
        makers: dict[int, dict[str, None]] = {}
        for item, name in sorted(self._makers.items()):
            makers.setdefault(self._root(item), {})[name] = None
        members: dict[tuple[tuple[str, ...], str], list[int]] = {}
        for root, names in makers.items():
            members.setdefault((tuple(names), reasons.get(root, "")), []).append(root)
        return [
            Group(names, np.array(roots, np.int64), whole)
            for (names, whole), roots in members.items()
        ]

    def _root(self, channel: int) -> int:
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel
