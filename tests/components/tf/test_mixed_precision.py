"""How many layers to leave in float, and how far outputs lie apart."""

import numpy as np
import pytest

from paring.tf.mixed_precision import difference, fewest


@pytest.mark.parametrize("needed", [0, 1, 2, 3, 7, 8, 99, 100])
def test_the_fewest_layers_are_found_in_few_tries(needed: int) -> None:
    tried: list[int] = []

    def passes(count: int) -> bool:
        tried.append(count)
        return count >= needed

    assert fewest(100, passes) == needed
    assert len(tried) <= 15
    # What is known is not asked again, nor that all in float pass.
    assert len(set(tried)) == len(tried)
    assert 100 not in tried


def test_class_scores_differ_by_the_share_of_other_classes() -> None:
    reference = {"digit": np.eye(4, 3, dtype=np.float32)}
    found = {"digit": np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1], [0.1, 0, 0]], np.float32)}
    assert difference(reference, found) == 0.25


def test_other_outputs_differ_relative_to_their_spread() -> None:
    reference = {"price": np.array([[1.0], [3.0]])}
    assert difference(reference, {"price": np.array([[1.5], [3.5]])}) == 0.5
    assert difference(reference, {"price": np.array([[100.0], [0.0]])}) == 1.0
    assert difference(reference, {"price": np.array([[np.nan], [3.0]])}) == 1.0


def test_the_worst_output_counts() -> None:
    reference = {"one": np.array([[1.0], [3.0]]), "two": np.array([[1.0], [3.0]])}
    found = reference | {"two": np.array([[2.0], [4.0]])}
    assert difference(reference, found) == 1.0
