"""Conversion of TFRecords of tf.Example to columns in `.npy` files.

The files are gone through twice, to count the records and to parse them, so that each
batch can be written to its place in the columns, in whatever order the batches come.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from paring.data.columns import map_array
from paring.data.record_faults import (
    LIST_DTYPES,
    RecordFeature,
    find_fault,
    find_record_fault,
    find_sequences,
    not_an_example,
    value_count,
)
from paring.data.record_files import (
    count_records,
    first_record,
    parsed_batches,
)
from paring.errors import ExamplesError, first_line, nearest
from paring.models.quiet import quiet_tensorflow
from paring.models.signature import TensorSpec
from paring.system.documents import read_json

_CHUNK_BYTES = 2 * 2**20


def read_records(
    files: Sequence[Path],
    spec_file: Path,
    *,
    inputs: Mapping[str, TensorSpec],
    labels: Mapping[str, TensorSpec],
    scratch: Path,
    weights: str = "",
) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Read the model's inputs, and the labels in the records, as columns.

    Shapes and the dtype of raw bytes come from `spec_file`, if it exists:
    `{"NAME": {"shape": [32, 32, 1], "dtype": "uint8"}}`, shapes of one example;
    otherwise from the model's signature. Lists come out as float32 and int64.

    Args:
        files: In the order that their rows get; gzip if named `.gz`.
        spec_file: May not exist.
        inputs: Of the model's signature.
        labels: The output that each label is for, by the label's name. Integers
            or floats, as many as the first record holds; they get the output's
            shape where it says it, integers without its last axis.
        scratch: The folder that the columns are written to.
        weights: The feature with sample weights; "" for none. It is read where it is there
            and neither an input nor a label.

    Raises:
        ExamplesError: A file can't be read, or its records are not like that.
    """
    quiet_tensorflow()
    counts = count_records(files)
    total = sum(counts)
    if total == 0:
        raise ExamplesError(
            f"{files[0].parent}: the split is empty",
            received=f"0 records in {len(files)} files",
            remedy="give at least one example in each split",
        )
    first = next(file for file, count in zip(files, counts, strict=True) if count)
    record = first_record(first)
    features, unread = _features(
        first, record, spec_file, inputs=inputs, labels=labels, weights=weights
    )
    wanted = {name: set(_label_columns(name, item)) - set(inputs) for name, item in labels.items()}
    missing = set().union(*(wanted[name] for name in labels if name not in features))
    # Before columns are made of a size that no record has.
    fault = find_record_fault(
        files, first, number=0, record=record, features=features.values(), missing=missing
    )
    if fault is not None:
        raise fault
    columns = {name: scratch / f"feature-{number}.npy" for number, name in enumerate(features)}
    written = {
        name: open_memmap(columns[name], "w+", np.dtype(item.dtype), (total, *item.shape))
        for name, item in features.items()
    }
    ends = np.cumsum(counts)
    places = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    # A record may hold more than what is wanted of it.
    row_bytes = max(len(record), *(feature.row_bytes for feature in features.values()))
    size = max(1, _CHUNK_BYTES // row_bytes)
    _fill(files, places, features, written=written, size=size, missing=missing)
    for array in written.values():
        array.flush()
    mapped = {name: map_array(path, f"{files[0].parent}, {name}") for name, path in columns.items()}
    return mapped, unread


def _features(
    file: Path,
    record: bytes,
    spec_file: Path,
    *,
    inputs: Mapping[str, TensorSpec],
    labels: Mapping[str, TensorSpec],
    weights: str,
) -> tuple[dict[str, RecordFeature], tuple[str, ...]]:
    """Return the storage of each wanted feature, by the first record, which is in `file`.

    Returns:
        The storage by feature, and the names of the features that are not wanted.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        stored = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise not_an_example(file, 0, len(record)) from error
    sequences = find_sequences(file, record)
    if sequences is not None:
        raise sequences
    kinds = {name: stored[name].WhichOneof("kind") for name in stored if value_count(stored, name)}
    shapes = _stated_shapes(spec_file, inputs)
    result: dict[str, RecordFeature] = {}
    for name in inputs:
        column = "x" if name not in kinds and len(inputs) == 1 and "x" in kinds else name
        if column not in kinds:
            raise ExamplesError(
                f"{file}: the records lack the model's input {name!r}",
                received=f"features {', '.join(sorted(kinds)) or 'none'}",
                remedy=f"name the features as the model's inputs; {nearest(name, kinds)}",
            )
        shape, dtype = shapes[name]
        kind = kinds[column]
        result[name] = RecordFeature(column, kind, shape, LIST_DTYPES.get(kind, dtype), "input")
    for label, output in labels.items():
        column = next((item for item in _label_columns(label, output) if item in kinds), label)
        if column not in kinds or column in inputs:
            continue
        kind = kinds[column]
        if kind not in LIST_DTYPES:
            raise ExamplesError(
                f"{file}: feature {column!r} holds no class ids, and no values",
                received=kind,
                remedy="store integers (int64_list) or floats (float_list) for each example",
            )
        length = len(getattr(stored[column], kind).value)
        shape = _label_shape(kind, length, output)
        result[label] = RecordFeature(column, kind, shape, LIST_DTYPES[kind], "label")
    used = {item.column for item in result.values()}
    if weights in kinds and weights not in used | result.keys():
        kind = kinds[weights]
        if kind not in LIST_DTYPES:
            raise ExamplesError(
                f"{file}: the weights {weights!r} are no numbers",
                received=kind,
                remedy="store one number (float_list or int64_list) for each example",
            )
        length = len(getattr(stored[weights], kind).value)
        shape = () if length == 1 else (length,)
        result[weights] = RecordFeature(weights, kind, shape, LIST_DTYPES[kind], "weight")
        used.add(weights)
    return result, tuple(sorted(kinds.keys() - used))


def _label_columns(label: str, output: TensorSpec) -> tuple[str, ...]:
    """Return the columns that the label may be in; the first one that is there counts."""
    return (label, "y", output.name) if label == "label" else (label, output.name)


def _label_shape(kind: str, length: int, output: TensorSpec) -> tuple[int, ...]:
    """Return the shape of one example's labels, of which there are `length`."""
    wanted = output.shape[1:-1] if kind == "int64_list" else output.shape[1:]
    sizes = tuple(size for size in wanted if size is not None)
    if len(sizes) == len(wanted) > 0 and math.prod(sizes) == length:
        return sizes
    return () if length == 1 and len(wanted) < 2 else (length,)


def _stated_shapes(
    spec_file: Path, inputs: Mapping[str, TensorSpec]
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape of one example and the dtype of each input."""
    stated = _read_spec(spec_file) if spec_file.exists() else {}
    if stated:
        for name in inputs:
            if name not in stated:
                raise ExamplesError(
                    f"{spec_file}: the model's input {name!r} is missing",
                    received=", ".join(sorted(stated)),
                    remedy=nearest(name, stated),
                )
        return {name: stated[name] for name in inputs}
    shapes: dict[str, tuple[tuple[int, ...], str]] = {}
    for name, spec in inputs.items():
        sizes = tuple(size for size in spec.shape[1:] if size is not None)
        if not spec.shape or len(sizes) != len(spec.shape) - 1:
            raise ExamplesError(
                f"the model leaves the shape of {name!r} open, and TFRecords don't hold it",
                received=list(spec.shape),
                remedy=f'write it to {spec_file}: {{"{name}": {{"shape": [..], "dtype": ".."}}}}',
            )
        shapes[name] = (sizes, spec.dtype)
    return shapes


def _read_spec(spec_file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    try:
        content = read_json(spec_file)
        return {
            str(name): (_stated_shape(item["shape"]), _stated_dtype(item["dtype"]))
            for name, item in content.items()
        }
    except Exception as error:
        # np.dtype alone raises TypeError, ValueError, SyntaxError, OverflowError, MemoryError.
        raise ExamplesError(
            f"{spec_file}: not a readable feature spec",
            received=f"{type(error).__name__}: {error}",
            remedy='write {"NAME": {"shape": [32, 32, 1], "dtype": "float32"}}',
        ) from error


def _stated_shape(sizes: object) -> tuple[int, ...]:
    # JSON's true is an integer to Python, and 4.7 would be cut to one.
    if not isinstance(sizes, list) or not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"shape {sizes} is no list of whole numbers of 1 or more")
    return tuple(sizes)


def _stated_dtype(name: object) -> str:
    dtype = np.dtype(name) if isinstance(name, str) else None
    if dtype is None or dtype.kind not in "biuf":
        raise ValueError(f"dtype {name} is none of numbers")
    return dtype.name


def _fill(
    files: Sequence[Path],
    places: Sequence[slice],
    features: Mapping[str, RecordFeature],
    *,
    written: Mapping[str, NDArray[Any]],
    size: int,
    missing: Collection[str],
) -> None:
    """Parse the records of each of `files`, `size` at a time, into its rows, `places`.

    Args:
        files: Where the records are.
        places: The rows of each file's records.
        features: What every record has.
        written: Gets the columns.
        size: Records in a batch.
        missing: Features that no record may have, as the first one has them not.
    """
    import tensorflow as tf

    try:
        _fill_together(files, places, features, written=written, size=size, missing=missing)
    # TensorFlow quotes a record that it can't parse, which need not be text.
    except (tf.errors.OpError, UnicodeDecodeError, _UnlikeFirstError) as error:
        fault = find_fault(files, features.values(), missing)
        if fault is None:
            wanted = ", ".join(
                f"{feature.column} {list(feature.shape)}" for feature in features.values()
            )
            raise ExamplesError(
                f"{files[0].parent}: the records can't be parsed",
                received=first_line(error),
                remedy=f"write them again with the features {wanted}",
            ) from error
        raise fault from error


class _UnlikeFirstError(Exception):
    """A batch that the parser took, with a record that is not like the first one."""


def _fill_together(
    files: Sequence[Path],
    places: Sequence[slice],
    features: Mapping[str, RecordFeature],
    *,
    written: Mapping[str, NDArray[Any]],
    size: int,
    missing: Collection[str],
) -> None:
    import tensorflow as tf

    spec: dict[str, Any] = {
        feature.column: tf.io.FixedLenFeature(
            () if feature.kind == "bytes_list" else feature.shape,
            {"bytes_list": tf.string, "int64_list": tf.int64}.get(feature.kind, tf.float32),
        )
        for feature in features.values()
    }
    # Numbers there are an error of the parser's, text is looked for below.
    spec |= {
        column: tf.io.FixedLenSequenceFeature((), tf.string, allow_missing=True)
        for column in missing
    }
    raw = {
        feature.column: feature.row_bytes
        for feature in features.values()
        if feature.kind == "bytes_list"
    }
    left = [place.stop - place.start for place in places]
    for number, first, parsed, lengths in parsed_batches(files, spec, lengths=raw, size=size):
        start = places[number].start + first
        for column in missing:
            if parsed[column].shape[1]:
                raise _UnlikeFirstError(column)
        for name, item in features.items():
            values = parsed[item.column]
            if item.kind == "bytes_list":
                if (lengths[item.column] != item.row_bytes).any():
                    raise _UnlikeFirstError(item.column)
                little_endian = np.dtype(item.dtype).newbyteorder("<")
                values = values.view(little_endian).reshape(len(values), *item.shape)
            rows = slice(start, min(start + len(values), places[number].stop))
            written[name][rows] = values[: rows.stop - rows.start]
        left[number] -= len(values)
    for file, difference in zip(files, left, strict=True):
        if difference:
            raise ExamplesError(
                f"{file}: it changed while it was read",
                received=f"{abs(difference)} records {'less' if difference > 0 else 'more'}",
                remedy="give files that are complete",
            )
