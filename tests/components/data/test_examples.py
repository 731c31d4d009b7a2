"""Reading examples: every form, every check, and the split."""

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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
from paring.data.examples import open_split, stratified_split
from paring.errors import ExamplesError, UnsupportedError
from paring.models.signature import Signature, TensorSpec


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
    result = np.concatenate([train, first]).reshape(COUNT, -1)
    np.testing.assert_array_equal(
        np.sort(result, axis=0), np.sort(images().reshape(COUNT, -1), axis=0)
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
    result = open_split(Examples(file), "train", SIGNATURE).features["image"]
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, x)


BAD_ARRAYS: dict[str, tuple[dict[str, Callable[[], NDArray[np.generic]]], str]] = {
    "nan": ({"image": lambda: with_value(images(), (7, 1, 2), np.nan)}, "NaN or infinity.*row 7"),
    "infinity": ({"image": lambda: with_value(images(), (3, 0, 0), np.inf)}, "row 3"),
    "overflow": (
        {"image": lambda: images().astype(np.float64) + 1e300},
        r"numbers that float32 does not, first in row 0\n.*1e\+300",
    ),
    "shape": ({"image": lambda: images()[:, :, :2]}, r"wrong shape[\s\S]*\[30, 4, 2\][\s\S]*4, 3"),
    "rank": ({"image": lambda: images()[..., None]}, "wrong shape"),
    "strings": ({"image": lambda: images().astype("S4")}, "wrong dtype"),
    "complex": ({"image": lambda: images().astype(np.complex64)}, "wrong dtype"),
    "large integers": ({"image": lambda: np.full((COUNT, 4, 3), 2**24 + 1)}, "does not"),
    "name": ({"imagee": images}, "rename 'imagee' to image"),
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
    with pytest.raises(ExamplesError, match="path does not exist"):
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


@pytest.mark.parametrize(
    "layout",
    [
        "Split-{}/data-0.gz",
        "Split-{}/data_tfrecord-00000-of-00001.gz",
        "{}-00000-of-00001.tfrecord",
        "digits-{}.tfrecord-00000-of-00001",
    ],
)
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
    chosen, others = stratified_split(y, COUNT, eval_fraction=0.2, seed=0)
    np.testing.assert_array_equal(train.features["image"], x[chosen])
    np.testing.assert_array_equal(held_out.features["image"], x[others])


def test_raw_bytes_are_read_by_the_feature_spec(tmp_path: Path) -> None:
    x = np.arange(COUNT * 12, dtype=np.uint8).reshape(COUNT, 4, 3)
    features = [{"image": item.tobytes(), "other": np.array([1])} for item in x]
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
    "length": (
        [{"image": images(1)[0, :2]}],
        r"record 0 .*'image' has too few values\n.*received: 6, expected 12",
    ),
    "later record": (
        [{"image": images(1)[0]}, {"other": np.array([1])}],
        r"record 1 .*no 'image'",
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


def test_labels_that_are_no_classes_are_split_as_one(tmp_path: Path) -> None:
    for labels in (np.random.default_rng(1).normal(size=COUNT), np.zeros((COUNT, 5), int), None):
        train, held_out = stratified_split(labels, COUNT, eval_fraction=0.2, seed=0)
        assert (len(train), len(held_out)) == (24, 6)
        np.testing.assert_array_equal(
            held_out, stratified_split(None, COUNT, eval_fraction=0.2, seed=0)[1]
        )


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
    train, held_out = stratified_split(ids, len(ids), eval_fraction=eval_fraction, seed=seed)
    assert len(train)
    assert len(held_out)
    assert sorted([*train, *held_out]) == list(range(len(ids)))
    for item in np.unique(ids):
        share = np.count_nonzero(ids == item) * len(held_out) / len(ids)
        assert abs(np.count_nonzero(ids[held_out] == item) - share) < 1
    assert abs(len(held_out) - len(ids) * eval_fraction) <= 1
    again = stratified_split(ids, len(ids), eval_fraction=eval_fraction, seed=seed)
    np.testing.assert_array_equal(held_out, again[1])


def test_another_seed_splits_otherwise() -> None:
    first, second = (
        stratified_split(classes(300), 300, eval_fraction=0.2, seed=seed)[1] for seed in (0, 1)
    )
    assert first.tolist() != second.tolist()


def test_an_archive_with_two_arrays_of_one_name_is_refused(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "e.npz", x_train=images(), y_train=classes())
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        archive.writestr("y_train.npy", archive.read("y_train.npy"))
    with pytest.raises(ExamplesError, match=r"same name[\s\S]*y_train\.npy 2 times"):
        open_split(Examples(file), "train", SIGNATURE)


@pytest.mark.parametrize("other", ["val", "validation", "test"])
def test_an_archive_with_two_eval_splits_is_refused(tmp_path: Path, other: str) -> None:
    arrays = {f"x_{other}": images(9), f"y_{other}": classes(9)}
    file = write_npz(
        tmp_path / "e.npz",
        x_train=images(),
        y_train=classes(),
        x_eval=images(12),
        y_eval=classes(12),
        **arrays,
    )
    with pytest.raises(ExamplesError, match=rf"keys \*_eval, keys \*_{other}"):
        open_split(Examples(file), "eval", SIGNATURE)


def test_a_folder_with_two_eval_splits_says_which_one_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, count in (("train", 20), ("val", 9), ("test", 12)):
        folder = tmp_path / f"Split-{name}"
        folder.mkdir()
        np.save(folder / "image.npy", images(count))
        np.save(folder / "label.npy", classes(count))
    with caplog.at_level("WARNING"):
        assert open_split(Examples(tmp_path), "eval", SIGNATURE).count == 9
    assert "val is the eval split, and test is left out" in caplog.text


def test_two_files_for_one_column_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "Split-train"
    folder.mkdir()
    np.save(folder / "image.npy", images())
    np.save(folder / "%69mage.npy", images())
    with pytest.raises(ExamplesError, match="two files hold the column 'image'"):
        open_split(Examples(tmp_path), "train", SIGNATURE)


def test_one_hot_rows_are_split_with_each_class_in_its_share() -> None:
    ids = classes(300)
    for by_ids, by_rows in zip(
        stratified_split(ids, 300, eval_fraction=0.2, seed=0),
        stratified_split(np.eye(3, dtype=np.float32)[ids], 300, eval_fraction=0.2, seed=0),
        strict=True,
    ):
        np.testing.assert_array_equal(by_ids, by_rows)
