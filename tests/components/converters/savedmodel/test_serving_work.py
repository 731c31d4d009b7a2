"""GraphVariants of a SavedModel are built and compared from what is in the task's folder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from paring.artifacts import Model
from paring.converters.savedmodel.serving_forms import GraphVariant
from paring.converters.savedmodel.serving_work import (
    Comparison,
    Task,
    build,
    build_again,
    difference,
    in_short,
    prepare,
)
from paring.converters.savedmodel.trial_inputs import draw_trial_inputs
from paring.errors import UnsupportedError
from paring.models.saved_model import SavedModel


def affine(folder: Path, factor: float) -> Path:
    """Save y = factor * x + 1, with the factor in a variable."""
    module = tf.Module()
    module.factor = tf.Variable(tf.fill([4], factor))
    module.serve = tf.function(
        lambda x: {"y": module.factor * x + 1.0},
        input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")],
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def task(source: Path, folder: Path, **fields: Any) -> Task:
    folder.mkdir()
    given: dict[str, Any] = {
        "variables": "frozen",
        "fixed_batch": 0,
        "precision": "auto",
        "xla": False,
        "max_difference": 1e-4,
        "comparison_size": 20,
        "batch_size": 2,
        "seed": 0,
    }
    return Task(Model(source), None, folder, **(given | fields))


def test_each_part_finds_what_the_one_before_has_left(tmp_path: Path) -> None:
    item = task(affine(tmp_path / "model", 3.0), tmp_path / "task")
    prepared = prepare(item)
    assert list(prepared.changes) == ["inference graph", "bfloat16", "float16"]
    assert (prepared.names, prepared.drawn_from) == (["x"], "random inputs")
    assert prepared.source_operators is not None
    assert prepared.variation > 0.1
    with np.load(item.timed_inputs) as timed:
        assert timed["0"].shape[1:] == (2, 4)
    assert 0 < build(item, GraphVariant(), tmp_path / "made") < prepared.source_operators
    assert difference(item, tmp_path / "made") < 1e-6
    # 3 x + 1 beside 5 x + 1, over the largest value: x is below 1.
    other = difference(item, affine(tmp_path / "other", 5.0))
    assert 0.3 < other < 0.5
    with pytest.raises(UnsupportedError, match="nothing in this model gains from bfloat16"):
        build(item, GraphVariant("bfloat16"), tmp_path / "half")


def test_the_source_is_written_again_with_a_fixed_batch(tmp_path: Path) -> None:
    item = task(affine(tmp_path / "model", 3.0), tmp_path / "task", fixed_batch=3)
    prepare(item)
    build_again(item, tmp_path / "again")
    assert SavedModel(tmp_path / "again").signature("serving_batch_3").inputs["x"].shape == (3, 4)
    assert difference(item, tmp_path / "again") == 0


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_source_whose_outputs_do_not_vary_is_seen(tmp_path: Path, factor: float) -> None:
    source = affine(tmp_path / "model", factor)
    inputs = draw_trial_inputs(None, SavedModel(source).signature(), size=20, batch=1, seed=0)
    comparison = Comparison(SavedModel(source), inputs, 0)
    assert comparison.own_difference == comparison.difference(source) == 0
    assert (comparison.variation > 0.1) == bool(factor)


def test_errors_of_tensorflow_are_one_line_without_its_source() -> None:
    error = tf.errors.UnimplementedError(None, None, "Graph execution error:\n\nno kernel")
    assert in_short(error) == "UnimplementedError: no kernel"
    assert in_short(UnsupportedError("no such form", received="a loop")) == "no such form (a loop)"
