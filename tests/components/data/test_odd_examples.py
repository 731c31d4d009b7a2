"""Odd and hostile files of examples: each is an error of ours, or gives the right figures."""

import gzip
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tests.helpers.example_sets import SIGNATURE, classes, images, rows, write_records

from paring.data.examples import open_splits
from paring.errors import ExamplesError

COUNT = 12
X, Y = images(COUNT), classes(COUNT)
Write = Callable[[Path], Path]


def _npz(**arrays: Any) -> Write:
    def write(folder: Path) -> Path:
        np.savez(folder / "e.npz", **arrays)
        return folder / "e.npz"

    return write


def _members(**contents: bytes) -> Write:
    def write(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "e.npz", "w") as archive:
            for name, content in contents.items():
                archive.writestr(f"{name}.npy", content)
        return folder / "e.npz"

    return write


def _npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def _file(name: str, content: bytes = b"") -> Write:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def _records(examples: Any, name: str = "e.tfrecord", spec: Any = None) -> Write:
    def write(folder: Path) -> Path:
        if spec is not None:
            (folder / "feature_spec.json").write_text(
                spec if isinstance(spec, str) else json.dumps({"image": spec})
            )
        return write_records(folder / name, examples)

    return write


def _raw(*contents: bytes, options: str = "", name: str = "e.tfrecord") -> Write:
    def write(folder: Path) -> Path:
        with tf.io.TFRecordWriter(str(folder / name), options=options) as writer:
            for content in contents:
                writer.write(content)
        return folder / name

    return write


def _pipe(name: str, below: str = "") -> Write:
    def write(folder: Path) -> Path:
        (folder / below).mkdir(exist_ok=True)
        os.mkfifo(folder / below / name)
        return folder if below else folder / name

    return write


def _link(name: str, target: str, *, whole: bool = False) -> Write:
    def write(folder: Path) -> Path:
        (folder / name).symlink_to(target)
        return folder if whole else folder / name

    return write


def _example(**features: Any) -> bytes:
    example = tf.train.Example()
    for name, values in features.items():
        stored = example.features.feature[name]
        own = stored.float_list if np.asarray(values).dtype.kind == "f" else stored.int64_list
        own.value.extend(np.ravel(values).tolist())
        own.SetInParent()
    result: bytes = example.SerializeToString()
    return result


GOOD = rows(X, Y)
ONE = _example(image=X[0], label=[0])
NOT_UTF8 = _example(image=X[0], label=[0], zzz=[1]).replace(b"zzz", b"\xff\xfe\xfd")
SHAPE = "'descr': '<f4', 'fortran_order': False, 'shape'"

