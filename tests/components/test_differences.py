"""How far outputs lie apart."""

import numpy as np

from paring.differences import difference, largest_relative


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


def test_the_largest_difference_is_relative_to_the_largest_value() -> None:
    reference = {"one": np.array([[1.0, -4.0]]), "two": np.array([[0.0, 0.0]])}
    assert largest_relative(reference, reference) == 0
    found = reference | {"one": np.array([[1.5, -4.0]])}
    assert largest_relative(reference, found) == 0.125
    for bad in (np.array([[np.nan, -4.0]]), np.array([[1.0]])):
        assert largest_relative(reference, reference | {"one": bad}) == float("inf")
