"""Columns from TFRecords in several files: whose rows, and which file is at fault."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from tests.components.data.example_sets import write_records

from paring.data.tfrecords import read_records
from paring.errors import ExamplesError
from paring.models.signature import TensorSpec

SHAPE = (256, 128)


def _inputs(dtype: str, shape: tuple[int, ...] = SHAPE) -> dict[str, TensorSpec]:
    return {"image": TensorSpec("image", (None, *shape), dtype)}


LABELS = {"label": TensorSpec("digit", (None, 10), "float32")}


def _read(files: Sequence[Path], folder: Path, dtype: str = "uint8") -> dict[str, NDArray[Any]]:
    folder.mkdir()
    return read_records(files, folder / "feature_spec.json", _inputs(dtype), LABELS, folder)[0]


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
                "image": images[one] if form == "floats" else images[one].tobytes(),
                "label": np.array([one]),
            }
            for one in range(row, row + size)
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
    file = write_records(tmp_path / "a.tfrecord", [{"image": one.tobytes()} for one in stored])
    found = _read([file], tmp_path / "columns", dtype)["image"]
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, images)


def _damage(file: Path) -> None:
    """Flip a bit in the content of the last record."""
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)


def _write_other(*images: NDArray[np.generic] | bytes) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        write_records(file, [{"image": one, "label": np.array([1])} for one in images])

    return write


GOOD = bytes(SHAPE[0] * SHAPE[1])
BREAK: dict[str, tuple[Callable[[Path], None], str]] = {
    "damaged": (_damage, "not a readable TFRecord file"),
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:-30]), "not a readable TFRecord"),
    "another kind": (_write_other(GOOD, np.zeros(SHAPE)), "not like the feature spec"),
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


@pytest.mark.parametrize("first_has_one", [True, False])
@pytest.mark.parametrize("column", ["label", "y", "digit"])
def test_records_of_which_some_lack_the_label_are_counted(
    tmp_path: Path, column: str, first_has_one: bool
) -> None:
    files = []
    for number in range(2):
        features: list[Any] = [{"image": np.zeros((2, 2), np.float32)} for _ in range(10)]
        for one in features[number + 1 :]:
            one[column] = np.array([1])
        if first_has_one:
            features.reverse()
        files.append(write_records(tmp_path / f"{number}.tfrecord", features))
    inputs = _inputs("float32", (2, 2))
    with pytest.raises(ExamplesError, match=f"some records have no '{column}'") as caught:
        read_records(files, tmp_path / "none", inputs, LABELS, tmp_path)
    assert "3 of 20 records" in str(caught.value)


def test_other_columns_beside_the_label_do_not_matter(tmp_path: Path) -> None:
    image = np.zeros((2, 2), np.float32)
    features: list[Any] = [
        {"image": image, "label": np.array([row]), "digit": np.array([5])} for row in range(4)
    ]
    features[2]["y"] = np.array([7])
    file = write_records(tmp_path / "a.tfrecord", features)
    found, _ = read_records([file], tmp_path / "none", _inputs("float32", (2, 2)), LABELS, tmp_path)
    np.testing.assert_array_equal(found["label"], np.arange(4))


def test_labels_of_text_are_refused_wherever_they_begin(tmp_path: Path) -> None:
    image = np.zeros((2, 2), np.float32)
    for labels in ([b"cat", b"dog"], [None, b"dog"]):
        features: list[Any] = [
            {"image": image} | ({} if label is None else {"label": label}) for label in labels
        ]
        file = write_records(tmp_path / "a.tfrecord", features)
        with pytest.raises(ExamplesError):
            read_records([file], tmp_path / "none", _inputs("float32", (2, 2)), LABELS, tmp_path)


def test_a_feature_spec_goes_before_the_signature(tmp_path: Path) -> None:
    images = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    files = [
        write_records(tmp_path / f"{row}.tfrecord", [{"image": images[row].tobytes()}])
        for row in range(4)
    ]
    spec = tmp_path / "feature_spec.json"
    spec.write_text(json.dumps({"image": {"shape": [3, 2], "dtype": "uint8"}}))
    inputs = _inputs("float32", (9,))
    found = read_records(files, spec, inputs, {}, tmp_path)[0]["image"]
    np.testing.assert_array_equal(found, images)


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
    found, _ = read_records([file], tmp_path / "none", _inputs("float32", (2, 2)), LABELS, tmp_path)
    done.set()
    watcher.join()
    assert len(found["label"]) == 256
    assert max(grown) < 2**27  # All of them are 2**28.
