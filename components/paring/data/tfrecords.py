"""Conversion of TFRecords of tf.Example to columns in `.npy` files.

The files are gone through twice, to count the records and to parse them, so that each
batch can be written to its place in the columns, in whatever order the batches come.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from paring.data.columns import map_array
from paring.data.record_files import (
    count_records,
    first_record,
    parsed_batches,
    records,
    short,
    unreadable,
)
from paring.errors import ExamplesError, nearest
from paring.models.quiet import quiet_tensorflow
from paring.models.signature import TensorSpec
from paring.system.documents import read_json

_CHUNK_BYTES = 2 * 2**20
_LIST_DTYPES = {"float_list": "float32", "int64_list": "int64"}


@dataclass(frozen=True)
class _Feature:
    """Storage of one feature in the records.

    Attributes:
        column: The feature's name in the records.
        kind: float_list, int64_list or bytes_list (raw little-endian bytes).
        shape: Shape of one example.
        dtype: Type of the values that are read.
    """

    column: str
    kind: str
    shape: tuple[int, ...]
    dtype: str


def read_records(
    files: Sequence[Path],
    spec_file: Path,
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
    features, unread = _features(first, record, spec_file, inputs, labels, weights)
    columns = {name: scratch / f"feature-{number}.npy" for number, name in enumerate(features)}
    written = {
        name: open_memmap(columns[name], "w+", np.dtype(one.dtype), (total, *one.shape))
        for name, one in features.items()
    }
    ends = np.cumsum(counts)
    places = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
    # A record may hold more than what is wanted of it.
    row_bytes = max(len(record), *(array[:1].nbytes for array in written.values()))
    wanted = {name: set(_label_columns(name, one)) - set(inputs) for name, one in labels.items()}
    missing = set().union(*(wanted[name] for name in labels if name not in features))
    size = max(1, _CHUNK_BYTES // row_bytes)
    try:
        _fill(files, places, features, written, size, missing)
    except ExamplesError:
        used = {one.column for name, one in features.items() if name in labels}
        _refuse_partial_labels(files, used | missing)
        raise
    for array in written.values():
        array.flush()
    mapped = {name: map_array(path, f"{files[0].parent}, {name}") for name, path in columns.items()}
    return mapped, unread


def _features(
    file: Path,
    record: bytes,
    spec_file: Path,
    inputs: Mapping[str, TensorSpec],
    labels: Mapping[str, TensorSpec],
    weights: str,
) -> tuple[dict[str, _Feature], tuple[str, ...]]:
    """Return the storage of each wanted feature, by the first record, which is in `file`.

    Returns:
        The storage by feature, and the names of the features that are not wanted.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    try:
        stored = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise ExamplesError(
            f"{file}: its records are not tf.Example",
            received=f"a record of {len(record)} bytes",
            remedy="write each example as a serialized tf.train.Example",
        ) from error
    kinds = {name: stored[name].WhichOneof("kind") or "nothing" for name in stored}
    shapes = _stated_shapes(spec_file, inputs)
    found: dict[str, _Feature] = {}
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
        found[name] = _Feature(column, kind, shape, _LIST_DTYPES.get(kind, dtype))
    for label, output in labels.items():
        column = next((one for one in _label_columns(label, output) if one in kinds), label)
        if column not in kinds or column in inputs:
            continue
        kind = kinds[column]
        if kind not in _LIST_DTYPES:
            raise ExamplesError(
                f"{file}: feature {column!r} holds no class ids, and no values",
                received=kind,
                remedy="store integers (int64_list) or floats (float_list) for each example",
            )
        length = len(getattr(stored[column], kind).value)
        found[label] = _Feature(
            column, kind, _label_shape(kind, length, output), _LIST_DTYPES[kind]
        )
    used = {one.column for one in found.values()}
    if weights in kinds and weights not in used | found.keys():
        kind = kinds[weights]
        if kind not in _LIST_DTYPES:
            raise ExamplesError(
                f"{file}: the weights {weights!r} are no numbers",
                received=kind,
                remedy="store one number (float_list or int64_list) for each example",
            )
        length = len(getattr(stored[weights], kind).value)
        shape = () if length == 1 else (length,)
        found[weights] = _Feature(weights, kind, shape, _LIST_DTYPES[kind])
        used.add(weights)
    return found, tuple(sorted(kinds.keys() - used))


def _label_columns(label: str, output: TensorSpec) -> tuple[str, ...]:
    """Return the columns that the label may be in; the first one that is there counts."""
    return (label, "y", output.name) if label == "label" else (label, output.name)


