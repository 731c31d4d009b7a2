"""Minimum cut through the tensors between text work and a numeric core."""

from collections import deque
from itertools import pairwise


class TensorNetwork:
    """Tensors between text work and the core, of which the fewest that part them are sought."""

    _SOURCE, _END = ("source", 0), ("end", 0)
    _MANY = 1 << 30

    def __init__(self) -> None:
        self._left: dict[tuple[str, int], dict[tuple[str, int], int]] = {}
        self._tensors: set[str] = set()

    def add_tensor(self, name: str, *, can_cross: bool) -> None:
        """Add a tensor, once."""
        if name not in self._tensors:
            self._tensors.add(name)
            self._add((name, 0), (name, 1), 1 if can_cross else self._MANY)

    def add_source(self, name: str) -> None:
        """Note that text work gives a tensor."""
        self._add(self._SOURCE, (name, 0), self._MANY)

    def add_end(self, name: str) -> None:
        """Note that the core reads a tensor."""
        self._add((name, 1), self._END, self._MANY)

    def add_edge(self, name: str, other: str) -> None:
        """Note that a tensor is computed from another."""
        self._add((name, 1), (other, 0), self._MANY)

    def minimum_cut(self) -> set[str]:
        """Return the tensors of the minimum cut that is nearest to the core."""
        while path := self._path():
            for start, end in pairwise(path):
                self._left[start][end] -= 1
                self._left[end][start] += 1
        reaching = {self._END}
        pending = [self._END]
        while pending:
            end = pending.pop()
            for start in self._left.get(end, {}):
                if start not in reaching and self._left[start][end] > 0:
                    reaching.add(start)
                    pending.append(start)
        return {
            name for name in self._tensors if (name, 1) in reaching and (name, 0) not in reaching
        }

    def _add(self, start: tuple[str, int], end: tuple[str, int], capacity: int) -> None:
        self._left.setdefault(start, {})[end] = capacity
        self._left.setdefault(end, {}).setdefault(start, 0)

    def _path(self) -> list[tuple[str, int]]:
        """Return a path with capacity left, found breadth first; none if there is none."""
        came = {self._SOURCE: self._SOURCE}
        pending = deque([self._SOURCE])
        while pending:
            start = pending.popleft()
            for end, left in self._left.get(start, {}).items():
                if left > 0 and end not in came:
                    came[end] = start
                    pending.append(end)
        if self._END not in came:
            return []
        path = [self._END]
        while path[-1] != self._SOURCE:
            path.append(came[path[-1]])
        return path[::-1]
