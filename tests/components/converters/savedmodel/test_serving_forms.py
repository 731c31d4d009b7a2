"""The forms that a model is tried in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.converters.savedmodel.serving_forms import GraphVariant, GraphVariants, Precision
from paring.errors import UnsupportedError
from paring.graphs.graph import load_function
from paring.graphs.serving_graph import Variables
from paring.models.saved_model import SavedModel
from paring.runtimes.savedmodel import SavedModelRuntime


@pytest.mark.parametrize(
    ("precision", "variables", "compiled"),
    [("float16", "frozen", False), ("float16", "kept", True), ("bfloat16", "kept", False)],
)
def test_half_precision_keeps_the_signature_and_the_classes(
    digits_model: Path,
    digits: Any,
    tmp_path: Path,
    precision: Precision,
    variables: Variables,
    compiled: bool,
) -> None:
    forms = GraphVariants(
        load_function(SavedModel(digits_model)), variables=variables, fixed_batch=0
    )
    forms.build(GraphVariant(precision, compiled), tmp_path / "half", SavedModel(digits_model))
    forms.build(GraphVariant(), tmp_path / "float", SavedModel(digits_model))
    assert SavedModel(tmp_path / "half").signature() == SavedModel(digits_model).signature()
    features = {"image": digits.x_eval[:50]}
    expected, result = (
        SavedModelRuntime(SavedModel(folder)).run(features)["digit"]
        for folder in (digits_model, tmp_path / "half")
    )
    assert np.mean(expected.argmax(1) == result.argmax(1)) > 0.95
    np.testing.assert_allclose(result, expected, atol=0.05)
    assert not np.array_equal(result, expected)
    size = {
        name: sum(file.stat().st_size for file in (tmp_path / name).rglob("*") if file.is_file())
        for name in ("half", "float")
    }
    assert size["half"] < size["float"]


def test_what_is_tried_hangs_on_the_parameters(digits_model: Path) -> None:
    forms = GraphVariants(
        load_function(SavedModel(digits_model)), variables="frozen", fixed_batch=0
    )
    assert list(forms.changes("auto", True)) == ["inference graph", "bfloat16", "float16", "xla"]
    assert forms.changes("bfloat16", False) == {
        "inference graph": {},
        "bfloat16": {"precision": "bfloat16"},
    }
    assert forms.changes("float32", True) == {"inference graph": {}, "xla": {"compiled": True}}


def test_without_a_frozen_graph_there_is_no_form(lookup: Path, tmp_path: Path) -> None:
    forms = GraphVariants(load_function(SavedModel(lookup)), variables="frozen", fixed_batch=0)
    assert forms.graph is None
    assert list(forms.changes("auto", True)) == ["inference graph"]
    with pytest.raises(UnsupportedError, match="lookup table"):
        forms.build(GraphVariant(), tmp_path / "made", SavedModel(lookup))


def test_a_form_is_named_for_what_was_done() -> None:
    assert str(GraphVariant()) == "inference graph"
    assert str(GraphVariant("bfloat16", True)) == "inference graph, bfloat16, xla"