def _refuse_partial_labels(files: Sequence[Path], columns: Collection[str]) -> None:
    """Refuse records of which some have a label and others do not.

    Every record is looked at, so this is for sets that can't be read anyway.

    Raises:
        ExamplesError: Some records lack one of `columns`; it says how many.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    total, having = 0, dict.fromkeys(columns, 0)
    try:
        for file in files:
            for record in records(file):
                stored = tf.train.Example.FromString(record).features.feature
                total += 1
                for column in columns:
                    # Indexing `stored` would add a feature that is missing.
                    if column in stored and stored[column].WhichOneof("kind"):
                        values = getattr(stored[column], stored[column].WhichOneof("kind"))
                        having[column] += bool(values.value)
    except (tf.errors.OpError, DecodeError):
        # The damaged file has been reported.
        return
    for column, count in having.items():
        if 0 < count < total:
            raise ExamplesError(
                f"{files[0].parent}: some records have no {column!r}",
                received=f"{total - count} of {total} records without it",
                remedy="give every record its label, or remove the labels from all of them",
            )


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
            str(name): (
                tuple(int(size) for size in one["shape"]),
                np.dtype(one["dtype"]).name,
            )
            for name, one in content.items()
        }
    except Exception as error:
        # np.dtype alone raises TypeError, ValueError, SyntaxError, OverflowError, MemoryError.
        raise ExamplesError(
            f"{spec_file}: not a readable feature spec",
            received=f"{type(error).__name__}: {error}",
            remedy='write {"NAME": {"shape": [32, 32, 1], "dtype": "float32"}}',
        ) from error


def _fill(
    files: Sequence[Path],
    places: Sequence[slice],
    features: Mapping[str, _Feature],
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
        _fill_together(files, places, features, written, size, missing)
    except (tf.errors.OpError, ExamplesError) as error:
        if len(files) > 1:
            # The error does not say which file, or says one of several. Read alone and in
            # order, the first that is broken is named.
            for file, place in zip(files, places, strict=True):
                _fill([file], [place], features, written, size, missing)
        elif isinstance(error, tf.errors.DataLossError):
            raise unreadable(files[0], short(error)) from error
        elif isinstance(error, tf.errors.OpError):
            wanted = ", ".join(f"{one.column} {list(one.shape)}" for one in features.values())
            raise ExamplesError(
                f"{files[0]}: a record is not like the feature spec or the model's inputs",
                received=short(error),
                remedy=f"give every record the features {wanted}, or describe them in"
                " feature_spec.json beside the records",
            ) from error
        else:
            raise


def _fill_together(
    files: Sequence[Path],
    places: Sequence[slice],
    features: Mapping[str, _Feature],
    written: Mapping[str, NDArray[Any]],
    size: int,
    missing: Collection[str],
) -> None:
    import tensorflow as tf

    spec: dict[str, Any] = {
        one.column: tf.io.FixedLenFeature(
            () if one.kind == "bytes_list" else one.shape,
            {"bytes_list": tf.string, "int64_list": tf.int64}.get(one.kind, tf.float32),
        )
        for one in features.values()
    }
    # Numbers there are an error of the parser's, text is looked for below.
    spec |= {
        column: tf.io.FixedLenSequenceFeature((), tf.string, allow_missing=True)
        for column in missing
    }
    row_bytes = {name: array[:1].nbytes for name, array in written.items()}
    raw = {
        one.column: row_bytes[name] for name, one in features.items() if one.kind == "bytes_list"
    }
    left = [place.stop - place.start for place in places]
    for number, first, parsed, lengths in parsed_batches(files, spec, raw, size):
        start = places[number].start + first
        for column in missing:
            if parsed[column].shape[1]:
                raise ExamplesError(
                    f"{files[number]}: feature {column!r} holds no class ids, and no values",
                    received="bytes_list",
                    remedy="store integers (int64_list) or floats (float_list) for each example",
                )
        for name, one in features.items():
            values = parsed[one.column]
            if one.kind == "bytes_list":
                _check_lengths(files[number], one, lengths[one.column], row_bytes[name])
                little_endian = np.dtype(one.dtype).newbyteorder("<")
                values = values.view(little_endian).reshape(len(values), *one.shape)
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


def _check_lengths(file: Path, feature: _Feature, lengths: NDArray[np.int32], length: int) -> None:
    wrong = lengths[lengths != length]
    if len(wrong):
        raise ExamplesError(
            f"{file}: feature {feature.column!r} holds strings of the wrong length",
            received=f"{wrong[0]} bytes",
            remedy=f"store {feature.dtype} {list(feature.shape)} as {length} raw bytes (encoded"
            " images must be decoded first), or as a list of numbers",
        )
