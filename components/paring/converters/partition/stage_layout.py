"""Layout of operations that run one after another in stages of little memory.

A stage is a run of operations on a device of its own. It needs the weights that its
operations read, and room for the tensors that are live at once:

- what comes from before the stage, from its start to the last operation that reads it;
- what it makes, from there to the last operation that reads it, or to the stage's end if a
  later stage reads it or it is a result.

A stage never needs less when an operation is added at either end. So the smallest bound
that a layout can keep to is found by bisection, filling one stage after another; and of
the layouts within it, the one with the fewest bytes across its cuts by dynamic programming.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

# Where a tensor is made that is there before the first operation.
_BEFORE = -1


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        reads: The tensors that it reads, by name.
        makes: The tensors that it makes.
        weights: The weights that it reads.
    """

    reads: Collection[str] = ()
    makes: Collection[str] = ()
    weights: Collection[str] = ()


class Workload:
    """Operations and sizes from which the memory of a stage is computed.

    Args:
        operations: In the order they run.
        tensor_bytes: Of each tensor, those included that no operation makes: they come
            from elsewhere, and cross no cut.
        weight_bytes: Of each weight.
        results: The tensors that are given back.
    """

    def __init__(
        self,
        operations: Sequence[Operation],
        *,
        tensor_bytes: Mapping[str, int],
        weight_bytes: Mapping[str, int],
        results: Iterable[str],
    ) -> None:
        self.count = len(operations)
        """How many operations there are."""
        tensors = {name: number for number, name in enumerate(tensor_bytes)}
        weights = {name: number for number, name in enumerate(weight_bytes)}
        self._sizes = np.array(list(tensor_bytes.values()), np.int64)
        self._weight_sizes = np.array(list(weight_bytes.values()), np.int64)
        self._made = np.full(len(tensors), _BEFORE, np.int64)
        for place, item in enumerate(operations):
            self._made[[tensors[name] for name in item.makes]] = place
        self._reads = _Uses([tensors[name] for name in operation.reads] for operation in operations)
        self._weight_reads = _Uses(
            [weights[name] for name in operation.weights] for operation in operations
        )
        # The last operation that reads each; results are kept until after all of them.
        self._last = np.full(len(tensors), _BEFORE, np.int64)
        self._last[self._reads.what] = self._reads.places
        self._read_last = self._last.copy()
        self._last[[tensors[name] for name in results]] = self.count

    def weight_bytes(self, start: int, end: int) -> int:
        """Return the bytes of the weights that the operations from `start` to before `end` read."""
        read = np.unique(self._weight_reads.between(start, end)[1])
        return int(self._weight_sizes[read].sum())

    def activation_bytes(self, start: int, end: int) -> int:
        """Return the most bytes of tensors that are live at once in this stage."""
        places, what = self._reads.between(start, end)
        last = np.full(len(self._sizes), _BEFORE, np.int64)
        # Of several places for one tensor, the last one stays.
        last[what] = places
        here = (self._made >= start) & (self._made < end)
        live = here | ((last >= start) & (self._made < start))
        first = np.where(here, self._made, start)[live]
        last = np.where(here & (self._last >= end), end - 1, np.maximum(last, self._made))[live]
        change = np.zeros(end - start + 1, np.int64)
        np.add.at(change, first - start, self._sizes[live])
        np.subtract.at(change, last + 1 - start, self._sizes[live])
        return int(np.cumsum(change).max())

    def stage_bytes(self, start: int, end: int) -> int:
        """Return the memory that the operations from `start` to before `end` need."""
        return self.weight_bytes(start, end) + self.activation_bytes(start, end)

    def crossing_bytes(self, cut: int) -> int:
        """Return the bytes of the tensors computed before operation `cut` and read after it."""
        across = (self._made > _BEFORE) & (self._made < cut) & (self._read_last >= cut)
        return int(self._sizes[across].sum())


class _Uses:
    """Numbered values that each operation reads, as two arrays in the operations' order."""

    def __init__(self, used: Iterable[Iterable[int]]) -> None:
        pairs = [(place, item) for place, ones in enumerate(used) for item in ones]
        self.places, self.what = np.array(pairs, np.int64).reshape(-1, 2).T

    def between(self, start: int, end: int) -> tuple[Integers, Integers]:
        """Return the pairs of the operations from `start` to before `end`."""
        low, high = np.searchsorted(self.places, (start, end))
        return self.places[low:high], self.what[low:high]


def best_cuts(work: Workload, stages: int) -> list[int]:
    """Return the first operation of each stage, and the number of operations at the end.

    The largest stage is as small as can be; of such layouts, the fewest bytes cross the
    cuts, each counted where it crosses; of those, the last cut is the earliest.

    Args:
        work: What is cut.
        stages: How many stages; at most as many as there are operations.
    """
    bound = _smallest_bound(work, stages)
    return _fewest_crossing(work, stages, _furthest(work, bound))


def stages_within(work: Workload, bound: int) -> int | None:
    """Return the smallest number of stages of at most `bound` bytes each.

    None where an operation alone needs more.
    """
    count, start = 0, 0
    while start < work.count:
        end = _end_within(work, start, bound)
        if end == start:
            return None
        count, start = count + 1, end
    return count


def _smallest_bound(work: Workload, stages: int) -> int:
    low, high = 0, work.stage_bytes(0, work.count)
    while low < high:
        middle = (low + high) // 2
        needed = stages_within(work, middle)
        if needed is not None and needed <= stages:
            high = middle
        else:
            low = middle + 1
    return low


def _end_within(work: Workload, start: int, bound: int) -> int:
    """Return the end of the longest stage from `start` that is within the bound."""
    low, high = start, work.count
    while low < high:
        middle = (low + high + 1) // 2
        if work.stage_bytes(start, middle) <= bound:
            low = middle
        else:
            high = middle - 1
    return low


def _furthest(work: Workload, bound: int) -> Integers:
    """Return `_end_within` for each operation that a stage can start at."""
    ends = np.zeros(work.count, np.int64)
    end = 0
    for start in range(work.count):
        end = max(end, start)
        while end < work.count and work.stage_bytes(start, end + 1) <= bound:
            end += 1
        ends[start] = end
    return ends


def _fewest_crossing(work: Workload, stages: int, furthest: Integers) -> list[int]:
    """Return the cuts into so many stages, none longer than `furthest` allows."""
    count = work.count
    crossing = np.array([0, *(work.crossing_bytes(cut) for cut in range(1, count))], np.float64)
    # The fewest bytes over the cuts before each operation, with so many stages before it.
    fewest = np.full(count + 1, np.inf)
    fewest[0] = 0
    chosen: list[Integers] = []
    for _ in range(stages):
        before, fewest = fewest, np.full(count + 1, np.inf)
        starts = np.zeros(count + 1, np.int64)
        for end in range(1, count + 1):
            first = int(np.searchsorted(furthest, end))
            if first < end:
                sums = before[first:end] + crossing[first:end]
                starts[end] = first + int(np.argmin(sums))
                fewest[end] = sums.min()
        chosen.append(starts)
    cuts = [count]
    for starts in reversed(chosen):
        cuts.append(int(starts[cuts[-1]]))
    return cuts[::-1]


def largest_stage(work: Workload, cuts: Sequence[int]) -> int:
    """Return the bytes of the stage that needs most; `cuts` as `best_cuts` gives them."""
    return max(work.stage_bytes(start, end) for start, end in pairwise(cuts))
