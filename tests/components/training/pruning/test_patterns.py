"""Patterns of zeros: what follows one, and which kernels can."""

from typing import Any

import numpy as np
import pytest

from paring.training.pruning.patterns import Pattern, follows, largest, misfit, two_of_four
from paring.training.pruning.pruning import Schedule


def _kernel(*shape: int) -> Any:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def test_two_of_four_input_channels() -> None:
    kernel = _kernel(3, 3, 10, 5)
    kernel[:, :, [0, 3, 4, 5], :] = 0
    # Of the last two channels both may stay.
    assert follows(kernel, "2:4")
    kernel[1, 2, 3, 4] = 1
    assert not follows(kernel, "2:4")


def test_blocks_of_four_output_channels() -> None:
    kernel = _kernel(3, 3, 5, 10)
    kernel[0, 0, 0, :4] = 0
    # The last block has two channels.
    kernel[2, 1, 4, 8:] = 0
    assert follows(kernel, "1x4")
    for position in ((0, 0, 0, 3), (2, 1, 4, 9)):
        broken = kernel.copy()
        broken[position] = 1
        assert not follows(broken, "1x4")


def test_zeros_without_a_pattern_may_be_anywhere() -> None:
    kernel = _kernel(4, 5)
    kernel[1, 1] = 0
    assert follows(kernel, "unstructured")
    assert not follows(kernel, "2:4")
    assert not follows(kernel, "1x4")


@pytest.mark.parametrize(
    ("pattern", "inputs", "outputs", "reason"),
    [
        ("2:4", 3, 8, "fewer than 4 input channels"),
        ("2:4", 4, 1, None),
        ("1x4", 1, 4, None),
        ("1x4", 8, 3, "fewer than 4 output channels"),
        ("unstructured", 1, 1, None),
    ],
)
def test_a_kernel_needs_a_whole_group_of_channels(
    pattern: Pattern, inputs: int, outputs: int, reason: str | None
) -> None:
    import tf_keras

    assert misfit(tf_keras.layers.Conv2D(1, 1), _kernel(1, 1, inputs, outputs), pattern) == reason


def test_a_transposed_convolution_has_its_channels_the_other_way_around() -> None:
    import tf_keras

    layer = tf_keras.layers.Conv2DTranspose(8, 3)
    assert misfit(layer, _kernel(3, 3, 8, 8), "2:4") is not None
    assert misfit(layer, _kernel(3, 3, 8, 8), "unstructured") is None


def test_the_largest_weights_stay() -> None:
    kernel = np.array([[0.1, -0.9], [0.5, -0.2]], np.float32)
    np.testing.assert_array_equal(
        largest(kernel, 0.5, "unstructured"), [[False, True], [True, False]]
    )
    assert largest(kernel, 0.0, "unstructured").all()
    # One stays in any case, as with the library.
    assert np.count_nonzero(largest(kernel, 0.99, "unstructured")) == 1


def test_the_blocks_of_the_largest_mean_stay() -> None:
    kernel = np.array([[9, 0, 0, 0, 3, 3], [1, 1, 1, 1, 2, 2]], np.float32)
    # The means are 2.25, 3, 1 and 2.
    np.testing.assert_array_equal(largest(kernel, 0.5, "1x4"), [[True] * 6, [False] * 6])


def test_the_two_largest_of_four_input_channels_stay() -> None:
    draw = np.random.default_rng(0).normal(size=(3, 3, 10, 5))
    mask = two_of_four(draw)
    assert follows(draw * mask, "2:4")
    for group in (slice(0, 4), slice(4, 8), slice(8, 10)):
        kept = np.abs(np.where(mask, draw, 0))[:, :, group]
        # The last group has two channels, of which both stay.
        wanted = np.sort(np.abs(draw[:, :, group]), axis=2)[:, :, -2:]
        np.testing.assert_array_equal(np.sort(kept, axis=2)[:, :, -2:], wanted)
        assert np.all(np.count_nonzero(kept, axis=2) == 2)


def test_the_sparsity_rises_to_its_target_in_half_of_the_steps() -> None:
    schedule = Schedule.of(1000, "unstructured")
    due = [step for step in range(1, 1001) if schedule.is_due(step)]
    assert due == list(range(5, 501, 5))
    # Zhu and Gupta: s (1 - (1 - t/n)^3).
    assert schedule.sparsity(250, 0.8) == pytest.approx(0.8 * (1 - 0.5**3))
    assert schedule.sparsity(500, 0.8) == 0.8
    assert [step for step in range(1, 9) if Schedule.of(8, "2:4").is_due(step)] == [1]