REFUSED: dict[str, tuple[Write, str]] = {
    "an array of structures": (_npz(x=np.zeros(COUNT, [("a", "f4")]), y=Y), "wrong shape"),
    "complex numbers": (_npz(x=X.astype(complex), y=Y), "wrong dtype"),
    "long doubles": (_npz(x=X.astype(np.longdouble), y=Y), "wrong dtype"),
    "doubles beyond float32": (
        _npz(x=X.astype(float) * 1e300, y=Y),
        r"numbers that float32 does not, first in row 0\n.*e\+29",
    ),
    "integers beyond float32": (_npz(x=np.full(X.shape, 2**24 + 1), y=Y), "integers that float32"),
    "times as labels": (_npz(x=X, y=np.arange(COUNT).astype("M8[s]")), "no class ids"),
    "text as labels": (_npz(x=X, y=np.full(COUNT, "a")), "no class ids"),
    "objects as labels": (_npz(x=X, y=np.array([1, None] * 6, object)), "not a readable array"),
    "one label for all": (_npz(x=X, y=np.array(3)), "one row for each example"),
    "no label for any": (_npz(x=X, y=np.zeros(0, int)), "another number of rows"),
    "a label of all bits": (_npz(x=X, y=np.full(COUNT, 2**64 - 1, np.uint64)), "not a class"),
    "labels from -1 on": (_npz(x=X, y=Y - 1), r"not a class .* at row 0"),
    "axes in another order": (_npz(x=X.transpose(0, 2, 1), y=Y), "wrong shape"),
    "capital names": (_npz(X=X, Y=Y), "no column for the model's input 'image'"),
    "an input twice": (_npz(x=X, image=X, y=Y), "two columns for 'image'"),
    "labels twice": (_npz(x=X, y=Y, label=Y), "two columns for 'label'"),
    "an eval split that is short of labels": (
        _npz(x_train=X, y_train=Y, x_eval=X, y_eval=Y[:5]),
        r"_eval: 'y' has another number of rows",
    ),
    "a header of more rows than there are bytes": (
        _members(x=_npy(f"{{{SHAPE}: (9223372036854775807, 4, 3), }}")),
        "not a readable array",
    ),
    "a header of less than no rows": (
        _members(x=_npy(f"{{{SHAPE}: (-12, 4, 3), }}", X.tobytes())),
        "not a readable array",
    ),
    "values of no bytes": (
        _members(x=_npy("{'descr': '|S0', 'fortran_order': False, 'shape': (12,), }")),
        "wrong shape",
    ),
    "a header that ends early": (_members(x=b"\x93NUMPY\x01\x00"), "not a readable array"),
    "an array that is named an archive": (_file("e.npz", _npy("{}")), r"not a readable \.npz"),
    "a table of text": (
        _file("e.txt", b"a,b\n1,2\n"),
        r"not a file of examples\n.*received: \.txt",
    ),
    "CSV of other columns": (_file("e.csv", b"a,b\n1,2\n"), "no column for the model's input"),
    "CSV with rows of several lengths": (
        _file("e.csv", b"image,label\n1,2\n1\n"),
        "not a readable table",
    ),
    "CSV with text for numbers": (_file("e.csv", b"image,label\nx,2\ny,1\n"), "holds text"),
    "CSV with an empty field": (
        _file("e.csv", b"image,label\n1.5,\n2.5,1\n"),
        r"'label' has no value in row 0",
    ),
    "Parquet that is cut off": (
        _file("e.parquet", b"PAR1" + bytes(30) + b"PAR1"),
        "not a readable table",
    ),
    "CSV that is packed": (
        _file("e.csv.gz", gzip.compress(b"a,b\n1,2\n" * 50)),
        "no column for the model's input",
    ),
    "a pipe": (_pipe("e.npz"), "neither a file nor a folder"),
    "a pipe of records": (_pipe("e.tfrecord"), "neither a file nor a folder"),
    "a pipe in a folder": (_pipe("image.npy", "Split-train"), "neither a file nor a folder"),
    "a device": (_link("e.npz", "/dev/zero"), "neither a file nor a folder"),
    "a device in a folder": (_link("e.tfrecord", "/dev/zero", whole=True), "leads out of"),
    "a link to itself": (_link("e.npz", "e.npz"), "path does not exist"),
    "records packed by zlib": (_raw(ONE, ONE, options="ZLIB"), "not a readable TFRecord file"),
    "packed records of a plain name": (
        _raw(ONE, ONE, options="GZIP"),
        "not a readable TFRecord file",
    ),
    "plain records of a packed name": (
        _raw(ONE, ONE, name="e.tfrecord.gz"),
        "not a readable TFRecord file",
    ),
    "records without a byte": (_raw(b"", b""), "lack the model's input 'image'"),
    "a last record without a byte": (_raw(ONE, ONE, b""), r"record 2 .*no 'image'"),
    "sequence examples": (
        _raw(tf.train.SequenceExample(context=tf.train.Features()).SerializeToString()),
        "lack the model's input 'image'",
    ),
    "a name that is no text": (_raw(NOT_UTF8, ONE), "not tf.Example"),
    "labels without values": (_raw(*[_example(image=X[0], label=[])] * 3), "is an empty list"),
    "labels of floats": (_records(rows(X, Y.astype(float))), "no class ids"),  # type: ignore[arg-type]
    "labels of the least integer": (
        _records(rows(X, np.full(COUNT, -(2**63)))),
        r"not a class .* at row 0",
    ),
    "a record of NaN": (_records(rows(X * np.nan, Y)), "NaN or infinity"),
    "a spec of less than nothing": (
        _records(GOOD, spec={"shape": [-1, 3], "dtype": "float32"}),
        "whole numbers of 1 or more",
    ),
    "a spec of nothing": (
        _records(GOOD, spec={"shape": [0, 3], "dtype": "float32"}),
        "whole numbers of 1 or more",
    ),
    "a spec of fractions": (
        _records(GOOD, spec={"shape": [4.7, 3], "dtype": "float32"}),
        "whole numbers of 1 or more",
    ),
    "a spec of truths": (
        _records(GOOD, spec={"shape": [True, 12], "dtype": "float32"}),
        "whole numbers of 1 or more",
    ),
    "a spec of text": (
        _records(GOOD, spec={"shape": "43", "dtype": "float32"}),
        "whole numbers of 1 or more",
    ),
    "a spec larger than any disk": (
        _records(GOOD, spec={"shape": [10**6, 10**6, 10**3], "dtype": "float32"}),
        r"record 0 .*'image' has too few values\n.*received: 12, expected 1000000000000000 ",
    ),
    "a spec larger than any address": (
        _records(GOOD, spec={"shape": [2**62, 4], "dtype": "float32"}),
        r"record 0 .*'image' has too few values",
    ),
    "a spec of objects": (
        _records([{"image": bytes(96)}] * 3, spec={"shape": [4, 3], "dtype": "object"}),
        "dtype object is none of numbers",
    ),
    "a spec of structures": (
        _records([{"image": bytes(96)}] * 3, spec={"shape": [4, 3], "dtype": "f4,f4"}),
        "none of numbers",
    ),
    "a spec of another order": (
        _records(GOOD, spec={"shape": [3, 4], "dtype": "float32"}),
        "wrong shape",
    ),
    "a spec that is a list": (_records(GOOD, spec="[1]"), "not a readable feature spec"),
    "a spec that is null": (_records(GOOD, spec="null"), "not a readable feature spec"),
}


