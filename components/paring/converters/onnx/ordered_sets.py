"""Sets that keep the order of insertion, for tf2onnx."""

import importlib
import sys
from collections.abc import Iterable, Iterator, MutableSet
from contextlib import contextmanager
from typing import Any, Self


class OrderedSet(MutableSet[Any]):
    """A set that is iterated over in the order of insertion."""

    def __init__(self, items: Iterable[Any] = ()) -> None:
        self._items = dict.fromkeys(items)

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: Any) -> None:
        """Add an item, behind all others."""
        self._items[value] = None

    def discard(self, value: Any) -> None:
        """Remove an item if it is there."""
        self._items.pop(value, None)

    def update(self, *others: Iterable[Any]) -> None:
        """Add the items of others."""
        for other in others:
            self._items |= dict.fromkeys(other)

    def union(self, *others: Iterable[Any]) -> Self:
        """Return a set of the items of this one and of others."""
        made = type(self)(self)
        made.update(*others)
        return made

    def intersection(self, other: Iterable[Any]) -> Self:
        """Return a set of the items that the other has too."""
        kept = frozenset(other)
        return type(self)(item for item in self if item in kept)

    def issubset(self, other: Iterable[Any]) -> bool:
        """Return whether the other has all items."""
        return self._items.keys() <= frozenset(other)


@contextmanager
def ordered_sets() -> Iterator[None]:
    """Make tf2onnx build `OrderedSet`s in place of sets.

    It takes nodes and names out of sets, whose order depends on addresses and on the seed
    of hashes, and what its optimizers fuse depends on which node comes first: the same
    MobileNetV2 keeps a batch normalization in some processes and not in others.
    """
    # It imports all that converts; `import tf2onnx` alone imports them on first use.
    importlib.import_module("tf2onnx.convert")
    modules = [module for name, module in sys.modules.items() if name.startswith("tf2onnx.")]
    for module in modules:
        vars(module)["set"] = OrderedSet
    try:
        yield
    finally:
        for module in modules:
            vars(module).pop("set", None)
