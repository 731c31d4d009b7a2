"""Number of layers to leave in float."""

import pytest

from paring.converters.tflite.mixed_precision import fewest


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
