"""Reading examples: every form, every check, and the split."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from paring.artifacts import Examples
from paring.errors import ExamplesError, UnsupportedError
from paring.tf.examples import open_split, stratified_split
from paring.tf.signature import Signature, TensorSpec

SIGNATURE = Signature(
    {"image": TensorSpec("image", (None, 4, 3), "float32")},
    {"digit": TensorSpec("digit", (None, 3), "float32")},
)
COUNT = 30


def images(count: int = COUNT, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 4, 3), np.float32)


def classes(count: int = COUNT) -> NDArray[np.int64]:
    return np.arange(count) % 3


def write_npz(file: Path, **arrays: NDArray[np.generic]) -> Path:
    np.savez(file, **arrays)
    return file


def write_records(
    file: Path, features: list[dict[str, NDArray[np.generic] | bytes]], *, gzip: bool = False
) -> Path:
    import tensorflow as tf

    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file), options="GZIP" if gzip else "") as writer:
        for one in features:
            example = tf.train.Example()
            for name, value in one.items():
                stored = example.features.feature[name]
                if isinstance(value, bytes):
                    stored.bytes_list.value.append(value)
                elif value.dtype.kind == "f":
                    stored.float_list.value.extend(value.ravel().tolist())
                else:
                    stored.int64_list.value.extend(value.ravel().tolist())
            writer.write(example.SerializeToString())
    return file


def rows(x: NDArray[np.generic], y: NDArray[np.int64]) -> list[dict[str, NDArray[np.generic]]]:
    return [{"image": one, "label": np.array([label])} for one, label in zip(x, y, strict=True)]


def test_an_npz_file_with_split_keys_keeps_its_splits(tmp_path: Path) -> None:
    x, y = images(), classes()
    file = write_npz(
        tmp_path / "e.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:]
    )
    train = open_split(Examples(file), "train", SIGNATURE)
    held_out = open_split(Examples(file), "eval", SIGNATURE)
    np.testing.assert_array_equal(train.features["image"], x[:20])
    np.testing.assert_array_equal(held_out.features["image"], x[20:])
    np.testing.assert_array_equal(held_out.labels, y[20:])
    assert (train.count, held_out.count) == (20, 10)


def test_parings_own_form_is_mapped_where_it_lies(tmp_path: Path) -> None:
    for split in ("train", "eval"):
        folder = tmp_path / f"Split-{split}"
        folder.mkdir()
        np.save(folder / "image.npy", images())
        np.save(folder / "label.npy", classes())
    split = open_split(Examples(tmp_path), "eval", SIGNATURE)
    mapped = split.features["image"]
    assert isinstance(mapped, np.memmap)
    assert mapped.filename == tmp_path / "Split-eval" / "image.npy"


def test_a_set_without_splits_is_split_alike_at_every_opening(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "e.npz", image=images(), label=classes())
    opened = [open_split(Examples(file), name, SIGNATURE) for name in ("train", "eval", "eval")]
    train, first, second = (split.features["image"] for split in opened)
    np.testing.assert_array_equal(first, second)
    found = np.concatenate([train, first]).reshape(COUNT, -1)
    np.testing.assert_array_equal(
        np.sort(found, axis=0), np.sort(images().reshape(COUNT, -1), axis=0)
    )
    assert np.bincount(opened[1].labels).tolist() == [2, 2, 2]


def test_unpacked_files_go_with_the_split(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "e.npz", x=images(), y=classes())
    split = open_split(Examples(file), "train", SIGNATURE)
    unpacked = Path(split.features["image"].filename)
    assert unpacked.exists()
    del split
    assert not unpacked.exists()


def test_batches_and_take_give_rows_in_order(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "e.npz", x_train=images(10), y_train=classes(10))
    split = open_split(Examples(file), "train", SIGNATURE)
    batches = list(split.batches(4))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([f["image"] for f, _ in batches]), images(10))
    taken = split.take([7, 2])
    np.testing.assert_array_equal(taken.features["image"], images(10)[[7, 2]])
    assert taken.labels.tolist() == [1, 2]
    assert taken.count == 2


@pytest.mark.parametrize("dtype", ["float64", "float16", "uint8", "int64", ">f4"])
def test_values_that_the_models_dtype_holds_are_converted(tmp_path: Path, dtype: str) -> None:
    x = np.arange(COUNT * 12).reshape(COUNT, 4, 3) % 200
    file = write_npz(tmp_path / "e.npz", x_train=x.astype(dtype), y_train=classes())
    found = open_split(Examples(file), "train", SIGNATURE).features["image"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x)


def _with(x: NDArray[np.generic], place: tuple[int, ...], value: float) -> NDArray[np.generic]:
    x = x.copy()
    x[place] = value
    return x


BAD_ARRAYS: dict[str, tuple[dict[str, Callable[[], NDArray[np.generic]]], str]] = {
    "nan": ({"image": lambda: _with(images(), (7, 1, 2), np.nan)}, "NaN or infinity.*row 7"),
    "infinity": ({"image": lambda: _with(images(), (3, 0, 0), np.inf)}, "row 3"),
    "overflow": ({"image": lambda: images().astype(np.float64) + 1e300}, "NaN or infinity"),
    "shape": ({"image": lambda: images()[:, :, :2]}, r"wrong shape[\s\S]*\[30, 4, 2\][\s\S]*4, 3"),
    "rank": ({"image": lambda: images()[..., None]}, "wrong shape"),
    "strings": ({"image": lambda: images().astype("S4")}, "wrong dtype"),
    "complex": ({"image": lambda: images().astype(np.complex64)}, "wrong dtype"),
    "large integers": ({"image": lambda: np.full((COUNT, 4, 3), 2**24 + 1)}, "does not"),
    "name": ({"imagee": images}, "did you mean 'image'"),
    "no features": ({"label": classes}, "no column for the model's input 'image'"),
    "twice": ({"image": images, "x": images}, "two columns for 'image'"),
    "lengths": ({"image": images, "label": lambda: classes(29)}, "29 rows, against 30"),
    "empty": ({"image": lambda: images(0), "label": lambda: classes(0)}, "is empty"),
    "negative label": ({"image": images, "label": lambda: classes() - 1}, "row 0"),
    "high label": ({"image": images, "label": lambda: classes() * 2}, r"row 2[\s\S]*0 to 2"),
    "float label": ({"image": images, "label": lambda: classes() * 1.0}, "no class ids"),
    "one-hot label": (
        {"image": images, "label": lambda: np.eye(3, dtype=int)[classes()]},
        "argmax",
    ),
    "objects": ({"image": lambda: np.array([{}] * COUNT, dtype=object)}, "Python objects"),
    "scalar": ({"image": lambda: np.float32(1)}, "one row for each example"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_the_model_does_not_take_are_refused(tmp_path: Path, case: str) -> None:
    columns, message = BAD_ARRAYS[case]
    arrays = {f"{name}_train": make() for name, make in columns.items()}
    file = tmp_path / "e.npz"
    np.savez(file, allow_pickle=True, **arrays)
    with pytest.raises(ExamplesError, match=message) as caught:
        open_split(Examples(file), "train", SIGNATURE)
    assert str(file) in str(caught.value)


def test_a_float_is_never_rounded_to_an_integer(tmp_path: Path) -> None:
    tokens = Signature({"t": TensorSpec("t", (None, 2), "int32")}, SIGNATURE.outputs)
    file = write_npz(tmp_path / "e.npz", t_train=np.zeros((4, 2)))
    with pytest.raises(ExamplesError, match="wrong dtype"):
        open_split(Examples(file), "train", tokens)


def test_a_model_that_takes_strings_is_named(tmp_path: Path) -> None:
    strings = Signature({"examples": TensorSpec("examples", (None,), "object")}, SIGNATURE.outputs)
    file = write_npz(tmp_path / "e.npz", x=images())
    with pytest.raises(UnsupportedError, match="'examples'"):
        open_split(Examples(file), "train", strings)


def test_a_missing_path_or_split_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExamplesError, match="nothing at this path"):
        open_split(Examples(tmp_path / "none"), "train", SIGNATURE)
    file = write_npz(tmp_path / "e.npz", x_train=images(), y_train=classes())
    with pytest.raises(ExamplesError, match="no eval split"):
        open_split(Examples(file), "eval", SIGNATURE)


def test_an_archive_that_was_cut_off_is_named(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "e.npz", x=images(), y=classes())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ExamplesError, match=r"e\.npz: not a readable \.npz"):
        open_split(Examples(file), "train", SIGNATURE)


def test_an_array_that_was_cut_off_is_named(tmp_path: Path) -> None:
    (tmp_path / "Split-train").mkdir()
    file = tmp_path / "Split-train" / "image.npy"
    np.save(file, images())
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ExamplesError, match="Split-train, image"):
        open_split(Examples(tmp_path), "train", SIGNATURE)


def test_a_label_that_was_asked_for_by_name_must_be_there(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "e.npz", x=images(), species=classes())
    split = open_split(Examples(file), "eval", SIGNATURE, label="species")
    assert split.labels is not None
    bare = write_npz(tmp_path / "bare.npz", x=images())
    with pytest.raises(ExamplesError, match="no label column 'species'"):
        open_split(Examples(bare), "eval", SIGNATURE, label="species")
    assert open_split(Examples(bare), "eval", SIGNATURE).labels is None


@pytest.mark.parametrize("layout", ["Split-{}/data-0.gz", "{}-00000-of-00001.tfrecord"])
def test_tfrecords_in_splits_come_out_as_written(tmp_path: Path, layout: str) -> None:
    x, y = images(), classes()
    gzip = layout.endswith("gz")
    write_records(tmp_path / layout.format("train"), rows(x[:20], y[:20]), gzip=gzip)
    write_records(tmp_path / layout.format("eval"), rows(x[20:], y[20:]), gzip=gzip)
    split = open_split(Examples(tmp_path), "eval", SIGNATURE)
    np.testing.assert_array_equal(split.features["image"], x[20:])
    np.testing.assert_array_equal(split.labels, y[20:])
    assert isinstance(split.features["image"], np.memmap)


def test_tfrecords_in_several_files_are_joined_and_split(tmp_path: Path) -> None:
    x, y = images(), classes()
    write_records(tmp_path / "a.tfrecord", rows(x[:17], y[:17]))
    write_records(tmp_path / "b.tfrecord.gz", rows(x[17:], y[17:]), gzip=True)
    train = open_split(Examples(tmp_path), "train", SIGNATURE)
    held_out = open_split(Examples(tmp_path), "eval", SIGNATURE)
    chosen, others = stratified_split(y, COUNT, 0.2, 0)
    np.testing.assert_array_equal(train.features["image"], x[chosen])
    np.testing.assert_array_equal(held_out.features["image"], x[others])


def test_raw_bytes_are_read_by_the_feature_spec(tmp_path: Path) -> None:
    x = np.arange(COUNT * 12, dtype=np.uint8).reshape(COUNT, 4, 3)
    features = [{"image": one.tobytes(), "other": np.array([1])} for one in x]
    write_records(tmp_path / "train.tfrecord", features)
    spec = {"image": {"shape": [4, 3], "dtype": "uint8"}}
    (tmp_path / "feature_spec.json").write_text(json.dumps(spec))
    split = open_split(Examples(tmp_path), "train", SIGNATURE)
    np.testing.assert_array_equal(split.features["image"], x)
    assert split.labels is None
    spec["image"]["shape"] = [5, 3]
    (tmp_path / "feature_spec.json").write_text(json.dumps(spec))
    with pytest.raises(ExamplesError, match=r"wrong length[\s\S]*12 bytes"):
        open_split(Examples(tmp_path), "train", SIGNATURE)


BAD_RECORDS: dict[str, tuple[list[dict[str, NDArray[np.generic] | bytes]], str]] = {
    "name": (
        [{"imago": images(1)[0]}],
        r"lack the model's input 'image'[\s\S]*did you mean 'imago'",
    ),
    "length": ([{"image": images(1)[0, :2]}], "not like the feature spec"),
    "later record": (
        [{"image": images(1)[0]}, {"other": np.array([1])}],
        "not like the feature spec",
    ),
    "text label": ([{"image": images(1)[0], "label": b"seven"}], "no class ids"),
    "none": ([], "the split is empty"),
}


@pytest.mark.parametrize("case", BAD_RECORDS)
def test_records_that_the_model_does_not_take_are_refused(tmp_path: Path, case: str) -> None:
    features, message = BAD_RECORDS[case]
    write_records(tmp_path / "train.tfrecord", features)
    with pytest.raises(ExamplesError, match=message) as caught:
        open_split(Examples(tmp_path), "train", SIGNATURE)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("gzip", [False, True])
def test_records_that_were_cut_off_are_named(tmp_path: Path, gzip: bool) -> None:
    name = "train.tfrecord.gz" if gzip else "train.tfrecord"
    file = write_records(tmp_path / name, rows(images(), classes()), gzip=gzip)
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(ExamplesError, match="not a readable TFRecord") as caught:
        open_split(Examples(tmp_path), "train", SIGNATURE)
    assert str(file) in str(caught.value)


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
    found = open_split(Examples(file), "train", _signature(output)).labels
    assert found is not None
    assert (found.dtype, found.shape) == (np.dtype(dtype), shape)
    np.testing.assert_array_equal(found, labels.reshape(shape).astype(dtype))


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
        ((None, 2), _with(_float(COUNT, 2), (7, 1), np.nan), "NaN or infinity, first in row 7"),
        ((None, 1), _with(_float(COUNT), (4,), 1e300), "NaN or infinity, first in row 4"),
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


def test_each_output_may_have_labels_under_its_name(tmp_path: Path) -> None:
    signature = _signature(box=(None, 4), kind=(None, 3))
    box, kind = _float(COUNT, 4).astype(np.float32), classes()
    for number, first in enumerate(("box", "label", "y")):
        columns = {"image": images(), first: box, "kind": kind}
        file = write_npz(tmp_path / f"{number}.npz", **columns)
        split = open_split(Examples(file), "eval", signature)
        assert list(split.labels_by_output) == ["box", "kind"]
        rows = stratified_split(None, COUNT, 0.2, 0)[1]
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
        open_split(Examples(twice), "eval", signature)


def test_an_output_that_is_called_label_has_that_column(tmp_path: Path) -> None:
    signature = _signature(box=(None, 4), label=(None, 3))
    file = write_npz(tmp_path / "e.npz", x=images(), box=_float(COUNT, 4), label=classes())
    split = open_split(Examples(file), "eval", signature)
    assert {name: one.dtype.kind for name, one in split.labels_by_output.items()} == {
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
    found = open_split(Examples(tmp_path), "train", signature).labels_by_output
    np.testing.assert_array_equal(found["box"], box)
    np.testing.assert_array_equal(found["kind"], classes())
    np.testing.assert_array_equal(found["tag"], tags)
    np.testing.assert_array_equal(found["value"], box[:, 0, 0])


def test_labels_that_are_no_classes_are_split_as_one(tmp_path: Path) -> None:
    for labels in (_float(COUNT), np.zeros((COUNT, 5), int), None):
        train, held_out = stratified_split(labels, COUNT, 0.2, 0)
        assert (len(train), len(held_out)) == (24, 6)
        np.testing.assert_array_equal(held_out, stratified_split(None, COUNT, 0.2, 0)[1])


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 6), min_size=2, max_size=200),
    eval_fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**31),
)
def test_the_split_is_whole_disjoint_stratified_and_repeatable(
    labels: list[int], eval_fraction: float, seed: int
) -> None:
    ids = np.array(labels, np.int64)
    train, held_out = stratified_split(ids, len(ids), eval_fraction, seed)
    assert len(train)
    assert len(held_out)
    assert sorted([*train, *held_out]) == list(range(len(ids)))
    for one in np.unique(ids):
        share = np.count_nonzero(ids == one) * len(held_out) / len(ids)
        assert abs(np.count_nonzero(ids[held_out] == one) - share) < 1
    assert abs(len(held_out) - len(ids) * eval_fraction) <= 1
    again = stratified_split(ids, len(ids), eval_fraction, seed)
    np.testing.assert_array_equal(held_out, again[1])


def test_another_seed_splits_otherwise() -> None:
    first, second = (stratified_split(classes(300), 300, 0.2, seed)[1] for seed in (0, 1))
    assert first.tolist() != second.tolist()
