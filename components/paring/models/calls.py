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
                one = pending.pop()
                if one in entered:
                    raise ValueError(f"{one} calls itself")
                if one not in done:
                    entered.add(one)
                    path.append((one, pending))
                    pending = list(calls[one])
            else:
                one, pending = path.pop()
                entered.discard(one)
                done[one] = None
    return list(done)
