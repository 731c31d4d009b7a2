"""Search of TFRecords that could not be parsed for the record and the feature at fault.

TensorFlow's parser names neither the file nor the record. So when it fails, the records are
gone through again, one by one and in order; records that are right never come here.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paring.data.record_files import records, unreadable
from paring.errors import ExamplesError

LIST_DTYPES = {"float_list": "float32", "int64_list": "int64"}
"""Kinds of a feature that hold numbers, and the dtype that they are read as."""

_SPEC = "or describe what they hold in feature_spec.json beside them"


@dataclass(frozen=True)
class RecordFeature:
    """Storage of one feature in the records.

    Attributes:
        column: The feature's name in the records.
        kind: float_list, int64_list or bytes_list (raw little-endian bytes).
        shape: Shape of one example.
        dtype: Type of the values that are read.
        role: What it is for: labels and weights are as long as the first record's.
    """

    column: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    role: Literal["input", "label", "weight"]

    @property
    def row_bytes(self) -> int:
        """Size of one example in `dtype`."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def find_fault(
    files: Sequence[Path], features: Collection[RecordFeature], missing: Collection[str]
) -> ExamplesError | None:
    """Return the error for the first record, in the order of the files, that can't be read.

    Of a feature that some records lack, all records are counted.

    Args:
        files: Gzip if named `.gz`.
        features: What every record must have.
        missing: Features that no record may have, as the first one has them not.

    Returns:
        The error, which names file, record and feature; None if each record is right.
    """
    import tensorflow as tf

    for file in files:
        number = 0
        try:
            for number, record in enumerate(records(file)):
                error = find_record_fault(
                    files, file, number=number, record=record, features=features, missing=missing
                )
                if error is not None:
                    return error
                # What TensorFlow raises next is about the record after this one.
                number += 1
        except tf.errors.OpError:
            return unreadable(file, f"record {number} (counted from 0) is damaged")
    return None


def find_record_fault(
    files: Sequence[Path],
    file: Path,
    *,
    number: int,
    record: bytes,
    features: Collection[RecordFeature],
    missing: Collection[str],
) -> ExamplesError | None:
    """Return the error for one record, as `find_fault` does.

    Args:
        files: All files.
        file: The record's.
        number: Its place in it.
        record: Its content.
        features: What every record must have.
        missing: Features that no record may have.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        stored = tf.train.Example.FromString(record).features.feature
    except DecodeError:
        return not_an_example(file, number, len(record))
    where = f"{file}: record {number} (counted from 0)"
    return _check(files, where, stored, features=features, missing=missing)


def find_sequences(file: Path, record: bytes) -> ExamplesError | None:
    """Return the error for a first record that is a tf.SequenceExample; None if it is none.

    Read as a tf.Example it has its context alone, as if it had no labels.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        lists = tf.train.SequenceExample.FromString(record).feature_lists.feature_list
    except DecodeError:
        return None
    if not lists:
        return None
    return ExamplesError(
        f"{file}: its records are tf.SequenceExample",
        received=f"feature lists {', '.join(sorted(lists))}",
        remedy="write each example as a serialized tf.train.Example, with all steps of a sequence"
        " in one feature",
    )


def not_an_example(file: Path, number: int, length: int) -> ExamplesError:
    """Return the error for a record that is not a serialized tf.Example."""
    return ExamplesError(
        f"{file}: its records are not tf.Example",
        received=f"{length} bytes that are none, in record {number} (counted from 0)",
        remedy="write each example as a serialized tf.train.Example",
    )


def _check(
    files: Sequence[Path],
    where: str,
    stored: Any,
    *,
    features: Collection[RecordFeature],
    missing: Collection[str],
) -> ExamplesError | None:
    """Return the error for one record, or None.

    Args:
        files: All files, which are counted where a record lacks a feature.
        where: The file and the record.
        stored: The record's tf.train.Feature by name.
        features: What every record must have.
        missing: Features that no record may have.
    """
    for column in missing:
        if value_count(stored, column):
            return _count_absent(files, column=column, where=where, role="label")
        if column in stored and stored[column].WhichOneof("kind"):
            return ExamplesError(
                f"{where}: feature {column!r} is an empty list",
                received=f"{stored[column].WhichOneof('kind')} without values",
                remedy="store the label there, or leave the feature out of all records",
            )
    for feature in features:
        count = value_count(stored, feature.column)
        if not count:
            return _count_absent(files, column=feature.column, where=where, role=feature.role)
        kind = stored[feature.column].WhichOneof("kind")
        if kind != feature.kind:
            return ExamplesError(
                f"{where}: feature {feature.column!r} is of the wrong kind",
                received=f"{kind}, expected {feature.kind}, as in the first record",
                remedy=f"store it as {feature.kind} in every record",
            )
        if kind == "bytes_list":
            lengths = [len(value) for value in stored[feature.column].bytes_list.value]
            if lengths != [feature.row_bytes]:
                return _wrong_strings(where, feature, lengths)
        elif count != math.prod(feature.shape):
            few = "few" if count < math.prod(feature.shape) else "many"
            return ExamplesError(
                f"{where}: feature {feature.column!r} has too {few} values",
                received=f"{count}, expected {math.prod(feature.shape)}"
                f" (shape {list(feature.shape)})",
                remedy=f"give every record as many values as the model's input takes, {_SPEC}"
                if feature.role == "input"
                else "give every record as many values as the first one has",
            )
    return None


def value_count(stored: Any, column: str) -> int:
    """Return how many values a record has of a feature, 0 if it lacks it."""
    # Indexing `stored` would add a feature that is missing.
    kind = stored[column].WhichOneof("kind") if column in stored else None
    return len(getattr(stored[column], kind).value) if kind else 0


def _wrong_strings(where: str, feature: RecordFeature, lengths: Sequence[int]) -> ExamplesError:
    several = len(lengths) > 1
    form = f"{feature.dtype} {list(feature.shape)} as {feature.row_bytes} raw bytes"
    return ExamplesError(
        f"{where}: feature {feature.column!r} holds "
        + ("several strings" if several else "strings of the wrong length"),
        received=f"{len(lengths)} strings" if several else f"{lengths[0]} bytes",
        remedy=f"store {form} (encoded images must be decoded first), or as a list of numbers",
    )


def _count_absent(files: Sequence[Path], *, column: str, where: str, role: str) -> ExamplesError:
    """Return the error for a feature that some of the records lack, with how many."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    total, absent = 0, 0
    try:
        for file in files:
            for record in records(file):
                stored = tf.train.Example.FromString(record).features.feature
                total += 1
                absent += value_count(stored, column) == 0
    except (tf.errors.OpError, DecodeError):
        # What could be read is counted; a damaged record after it is another error.
        pass
    return ExamplesError(
        f"{where}: some records have no {column!r}, and others do",
        received=f"{absent} of {total} records without it",
        remedy="give every record its label, or remove the labels from all of them"
        if role == "label"
        else f"give every record the feature {column!r}, or leave those records out",
    )
