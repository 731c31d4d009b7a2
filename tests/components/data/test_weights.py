"""A column of sample weights: found in every form of examples, checked, and kept."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers.example_sets import (
    COUNT,
    SIGNATURE,
    classes,
    images,
    rows,
    with_value,
    write_npz,
    write_records,
)

from paring.artifacts import Examples
from paring.data.examples import open_split
from paring.errors import ExamplesError

WEIGHTS = np.arange(COUNT) / 4.0


def _npz(folder: Path, weights: NDArray[np.generic], **more: NDArray[np.generic]) -> Examples:
    given = {"x": images(), "y": classes(), "w": weights, **more}
    both = {f"{name}_{part}": item for name, item in given.items() for part in ("train", "eval")}
    return Examples(write_npz(folder / "e.npz", **both))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8, np.bool_])
def test_numbers_of_every_dtype_are_weights(tmp_path: Path, dtype: type) -> None:
    given = (4 * WEIGHTS).astype(dtype)
    split = open_split(_npz(tmp_path, given), "eval", SIGNATURE, weights="w")
    assert split.weights is not None
    assert split.weights.dtype == np.float64
    np.testing.assert_array_equal(split.weights, given.astype(float))
    assert split.weights_column == "w"
    np.testing.assert_array_equal(split.used_rows, np.flatnonzero(given))


def test_a_column_of_weights_may_have_an_axis_of_one(tmp_path: Path) -> None:
    split = open_split(_npz(tmp_path, WEIGHTS[:, None]), "eval", SIGNATURE, weights="w")
    np.testing.assert_array_equal(split.weights, WEIGHTS)


def test_without_the_option_the_column_is_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = open_split(_npz(tmp_path, WEIGHTS), "eval", SIGNATURE)
    assert split.weights is None
    assert "no input and no output of the model takes 'w', so it is left out" in caplog.text
    caplog.clear()
    open_split(_npz(tmp_path, WEIGHTS), "eval", SIGNATURE, weights="w")
    assert caplog.text == ""


def test_a_set_without_splits_is_split_with_its_weights(tmp_path: Path) -> None:
    x = images()
    file = write_npz(tmp_path / "e.npz", x=x, y=classes(), w=WEIGHTS)
    for name in ("train", "eval"):
        split = open_split(Examples(file), name, SIGNATURE, weights="w")
        assert split.weights is not None
        for image, weight in zip(split.features["image"], split.weights, strict=True):
            (row,) = np.flatnonzero((x == image).all(axis=(1, 2)))
            assert weight == WEIGHTS[row]


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_records_hold_weights_as_floats_or_integers(tmp_path: Path, dtype: type) -> None:
    given = (4 * WEIGHTS).astype(dtype)
    stored = [
        item | {"w": np.array([weight])}
        for item, weight in zip(rows(images(), classes()), given, strict=True)
    ]
    for name in ("train", "eval"):
        write_records(tmp_path / f"{name}.tfrecord", stored)
    split = open_split(Examples(tmp_path), "eval", SIGNATURE, weights="w")
    np.testing.assert_array_equal(split.weights, given.astype(float))
    assert open_split(Examples(tmp_path), "eval", SIGNATURE).weights is None
    with pytest.raises(ExamplesError, match=r"no column of weights 'v'[\s\S]*image, label, w"):
        open_split(Examples(tmp_path), "eval", SIGNATURE, weights="v")


def test_records_with_weights_of_text_are_refused(tmp_path: Path) -> None:
    stored = [row | {"w": b"heavy"} for row in rows(images(), classes())]
    write_records(tmp_path / "e.tfrecord", stored)
    with pytest.raises(ExamplesError, match=r"weights 'w' are no numbers[\s\S]*bytes_list"):
        open_split(Examples(tmp_path / "e.tfrecord"), "eval", SIGNATURE, weights="w")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (with_value(WEIGHTS, (7,), -1.0), r"'w'[\s\S]*negative[\s\S]*row 7[\s\S]*-1"),
        (with_value(WEIGHTS, (7,), np.nan), r"'w' holds NaN or infinity, first in row 7"),
        (with_value(WEIGHTS, (7,), np.inf), r"'w' holds NaN or infinity, first in row 7"),
        (with_value(WEIGHTS, (7,), 1e40), r"'w'[\s\S]*too large[\s\S]*row 7"),
        (np.zeros(COUNT), r"all weights 'w' are 0"),
        (np.full(COUNT, 1e-60), r"all weights 'w' are 0"),
        (np.full(COUNT, "heavy"), r"weights 'w' are no numbers[\s\S]*U5"),
        (np.ones((COUNT, 2)), r"weights 'w' have the wrong shape[\s\S]*30, 2"),
        (np.ones(COUNT - 1), r"'w' has another number of rows"),
    ],
)
def test_what_is_no_weight_is_refused_with_the_columns_name(
    tmp_path: Path, weights: NDArray[np.generic], message: str
) -> None:
    with pytest.raises(ExamplesError, match=message):
        open_split(_npz(tmp_path, weights), "eval", SIGNATURE, weights="w")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x", "'x' is an input of the model"),
        ("image", "'image' is an input of the model"),
        ("y", "'y' is a column of labels"),
        ("label", "'label' is a column of labels"),
        ("digit", "'digit' is a column of labels"),
        ("v", r"no column of weights 'v'[\s\S]*columns w, x, y"),
    ],
)
def test_a_column_that_is_something_else_or_missing_is_refused(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(ExamplesError, match=message):
        open_split(_npz(tmp_path, WEIGHTS), "eval", SIGNATURE, weights=name)


def test_the_name_of_a_label_is_free_where_the_label_has_another(tmp_path: Path) -> None:
    examples = _npz(tmp_path, classes())
    split = open_split(examples, "eval", SIGNATURE, label="w", weights="y")
    np.testing.assert_array_equal(split.weights, classes())
    np.testing.assert_array_equal(split.labels, classes())


def test_weights_go_with_the_examples_that_are_taken(tmp_path: Path) -> None:
    split = open_split(_npz(tmp_path, WEIGHTS), "eval", SIGNATURE, weights="w").take([5, 2])
    np.testing.assert_array_equal(split.weights, WEIGHTS[[5, 2]])
    assert split.weights_column == "w"
