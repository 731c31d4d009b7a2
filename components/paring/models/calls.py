"""Graphs and functions that call one another: circles in a file that would run without end."""

from collections.abc import Collection, Hashable, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def callees_first(calls: Mapping[T, Collection[T]]) -> list[T]:
    """Order what calls one another so that whatever is called stands before its callers.

    Args:
        calls: What each calls; all that are called are keys too.

    Raises:
        ValueError: One calls itself, perhaps through others.
    """
    done: dict[T, None] = {}
    for first in calls:
        path: list[tuple[T, list[T]]] = []
        entered: set[T] = set()
        pending = [first]
        while pending or path:
            if pending:
                item = pending.pop()
                if item in entered:
                    raise ValueError(f"{item} calls itself")
                if item not in done:
                    entered.add(item)
                    path.append((item, pending))
                    pending = list(calls[item])
            else:
                item, pending = path.pop()
                entered.discard(item)
                done[item] = None
    return list(done)
