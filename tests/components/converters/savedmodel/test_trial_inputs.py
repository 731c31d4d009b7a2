"""Inputs on which models are compared and timed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Examples
from paring.converters.savedmodel.trial_inputs import draw_trial_inputs, fixed_batch_of
from paring.errors import ExamplesError, UnsupportedError
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature, TensorSpec


def signature(**inputs: tuple[tuple[int | None, ...], str]) -> Signature:
    specs = {name: TensorSpec(name, shape, dtype) for name, (shape, dtype) in inputs.items()}
    return Signature(specs, {"y": TensorSpec("y", (None, 3), "float32")})


def test_examples_are_drawn_from_the_train_split(
    digits: Any, digits_model: Path, digits_npz: Path
) -> None:
    inputs = draw_trial_inputs(
        Examples(digits_npz), SavedModel(digits_model).signature(), size=40, batch=3, seed=1
    )
    assert inputs.drawn_from == "examples"
    # Calls of one size; the first examples fill up the last.
    assert [len(call["image"]) for call in inputs.compared] == [16, 16, 16]
    assert [len(call["image"]) for call in inputs.timed] == [3] * 16
    drawn = np.concatenate([call["image"] for call in inputs.compared])
    np.testing.assert_array_equal(drawn[40:], drawn[:8])
    known = {row.tobytes() for row in digits.x_train}
    assert {row.tobytes() for row in drawn} <= known
    assert len({row.tobytes() for row in drawn}) == 40
    np.testing.assert_array_equal(inputs.timed[1]["image"], drawn[3:6])


def test_random_inputs_fit_the_signature() -> None:
    taken = signature(x=((None, None, 2), "float32"), ids=((None, 5), "int64"))
    inputs = draw_trial_inputs(None, taken, size=20, batch=1, seed=0)
    assert inputs.drawn_from == "random inputs"
    (first, *_) = inputs.compared
    assert (first["x"].shape, first["x"].dtype) == ((16, 32, 2), np.float32)
    assert (first["ids"].shape, first["ids"].dtype) == ((16, 5), np.int64)
    assert not first["ids"].any()
    assert len(np.unique(first["x"])) > 500


def test_a_fixed_batch_is_filled() -> None:
    taken = signature(x=((7, 2), "float32"))
    inputs = draw_trial_inputs(None, taken, size=10, batch=7, seed=0)
    assert [call["x"].shape for call in inputs.compared] == [(7, 2)] * 2
    assert {call["x"].shape for call in inputs.timed} == {(7, 2)}
    assert inputs.batch_of(3)["x"].shape == (3, 2)
    assert inputs.batch_of(20)["x"].shape == (20, 2)


def test_the_fixed_batch_is_read_from_the_signature() -> None:
    assert fixed_batch_of(signature(x=((None, 2), "float32"))) is None
    assert fixed_batch_of(signature(x=((None, 2), "float32"), y=((4, 2), "int32"))) == 4
    with pytest.raises(UnsupportedError, match="takes text"):
        fixed_batch_of(signature(x=((None,), "object")))
    with pytest.raises(UnsupportedError, match="no batch dimension"):
        fixed_batch_of(signature(x=((), "float32")))


def test_examples_of_another_model_are_refused(digits_npz: Path) -> None:
    with pytest.raises(ExamplesError):
        draw_trial_inputs(
            Examples(digits_npz), signature(other=((None, 3), "float32")), size=10, batch=1, seed=0
        )
