"""Inputs on which models are timed: held-out examples, the same for a seed."""

from pathlib import Path

import numpy as np

from paring.artifacts import Examples, Servable
from paring.benchmarking.timed_inputs import draw_inputs


def test_drawn_inputs_are_held_out_examples_and_the_same_for_a_seed(
    digits_model: Path, digits_npz: Path, digits: tuple[np.ndarray, ...], tmp_path: Path
) -> None:
    def draw(seed: int, batch_size: int) -> np.ndarray:
        file = tmp_path / f"{seed}.npz"
        source, examples = Servable(digits_model), Examples(digits_npz)
        assert draw_inputs(
            source, examples, batch_size=batch_size, batches=16, seed=seed, file=file
        ) == ["image"]
        with np.load(file) as arrays:
            result: np.ndarray = arrays["0"]
        return result

    first = draw(0, 3)
    assert first.shape == (16, 3, 32, 32, 1)
    np.testing.assert_array_equal(first, draw(0, 3))
    assert not np.array_equal(first, draw(1, 3))
    held_out = {image.tobytes() for image in digits[2]}
    assert {image.tobytes() for image in first.reshape(48, 32, 32, 1)} <= held_out
    # More than there are: every example is used, some more than once.
    many = draw(0, len(digits[2]))
    assert {image.tobytes() for image in many.reshape(-1, 32, 32, 1)} == held_out