def _open(path: Path, scratch: Path) -> dict[str, Any]:
    return dict(open_splits(path, ["train", "eval"], SIGNATURE, scratch))


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_named_with_a_remedy(tmp_path: Path, case: str) -> None:
    write, message = REFUSED[case]
    folder = tmp_path / "given"
    folder.mkdir()
    path = write(folder)
    with pytest.raises(ExamplesError, match=message) as caught:
        _open(path, tmp_path / "scratch")
    assert str(folder) in str(caught.value)
    assert caught.value.remedy
    assert caught.value.exit_code == 12


def _split_folders(folder: Path) -> Path:
    for name, part in (("train", slice(0, 9)), ("eval", slice(9, 12))):
        below = folder / f"Split-{name}"
        below.mkdir()
        for column, array in (("image", X), ("label", Y), ("odd\nname", Y)):
            with (below / f"{column}.npy").open("wb") as file:
                np.lib.format.write_array(file, array[part], version=(3, 0))
    return folder


def _with_more_members(folder: Path) -> Path:
    path = _npz(x=X, y=Y)(folder)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", b"no array")
    return path


def _twice_in_a_record(folder: Path) -> Path:
    """Messages that are joined: of a feature that is there twice, the last one counts."""
    joined = [_example(image=X[0], label=[2]) + _example(image=x, label=[y])
              for x, y in zip(X, Y, strict=True)]  # fmt: skip
    return _raw(*joined)(folder)


TAKEN: dict[str, Write] = {
    "columns in Fortran's order": _npz(x=np.asfortranarray(X), y=np.asfortranarray(Y)),
    "columns of the other byte order": _npz(x=X.astype(">f4"), y=Y.astype(">i8")),
    "doubles": _npz(x=X.astype(float), y=Y.astype(np.uint8)),
    "doubles of the other byte order": _npz(x=X.astype(">f8"), y=Y),
    "what is no column of examples": _npz(
        x=X,
        y=Y,
        class_names=np.array(["cat", "dog", "bird"]),
        count=np.array(len(X)),
        made_by=np.array({"tool": "notebook"}, dtype=object),
    ),
    "labels in a column": _npz(x=X, y=Y[:, np.newaxis]),
    "one-hot rows": _npz(x=X, y=np.eye(3)[Y]),
    "headers of version 3, and an odd name": _split_folders,
    "other members": _with_more_members,
    "a feature twice in a record": _twice_in_a_record,
    "a later name that is no text": _raw(
        *[
            _example(image=x, label=[y], zzz=[1]).replace(
                b"zzz", b"zzz" if row < 1 else b"\xff\xfe\xfd"
            )
            for row, (x, y) in enumerate(zip(X, Y, strict=True))
        ]
    ),
    "packed records": _raw(
        *[_example(image=x, label=[y]) for x, y in zip(X, Y, strict=True)],
        options="GZIP",
        name="e.tfrecord.gz",
    ),
    "raw bytes of doubles": _records(
        [
            {"image": x.astype("<f8").tobytes(), "label": np.array([y])}
            for x, y in zip(X, Y, strict=True)
        ],
        spec={"shape": [4, 3], "dtype": "float64"},
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_taken_keeps_every_value_beside_its_label(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    splits = _open(TAKEN[case](folder), tmp_path / "scratch")
    result = {}
    for split in splits.values():
        labels = split.labels if split.labels.ndim == 1 else split.labels.argmax(axis=1)
        for image, label in zip(split.features["image"], labels, strict=True):
            result[image.tobytes()] = int(label)
    assert result == {image.tobytes(): int(label) for image, label in zip(X, Y, strict=True)}
