"""Columns from TFRecords in several files: whose rows, and which file is at fault."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from tests.helpers.example_sets import write_records

from paring.data.tfrecords import read_records
from paring.errors import ExamplesError
from paring.models.signature import TensorSpec

SHAPE = (256, 128)


def _inputs(dtype: str, shape: tuple[int, ...] = SHAPE) -> dict[str, TensorSpec]:
    return {"image": TensorSpec("image", (None, *shape), dtype)}


LABELS = {"label": TensorSpec("digit", (None, 10), "float32")}


def _read(files: Sequence[Path], folder: Path, dtype: str = "uint8") -> dict[str, NDArray[Any]]:
    folder.mkdir()
    return read_records(
        files, folder / "feature_spec.json", inputs=_inputs(dtype), labels=LABELS, scratch=folder
    )[0]


def _read_small(files: Sequence[Path], folder: Path) -> dict[str, NDArray[Any]]:
    """Read files of images of 2x2 floats without a feature_spec.json."""
    inputs = _inputs("float32", (2, 2))
    return read_records(files, folder / "none", inputs=inputs, labels=LABELS, scratch=folder)[0]


@pytest.mark.parametrize("form", ["raw bytes", "floats"])
def test_rows_stand_in_the_order_of_the_files(tmp_path: Path, form: str) -> None:
    """Also where a file is several batches, and others are done long before it."""
    sizes = {"a.tfrecord": 90, "b.tfrecord.gz": 1, "c.tfrecord": 0, "d.tfrecord.gz": 75}
    total = sum(sizes.values())
    generator = np.random.default_rng(0)
    if form == "floats":
        images = generator.random((total, *SHAPE), np.float32)
    else:
        images = generator.integers(0, 256, (total, *SHAPE), np.uint8)
    files, row = [], 0
    for name, size in sizes.items():
        features = [
            {
                "image": images[item] if form == "floats" else images[item].tobytes(),
                "label": np.array([item]),
            }
            for item in range(row, row + size)
        ]
        files.append(write_records(tmp_path / name, features, gzip=name.endswith("gz")))
        row += size
    for folder in ("first", "again"):
        columns = _read(files, tmp_path / folder)
        np.testing.assert_array_equal(columns["image"], images)
        np.testing.assert_array_equal(columns["label"], np.arange(total))


@pytest.mark.parametrize("dtype", ["int16", "uint32", "float64", "bool"])
def test_raw_bytes_are_little_endian_numbers_of_any_dtype(tmp_path: Path, dtype: str) -> None:
    images = np.random.default_rng(0).integers(0, 2, (3, *SHAPE)).astype(dtype)
    stored = images.astype(np.dtype(dtype).newbyteorder("<"))
    file = write_records(tmp_path / "a.tfrecord", [{"image": item.tobytes()} for item in stored])
    result = _read([file], tmp_path / "columns", dtype)["image"]
    assert result.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(result, images)


def _damage(file: Path) -> None:
    """Flip a bit in the content of the last record."""
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def _write_other(*images: NDArray[np.generic] | bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        write_records(file, [{"image": image, "label": np.array([1])} for image in images])

    return write


GOOD = bytes(SHAPE[0] * SHAPE[1])
BREAK: dict[str, tuple[Callable[[Path], None], str]] = {
    "damaged": (_damage, "not a readable TFRecord file"),
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:-30]), "not a readable TFRecord"),
    "another kind": (
        _write_other(GOOD, np.zeros(SHAPE)),
        r"record 1 .*'image' is of the wrong kind\n.*received: float_list, expected bytes_list",
    ),
    "another length": (
        _write_other(GOOD, GOOD[:-7]),
        r"strings of the wrong length\n.*received: 32761 bytes",
    ),
}


@pytest.mark.parametrize("case", BREAK)
def test_of_many_files_the_first_broken_one_is_named(tmp_path: Path, case: str) -> None:
    files = [tmp_path / f"{number}.tfrecord" for number in range(8)]
    for file in files:
        _write_other(*[GOOD] * 70)(file)
    spoil, message = BREAK[case]
    for number in (4, 6):
        spoil(files[number])
    with pytest.raises(ExamplesError, match=message) as caught:
        _read(files, tmp_path / "columns")
    assert str(caught.value).startswith(f"{files[4]}: ")


IMAGE = np.zeros((2, 2), np.float32)
FLOATS: dict[str, Any] = {"image": IMAGE, "label": np.array([1]), "w": np.array([1.0])}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "too few values": ({"image": IMAGE[0]}, r"'image' has too few values\n.*: 2, expected 4 \("),
    "too many values": ({"image": np.zeros(9)}, r"'image' has too many values\n.*: 9, expected 4"),
    "no values": ({"image": IMAGE[:0]}, r"no 'image'.*\n.*received: 1 of 45 records"),
    "no feature": ({"image": None}, r"no 'image'.*\n.*received: 1 of 45 records"),
    "integers": (
        {"image": np.zeros((2, 2), int)},
        r"'image' is of the wrong kind\n.*received: int64_list, expected float_list",
    ),
    "text": ({"image": b"cat"}, r"'image' is of the wrong kind\n.*received: bytes_list"),
    "two labels": ({"label": np.array([1, 2])}, r"'label' has too many values\n.*: 2, expected 1"),
    "a label of floats": (
        {"label": np.array([0.5])},
        r"'label' is of the wrong kind\n.*received: float_list, expected int64_list",
    ),
    "no weight": ({"w": None}, r"no 'w'.*\n.*received: 1 of 45 records"),
    "two weights": ({"w": np.ones(2)}, r"'w' has too many values\n.*received: 2, expected 1"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_record_unlike_the_others_is_named_with_its_feature(tmp_path: Path, case: str) -> None:
    """In the second batch of the second file."""
    changed, message = FAULTS[case]
    files = []
    for number in range(3):
        features = [dict(FLOATS) for _ in range(15)]
        if number == 1:
            features[11] |= changed
        present = [
            {name: feature[name] for name in feature if feature[name] is not None}
            for feature in features
        ]
        files.append(write_records(tmp_path / f"{number}.tfrecord", present))
    inputs = _inputs("float32", (2, 2))
    with pytest.raises(ExamplesError, match=message) as caught:
        read_records(
            files, tmp_path / "none", inputs=inputs, labels=LABELS, scratch=tmp_path, weights="w"
        )
    assert str(caught.value).startswith(f"{files[1]}: record 11 (counted from 0)")
    assert "to fix it: " in str(caught.value)
    assert "Key:" not in str(caught.value)


def test_two_strings_in_a_feature_of_raw_bytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.tfrecord"
    with tf.io.TFRecordWriter(str(file)) as writer:
        for count in (1, 1, 2):
            example = tf.train.Example()
            example.features.feature["image"].bytes_list.value.extend([GOOD] * count)
            writer.write(example.SerializeToString())
    message = r"record 2 .* holds several strings\n.*received: 2 strings\n.*as 32768 raw bytes"
    with pytest.raises(ExamplesError, match=message):
        _read([file], tmp_path / "columns")


def test_a_record_that_is_no_example_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.tfrecord"
    write_records(file, [FLOATS] * 2)
    with tf.io.TFRecordWriter(str(tmp_path / "b")) as writer:
        writer.write(b"\xff\xff")
    file.write_bytes(file.read_bytes() + (tmp_path / "b").read_bytes())
    with pytest.raises(ExamplesError, match=r"not tf\.Example\n.*2 bytes .*in record 2 "):
        _read_small([file], tmp_path)


@pytest.mark.parametrize("lists", ["image", "label"])
def test_sequence_examples_are_refused_and_not_read_without_their_lists(
    tmp_path: Path, lists: str
) -> None:
    example = tf.train.SequenceExample()
    for name in {"image", "label"} - {lists}:
        example.context.feature[name].float_list.value.extend([1.0] * 4)
    step = example.feature_lists.feature_list[lists].feature.add()
    step.int64_list.value.append(1)
    file = tmp_path / "a.tfrecord"
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(example.SerializeToString())
    with pytest.raises(ExamplesError, match=f"SequenceExample[\\s\\S]*feature lists {lists}"):
        _read_small([file], tmp_path)


def test_labels_of_empty_lists_are_refused_with_a_remedy(tmp_path: Path) -> None:
    file = tmp_path / "a.tfrecord"
    with tf.io.TFRecordWriter(str(file)) as writer:
        for _ in range(3):
            example = tf.train.Example()
            example.features.feature["image"].float_list.value.extend([0.0] * 4)
            example.features.feature["label"].int64_list.SetInParent()
            writer.write(example.SerializeToString())
    message = r"record 0 .*'label' is an empty list\n.*int64_list without values\n.*leave the"
    with pytest.raises(ExamplesError, match=message):
        _read_small([file], tmp_path)


@pytest.mark.parametrize("first_has_one", [True, False])
@pytest.mark.parametrize("column", ["label", "y", "digit"])
def test_records_of_which_some_lack_the_label_are_counted(
    tmp_path: Path, column: str, first_has_one: bool
) -> None:
    files = []
    for number in range(2):
        features: list[Any] = [{"image": np.zeros((2, 2), np.float32)} for _ in range(10)]
        for feature in features[number + 1 :]:
            feature[column] = np.array([1])
        if first_has_one:
            features.reverse()
        files.append(write_records(tmp_path / f"{number}.tfrecord", features))
    with pytest.raises(ExamplesError, match=f"some records have no '{column}'") as caught:
        _read_small(files, tmp_path)
    assert "3 of 20 records" in str(caught.value)


def test_other_columns_beside_the_label_do_not_matter(tmp_path: Path) -> None:
    image = np.zeros((2, 2), np.float32)
    features: list[Any] = [
        {"image": image, "label": np.array([row]), "digit": np.array([5])} for row in range(4)
    ]
    features[2]["y"] = np.array([7])
    file = write_records(tmp_path / "a.tfrecord", features)
    result = _read_small([file], tmp_path)
    np.testing.assert_array_equal(result["label"], np.arange(4))


def test_labels_of_text_are_refused_wherever_they_begin(tmp_path: Path) -> None:
    image = np.zeros((2, 2), np.float32)
    for labels in ([b"cat", b"dog"], [None, b"dog"]):
        features: list[Any] = [
            {"image": image} | ({} if label is None else {"label": label}) for label in labels
        ]
        file = write_records(tmp_path / "a.tfrecord", features)
        with pytest.raises(ExamplesError):
            _read_small([file], tmp_path)


def test_a_feature_spec_goes_before_the_signature(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    files = [
        write_records(tmp_path / f"{row}.tfrecord", [{"image": images[row].tobytes()}])
        for row in range(4)
    ]
    spec = tmp_path / "feature_spec.json"
    spec.write_text(json.dumps({"image": {"shape": [3, 2], "dtype": "uint8"}}))
    inputs = _inputs("float32", (9,))
    result = read_records(files, spec, inputs=inputs, labels={}, scratch=tmp_path)[0]["image"]
    np.testing.assert_array_equal(result, images)


def test_what_records_hold_besides_is_not_held_in_any_number(tmp_path: Path) -> None:
    """A quarter of a gigabyte stands beside a few numbers."""
    features = {"image": np.zeros((2, 2), np.float32), "label": np.array([1]), "film": bytes(2**20)}
    file = write_records(tmp_path / "a.tfrecord", [features] * 256)
    process, done, grown = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            grown.append(process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    result = _read_small([file], tmp_path)
    done.set()
    watcher.join()
    assert len(result["label"]) == 256
    assert max(grown) < 2**27  # All of them are 2**28.
