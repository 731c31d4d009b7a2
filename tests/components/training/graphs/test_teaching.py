"""Losses between a graph's outputs and its source's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tests.helpers.bare_models import save_module

from paring.data.examples import Split
from paring.errors import UnsupportedError
from paring.training.graphs.graph_model import GraphModel
from paring.training.graphs.teaching import Kind, TaughtOutput, taught_outputs


def _softmax(logits: Any) -> Any:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _divergence(wanted: Any, given: Any) -> Any:
    return np.sum(wanted * np.log(wanted / given), axis=-1)


def test_each_kind_is_compared_as_its_values_mean() -> None:
    draw = np.random.default_rng(0)
    student, teacher = draw.normal(size=(2, 3, 4))

    def loss(kind: Kind, given: Any, wanted: Any, scale: float = 1.0) -> Any:
        output = TaughtOutput("", "", kind, scale)
        return output.loss(tf.constant(given), tf.constant(wanted)).numpy()

    wanted, given = _softmax(teacher), _softmax(student)
    expected = _divergence(wanted, given)
    np.testing.assert_allclose(loss("classes", student, teacher), expected, rtol=1e-5)
    np.testing.assert_allclose(loss("probabilities", given, wanted), expected, rtol=1e-5)
    flags = [1 / (1 + np.exp(-item)) for item in (teacher, student)]
    both = [np.stack([item, 1 - item], axis=-1) for item in flags]
    np.testing.assert_allclose(
        loss("flags", student, teacher), _divergence(*both).mean(axis=-1), rtol=1e-4
    )
    np.testing.assert_allclose(
        loss("values", student, teacher, 2.0), ((student - teacher) ** 2).mean(-1) / 2, rtol=1e-5
    )


def test_outputs_are_known_by_activation_labels_and_sums(tmp_path: Path) -> None:
    save_module(tmp_path / "model")
    model = GraphModel.open(tmp_path / "model")
    split = Split({}, np.zeros(4, np.int64), 4, "digit")
    values = np.array([[1.0], [2.0], [3.0], [4.0]])
    digit, size = taught_outputs(model, split, {"digit": np.full((4, 10), 0.1), "size": values}, 4)
    # The logits, from before the softmax.
    assert (digit.kind, digit.tensor) == ("classes", model.scores["digit"][1])
    assert digit.tensor != model.graph.outputs["digit"]
    assert (size.kind, size.scale) == ("values", 1.25)

    flagged = Split({}, np.zeros(4, np.int64), 4, "size")
    outputs = {"digit": np.full((4, 10), 0.1), "size": values}
    assert taught_outputs(model, flagged, outputs, 4)[1].kind == "flags"
    # Of eight examples.
    assert not any(item.by_example for item in taught_outputs(model, split, outputs, 8))
    split.weights = np.ones(8)
    with pytest.raises(UnsupportedError, match="no axis for examples"):
        taught_outputs(model, split, outputs, 8)


def test_a_source_of_broken_outputs_is_refused(tmp_path: Path) -> None:
    save_module(tmp_path / "model")
    model = GraphModel.open(tmp_path / "model")
    broken = {"digit": np.full((4, 10), np.nan), "size": np.zeros((4, 1))}
    with pytest.raises(UnsupportedError, match="no finite numbers"):
        taught_outputs(model, Split({}, None, 4, "digit"), broken, 4)
