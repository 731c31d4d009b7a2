"""Labels of every kind, by what an output has room for."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.helpers.example_sets import (
    COUNT,
    SIGNATURE,
    classes,
    images,
    with_value,
    write_npz,
    write_records,
)

from paring.artifacts import Examples
from paring.data.examples import open_split, stratified_split
from paring.errors import ExamplesError
from paring.models.signature import Signature, TensorSpec


def _signature(*shapes: tuple[int | None, ...], **named: tuple[int | None, ...]) -> Signature:
    """One that gives outputs of these shapes, an only one named `out`."""
    outputs = dict.fromkeys(["out"], shapes[0]) if shapes else named
    return Signature(
        SIGNATURE.inputs,
        {name: TensorSpec(name, shape, "float32") for name, shape in sorted(outputs.items())},
    )


def _float(*shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=shape)


@pytest.mark.parametrize(
    ("output", "labels", "dtype", "shape"),
    [
        ((None, 3), classes(), "int64", (COUNT,)),
        ((None, 3), classes()[:, None].astype(np.uint8), "int64", (COUNT,)),
        ((None, 1), classes() > 0, "int64", (COUNT,)),
        ((None,), classes() // 2, "int64", (COUNT,)),
        ((None, None), classes() + 900, "int64", (COUNT,)),
        ((), classes(), "int64", (COUNT,)),
        ((None, 1), _float(COUNT), "float32", (COUNT,)),
        ((None, 1), _float(COUNT, 1), "float32", (COUNT,)),
        ((None,), _float(COUNT), "float32", (COUNT,)),
        ((None, 3), _float(COUNT, 3), "float32", (COUNT, 3)),
        ((None, 5, 4), _float(COUNT, 5, 4), "float32", (COUNT, 5, 4)),
        ((None, None, 3), np.stack([classes()] * 5, 1), "int64", (COUNT, 5)),
        ((None, 5, 5, 1), np.ones((COUNT, 5, 5), int), "int64", (COUNT, 5, 5)),
        ((), np.stack([classes()] * 5, 1), "int64", (COUNT, 5)),
    ],
)
def test_labels_go_by_their_dtype_and_the_outputs_shape(
    tmp_path: Path,
    output: tuple[int | None, ...],
    labels: NDArray[np.generic],
    dtype: str,
    shape: tuple[int, ...],
) -> None:
    file = write_npz(tmp_path / "e.npz", x_train=images(), y_train=labels)
    result = open_split(Examples(file), "train", _signature(output)).labels
    assert result is not None
    assert (result.dtype, result.shape) == (np.dtype(dtype), shape)
    np.testing.assert_array_equal(result, labels.reshape(shape).astype(dtype))


def test_whatever_is_below_0_is_padding_of_tokens(tmp_path: Path) -> None:
    labels = np.stack([classes() - 2, classes() - 101], axis=1)
    file = write_npz(tmp_path / "e.npz", x=images(), y=labels)
    split = open_split(Examples(file), "eval", _signature((None, 2, 3)))
    assert split.labels is not None
    assert set(split.labels[:, 0]) == {-1, 0}
    assert set(split.labels[:, 1]) == {-1}


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        ((None, 3), _float(COUNT), r"floats \[count, 3\]"),
        ((None, 1), _float(COUNT, 2), r"no class ids for output 'out', and no values"),
        ((None, 3), np.eye(3, dtype=int)[classes()], "argmax"),
        ((None, 5, 3), classes(), r"integers \[count, 5\]"),
        ((None, 5, 3), np.zeros((COUNT, 4), int), r"int64 of shape \[30, 4\]"),
        ((None, 5, 3), np.full((COUNT, 5), 3), r"0 to 2, and less than 0 for padding"),
        ((None, 1), classes(), r"row 2[\s\S]*0 to 1; for regression, give floats"),
        (
            (None, 2),
            with_value(_float(COUNT, 2), (7, 1), np.nan),
            "NaN or infinity, first in row 7",
        ),
        (
            (None, 1),
            with_value(_float(COUNT), (4,), 1e300),
            "numbers that float32 does not, first in row 4",
        ),
        ((None, 1), np.full(COUNT, "high"), "no class ids"),
    ],
)
def test_labels_that_the_output_has_no_room_for_are_refused(
    tmp_path: Path, output: tuple[int | None, ...], labels: NDArray[np.generic], message: str
) -> None:
    file = write_npz(tmp_path / "e.npz", x_train=images(), y_train=labels)
    with pytest.raises(ExamplesError, match=message) as caught:
        open_split(Examples(file), "train", _signature(output))
    assert str(file) in str(caught.value)


def _opened(tmp_path: Path, labels: NDArray[np.generic], spec: TensorSpec) -> NDArray[np.generic]:
    signature = Signature(SIGNATURE.inputs, {spec.name: spec})
    file = write_npz(tmp_path / "e.npz", x_train=images(), y_train=labels)
    result = open_split(Examples(file), "train", signature).labels
    assert result is not None
    return np.asarray(result)


def test_masks_may_keep_the_axis_of_the_outputs_one_value(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (COUNT, 5, 5, 1))
    result = _opened(tmp_path, masks, TensorSpec("mask", (None, 5, 5, 1), "float32"))
    np.testing.assert_array_equal(result, masks[..., 0])


def test_zeros_and_ones_of_the_outputs_shape_are_several_labels(tmp_path: Path) -> None:
    several = np.random.default_rng(0).integers(0, 2, (COUNT, 3))
    result = _opened(tmp_path, several, TensorSpec("tags", (None, 3), "float32"))
    np.testing.assert_array_equal(result, several)


@pytest.mark.parametrize("shape", [(), (1,), (4,)])
def test_labels_of_an_integer_output_are_what_it_should_give(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    ids = np.random.default_rng(0).integers(-1, 900, (COUNT, *shape))
    result = _opened(tmp_path, ids, TensorSpec("id", (None, *shape), "int64"))
    np.testing.assert_array_equal(result, ids.reshape(result.shape))


def test_each_output_may_have_labels_under_its_name(tmp_path: Path) -> None:
    signature = _signature(box=(None, 4), kind=(None, 3))
    box, kind = _float(COUNT, 4).astype(np.float32), classes()
    for number, first in enumerate(("box", "label", "y")):
        columns = {"image": images(), first: box, "kind": kind}
        file = write_npz(tmp_path / f"{number}.npz", **columns)
        label = "label" if first == "box" else f"box={first}"
        split = open_split(Examples(file), "eval", signature, label=label)
        assert list(split.labels_by_output) == ["box", "kind"]
        rows = stratified_split(None, COUNT, eval_fraction=0.2, seed=0)[1]
        np.testing.assert_array_equal(split.labels, box[rows])
        np.testing.assert_array_equal(split.other_labels["kind"], kind[rows])
        taken = split.take([1, 0])
        np.testing.assert_array_equal(taken.other_labels["kind"], kind[rows[[1, 0]]])
    alone = write_npz(tmp_path / "alone.npz", x=images(), kind=kind)
    split = open_split(Examples(alone), "eval", signature)
    assert split.labels is None
    assert list(split.labels_by_output) == ["kind"]
    twice = write_npz(tmp_path / "twice.npz", x=images(), box=box, label=box)
    with pytest.raises(ExamplesError, match="two columns for 'label'"):
        open_split(Examples(twice), "eval", signature, label="box=label")


def test_an_output_that_is_called_label_has_that_column(tmp_path: Path) -> None:
    signature = _signature(box=(None, 4), label=(None, 3))
    file = write_npz(tmp_path / "e.npz", x=images(), box=_float(COUNT, 4), label=classes())
    split = open_split(Examples(file), "eval", signature)
    assert {name: item.dtype.kind for name, item in split.labels_by_output.items()} == {
        "box": "f",
        "label": "i",
    }


def test_labels_of_every_kind_are_read_from_tfrecords(tmp_path: Path) -> None:
    signature = _signature(box=(None, 2, 2), kind=(None, 3), tag=(None, 4, 5), value=(None, 1))
    box = _float(COUNT, 2, 2).astype(np.float32)
    tags = np.arange(COUNT * 4).reshape(COUNT, 4) % 6 - 1
    features = [
        {
            "image": images()[row],
            "box": box[row],
            "kind": classes()[row : row + 1],
            "tag": tags[row],
            "value": box[row, 0, :1],
        }
        for row in range(COUNT)
    ]
    write_records(tmp_path / "train.tfrecord", features)
    result = open_split(Examples(tmp_path), "train", signature).labels_by_output
    np.testing.assert_array_equal(result["box"], box)
    np.testing.assert_array_equal(result["kind"], classes())
    np.testing.assert_array_equal(result["tag"], tags)
    np.testing.assert_array_equal(result["value"], box[:, 0, 0])
