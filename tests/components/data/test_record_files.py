"""TFRecord files side by side: counts, places, damage, and memory."""

import gzip
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf
from tests.helpers.example_sets import write_records

from paring.data.record_files import count_records, first_record, parsed_batches
from paring.errors import ExamplesError


def _numbered(file: Path, count: int) -> Path:
    """Records with their own number as feature `x`, and as two bytes `raw`."""
    features = [{"x": np.array([row]), "raw": bytes([row, 0])} for row in range(count)]
    return write_records(file, features, gzip=file.suffix == ".gz")


def test_records_of_plain_packed_and_empty_files_are_counted(tmp_path: Path) -> None:
    sizes = {"a.tfrecord": 5, "b.gz": 7, "c.tfrecord": 0, "d.gz": 0, "e.tfrecord": 1}
    files = [_numbered(tmp_path / name, size) for name, size in sizes.items()]
    assert count_records(files) == list(sizes.values())


def test_gzip_files_that_were_joined_count_as_one(tmp_path: Path) -> None:
    parts = [_numbered(tmp_path / name, size) for name, size in (("a.gz", 2), ("b.gz", 3))]
    joined = tmp_path / "c.gz"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert count_records([joined]) == [5]
    assert sum(len(values["x"]) for _, _, values, _ in _parsed([joined])) == 5


@pytest.mark.parametrize("name", ["b.tfrecord", "b.gz"])
@pytest.mark.parametrize(
    "content",
    [b"Images, each with a label.", b"\xff" * 40, b"short", (9).to_bytes(8, "little") + bytes(9)],
)
def test_what_holds_no_records_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    good, bad = _numbered(tmp_path / "a.tfrecord", 3), tmp_path / name
    bad.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(ExamplesError, match="not a readable TFRecord file") as caught:
        count_records([good, bad])
    assert str(bad) in str(caught.value)


def test_a_damaged_first_record_is_named(tmp_path: Path) -> None:
    file = _numbered(tmp_path / "a.tfrecord", 3)
    content = bytearray(file.read_bytes())
    content[15] ^= 1
    file.write_bytes(content)
    assert count_records([file]) == [3]
    with pytest.raises(ExamplesError, match=r"a\.tfrecord: not a readable TFRecord file"):
        first_record(file)


def _parsed(files: list[Path], size: int = 2) -> list[tuple[int, int, dict, dict]]:
    spec = {"x": tf.io.FixedLenFeature((), tf.int64), "raw": tf.io.FixedLenFeature((), tf.string)}
    return list(parsed_batches(files, spec, lengths={"raw": 2}, size=size))


def test_each_batch_says_where_it_belongs(tmp_path: Path) -> None:
    sizes = (5, 0, 8, 1)
    files = [_numbered(tmp_path / f"{index}.tfrecord", size) for index, size in enumerate(sizes)]
    result = _parsed(files)
    assert sorted((number, first) for number, first, _, _ in result) == [
        *((0, first) for first in (0, 2, 4)),
        *((2, first) for first in (0, 2, 4, 6)),
        (3, 0),
    ]
    for _, first, values, lengths in result:
        own = np.arange(first, first + len(values["x"]))
        np.testing.assert_array_equal(values["x"], own)
        np.testing.assert_array_equal(values["raw"], np.stack([own, own * 0], axis=1))
        assert lengths["raw"].tolist() == [2] * len(own)


def test_strings_of_another_length_come_with_it(tmp_path: Path) -> None:
    features = [{"x": np.array([0]), "raw": raw} for raw in (b"\1", b"\2\3", b"\4\5\6")]
    file = write_records(tmp_path / "a.tfrecord", features)
    ((_, _, values, lengths),) = _parsed([file], 8)
    assert lengths["raw"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(values["raw"], [[1, 0], [2, 3], [4, 5]])


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    """Little of half a gigabyte is held at a time."""
    row = bytes(2**16)
    file = write_records(tmp_path / "0.tfrecord", [{"raw": row}] * 256)
    files = [file, *(tmp_path / f"{number}.tfrecord" for number in range(1, 32))]
    for other in files[1:]:
        other.symlink_to(file)
    spec = {"raw": tf.io.FixedLenFeature((), tf.string)}
    process = psutil.Process()
    before, most, count = process.memory_info().rss, 0, 0
    for _, _, values, _ in parsed_batches(files, spec, lengths={"raw": len(row)}, size=32):
        count += len(values["raw"])
        most = max(most, process.memory_info().rss - before)
    assert count * len(row) == 2**29
    assert most < 2**28
