"""Cuts into stages: what a stage needs, and the best layout beside all others."""

import itertools

import numpy as np
import pytest

from paring.converters.partition.stage_layout import (
    Operation,
    Workload,
    best_cuts,
    largest_stage,
    stages_within,
)


def chain() -> Workload:
    """`x` -> a -> b -> c -> d, where d reads a's result too, and b and d share a weight."""
    operations = [
        Operation(["x"], ["a"], ["first"]),
        Operation(["a"], ["b"], ["shared"]),
        Operation(["b"], ["c"], []),
        Operation(["c", "a"], ["d"], ["shared", "last"]),
    ]
    sizes = {"x": 1, "a": 10, "b": 100, "c": 1000, "d": 10000}
    return Workload(
        operations,
        tensor_bytes=sizes,
        weight_bytes={"first": 3, "shared": 5, "last": 7},
        results=["d"],
    )


def test_weights_are_counted_once_in_each_stage_that_reads_them() -> None:
    work = chain()
    assert work.weight_bytes(0, 4) == 3 + 5 + 7
    assert work.weight_bytes(0, 2) == 3 + 5
    assert work.weight_bytes(2, 3) == 0
    assert work.weight_bytes(2, 4) == 5 + 7


def test_tensors_live_from_where_they_are_made_to_where_they_are_last_read() -> None:
    work = chain()
    # Of all together: d, and what it reads.
    assert work.activation_bytes(0, 4) == 10000 + 1000 + 10
    # Alone: what it reads, and what it makes.
    assert work.activation_bytes(1, 2) == 100 + 10
    # a waits for a later stage, though c does not read it.
    assert work.activation_bytes(0, 3) == 1000 + 100 + 10
    # a comes from an earlier stage, and is there from the start.
    assert work.activation_bytes(2, 4) == 10000 + 1000 + 10
    assert work.stage_bytes(2, 4) == 10000 + 1000 + 10 + 5 + 7


def test_what_is_made_before_a_cut_and_read_after_it_crosses_it() -> None:
    work = chain()
    # x comes from outside, and the result stays where it is.
    assert [work.crossing_bytes(cut) for cut in range(1, 4)] == [10, 110, 1010]


def random_work(seed: int, count: int = 9) -> Workload:
    """Operations that read up to three of the tensors and two of the weights there are."""
    generator = np.random.default_rng(seed)
    sizes = {"x": 5}
    weights = {f"w{number}": int(generator.integers(0, 60)) for number in range(6)}
    operations = []
    for place in range(count):
        known = list(sizes)
        read = generator.choice(known, min(len(known), int(generator.integers(1, 4))), False)
        made = [f"{place}.{item}" for item in range(generator.integers(1, 3))]
        chosen = generator.choice(list(weights), int(generator.integers(0, 3)), False)
        operations.append(Operation([str(item) for item in read], made, [str(w) for w in chosen]))
        sizes |= {name: int(generator.integers(0, 40)) for name in made}
    return Workload(
        operations, tensor_bytes=sizes, weight_bytes=weights, results=[f"{count - 1}.0", "3.0"]
    )


@pytest.mark.parametrize("stages", [1, 2, 3, 5, 9])
def test_no_other_layout_has_a_smaller_largest_stage_or_fewer_bytes_across(stages: int) -> None:
    for seed in range(25):
        work = random_work(seed)
        layouts = [
            [0, *inner, work.count]
            for inner in itertools.combinations(range(1, work.count), stages - 1)
        ]
        expected = min(
            (largest_stage(work, layout), sum(work.crossing_bytes(cut) for cut in layout[1:-1]))
            for layout in layouts
        )
        result = best_cuts(work, stages)
        assert result in layouts
        crossing = sum(work.crossing_bytes(cut) for cut in result[1:-1])
        assert (largest_stage(work, result), crossing) == expected


def test_a_stage_never_needs_less_with_an_operation_more() -> None:
    for seed in range(25):
        work = random_work(seed)
        for start, end in itertools.combinations(range(work.count + 1), 2):
            needed = work.stage_bytes(start, end)
            if start:
                assert work.stage_bytes(start - 1, end) >= needed
            if end < work.count:
                assert work.stage_bytes(start, end + 1) >= needed


def test_how_few_stages_keep_to_a_bound() -> None:
    work = random_work(1)
    for stages in range(1, work.count + 1):
        bound = largest_stage(work, best_cuts(work, stages))
        needed = stages_within(work, bound)
        assert needed is not None
        assert needed <= stages
    assert stages_within(work, work.stage_bytes(0, work.count)) == 1
    assert stages_within(work, 1) is None


def test_a_thousand_operations_are_cut() -> None:
    operations = [Operation([f"{n}"], [f"{n + 1}"], [f"w{n}"]) for n in range(1000)]
    sizes = {f"{number}": 1 for number in range(1001)}
    weights = {f"w{number}": 10 for number in range(1000)}
    work = Workload(operations, tensor_bytes=sizes, weight_bytes=weights, results=["1000"])
    cuts = best_cuts(work, 4)
    assert cuts == [0, 250, 500, 750, 1000]
