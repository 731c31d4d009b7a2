"""Channels of unlike scales are detected; one range of integers holds the others."""

import numpy as np
import pytest

from paring.data.scales import Scales, unlike_inputs

generator = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("widths", "unlike"),
    [((1e-3, 1, 1e4), True), ((1, 1, 1), False), ((1, 20), False), ((1, 100), True)],
)
def test_widths_of_channels(widths: tuple[float, ...], unlike: bool) -> None:
    scales = Scales()
    for _ in range(4):
        scales.add(generator.uniform(-1, 1, (16, len(widths))) * widths)
    assert scales.unlike() is unlike


def test_channels_that_are_constant_or_far_from_zero() -> None:
    constant, far = Scales(), Scales()
    constant.add(np.stack([np.full(8, 1e-3), np.arange(8.0)], axis=1))
    assert not constant.unlike()
    # From 1000 to 1001 is less than a step of 0 to 1001.
    far.add(np.linspace(1000, 1001, 8)[:, None])
    assert far.unlike()


def test_only_float_inputs_with_channels_count() -> None:
    table = generator.uniform(0, 1, (8, 2)) * [1, 1e4]
    batches = [{"table": table, "ids": table.astype(np.int32), "one": table[:, 1]}]
    assert unlike_inputs(batches) == ["table"]
