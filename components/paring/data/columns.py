"""Columns of examples: matching to the model's inputs, checks, conversion.

A column is an array [count, ...] in a file. Everything here walks over it a
chunk at a time, so that memory does not grow with the number of examples.
"""

import difflib
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from paring.errors import ExamplesError, UnsupportedError, nearest
from paring.models.signature import Signature, TensorSpec

Array = NDArray[Any]

_log = logging.getLogger(__name__)

_CHUNK_BYTES = 16 * 2**20


def map_array(file: Path, where: str) -> Array:
    """Map the `.npy` file into memory, read-only.

    Raises:
        ExamplesError: It is not a `.npy` file of plain numbers, or was cut off.
    """
    try:
        # Pickled objects are code; they are never loaded.
        mapped: Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:
        # A header is parsed as Python: TokenError, OverflowError, MemoryError and others.
        raise ExamplesError(
            f"{where}: not a readable array of numbers",
            received=f"{type(error).__name__}: {error}",
            remedy="save it with numpy.save or numpy.savez, without Python objects in it",
        ) from error
    if not isinstance(mapped, np.memmap) or mapped.ndim == 0:
        raise ExamplesError(
            f"{where}: not an array with one row for each example",
            received=f"shape {getattr(mapped, 'shape', 'of an archive')}",
            remedy="give an array of shape [count, ...]",
        )
    return mapped


def model_inputs(signature: Signature) -> dict[str, TensorSpec]:
    """Return the signature's inputs.

    Raises:
        UnsupportedError: One is not a numeric tensor, as in models that parse
            tf.Example themselves.
    """
    for spec in signature.inputs.values():
        if not spec.is_numeric:
            raise UnsupportedError(
                f"input {spec.name!r} of the model can't be fed from arrays of numbers",
                received=signature.beside(str(spec)),
                remedy=signature.advice(
                    "export the model with a signature that takes numeric tensors"
                ),
            )
    return signature.inputs


def label_outputs(signature: Signature, label: str) -> dict[str, TensorSpec]:
    """Return the output that each column of labels is for, by the column's name.

    `label` is that of an only output, or OUTPUT=COLUMN, several of them by commas. Columns
    for other outputs carry the output's name, unless an input has that name. Which of
    several outputs is the model's first, a signature does not say.

    Raises:
        ExamplesError: There is no such output, or it is named twice.
    """
    named = {name: item for name, item in signature.outputs.items() if name not in signature.inputs}
    stated = stated_labels(signature, label)
    if stated:
        given = {item.name for item in stated.values()}
        return stated | {name: item for name, item in named.items() if name not in given}
    if label in named or len(signature.outputs) > 1:
        return named
    (only,) = signature.outputs.values()
    return {label: only}


def stated_labels(signature: Signature, label: str) -> dict[str, TensorSpec]:
    """Return the output of each column that `label` names as OUTPUT=COLUMN; none of a plain name.

    Raises:
        ExamplesError: There is no such output, or it is named twice.
    """
    stated: dict[str, TensorSpec] = {}
    for output, column in _stated_pairs(label):
        known = {name for name in signature.outputs if name not in signature.inputs}
        if output not in known or not column:
            raise ExamplesError(
                f"label: the model has no output {output!r} that labels can be given for",
                received=label,
                remedy=f"give OUTPUT=COLUMN; {nearest(output, known)}",
            )
        if column in signature.inputs:
            raise ExamplesError(
                f"label: {column!r} is an input of the model",
                received=label,
                remedy="rename the column of labels and give its new name",
            )
        if column in stated or output in {item.name for item in stated.values()}:
            raise ExamplesError(
                "label: each output and each column stand there once",
                received=label,
                remedy=f"name {output} or {column} once",
            )
        stated[column] = signature.outputs[output]
    return stated


def _stated_pairs(label: str) -> list[tuple[str, str]]:
    """Return the outputs and columns of OUTPUT=COLUMN by commas; none of a plain name."""
    if "=" not in label:
        return []
    parts = (part.partition("=") for part in label.split(","))
    return [(output.strip(), column.strip()) for output, _, column in parts]


def match_columns(
    where: str,
    columns: Collection[str],
    *,
    inputs: Mapping[str, TensorSpec],
    labels: Mapping[str, TensorSpec],
    label: str,
) -> dict[str, str]:
    """Return the column for each input, and for each of `labels` where there is one.

    Columns carry the inputs' names and the labels'; `x` is taken for the only
    input, and `y` for the label "label". A column that nothing takes is named in a
    warning and left out.

    Raises:
        ExamplesError: A column is missing, or there is one with labels and nothing says of
            which output.
    """
    matched: dict[str, str] = {}
    left_out: list[str] = []
    for column in sorted(columns):
        target = find_target(column, inputs=inputs, labels=labels, label=label)
        if target is None:
            left_out.append(column)
            continue
        if target in matched:
            raise ExamplesError(
                f"{where}: two columns for {target!r}",
                received=f"{matched[target]} and {column}",
                remedy="keep one of them",
            )
        matched[target] = column
    for name in inputs:
        if name not in matched:
            close = difflib.get_close_matches(name, left_out, n=1)
            raise ExamplesError(
                f"{where}: no column for the model's input {name!r}",
                received=f"columns {', '.join(sorted(columns)) or 'none'}",
                remedy=f"rename {close[0]!r} to {name}" if close else f"add a column named {name}",
            )
    unlabelled = [name for name in labels if name not in matched]
    of_none = [column for column in left_out if column in {label, "label", "y"}]
    if of_none and unlabelled and len(labels) > 1:
        raise ExamplesError(
            f"{where}: nothing says which output the labels {of_none[0]!r} are of",
            received=f"outputs without labels: {', '.join(sorted(unlabelled))}",
            remedy=f"import the examples with --label {unlabelled[0]}={of_none[0]}, if they are"
            f" of {unlabelled[0]}, or name the column after its output",
        )
    for column in [column for _, column in _stated_pairs(label)] or [label]:
        if column not in matched and column not in left_out and column != "label":
            raise ExamplesError(
                f"{where}: there is no label column {column!r}",
                received=f"columns {', '.join(sorted(columns))}",
                remedy="give the name of the column that holds the labels",
            )
    if left_out:
        _log.warning(
            "%s: no input and no output of the model takes %s, so %s left out%s",
            where,
            ", ".join(map(repr, left_out)),
            "it is" if len(left_out) == 1 else "they are",
            "" if len(matched) > len(inputs) else "; there are no labels",
        )
    return matched


def find_target(
    column: str, *, inputs: Mapping[str, TensorSpec], labels: Mapping[str, TensorSpec], label: str
) -> str | None:
    """Return the input or the label that `column` holds; None if it holds neither."""
    if column in inputs or column in labels:
        return column
    if column == "x" and len(inputs) == 1:
        return next(iter(inputs))
    if column == "y" and label == "label" and label in labels:
        return label
    return next((name for name, output in labels.items() if output.name == column), None)


def check_features(
    where: str, features: Mapping[str, Array], inputs: Mapping[str, TensorSpec]
) -> int:
    """Check shapes, dtypes and lengths; the number of examples.

    Raises:
        ExamplesError: They are not what the model takes, or there are none.
    """
    count = len(next(iter(features.values())))
    for name, array in features.items():
        spec = inputs[name]
        if len(array) == 0:
            raise ExamplesError(
                f"{where}: feature {name!r} is empty",
                received=f"shape {list(array.shape)}",
                remedy="give at least one example in each split",
            )
        check_length(where, name, length=len(array), count=count)
        if not _fits(array.shape, spec.shape):
            raise ExamplesError(
                f"{where}: feature {name!r} has the wrong shape",
                received=list(array.shape),
                remedy=f"give it the model's shape, {_shape_text(spec.shape)}",
            )
        if not _convertible(array.dtype, np.dtype(spec.dtype)):
            raise ExamplesError(
                f"{where}: feature {name!r} has the wrong dtype",
                received=array.dtype,
                remedy=f"convert it to the model's {spec.dtype}, without changing values",
            )
    return count


def check_length(where: str, name: str, *, length: int, count: int) -> None:
    """Check that a column has one row for each example.

    Raises:
        ExamplesError: It has more or fewer.
    """
    if length != count:
        raise ExamplesError(
            f"{where}: {name!r} has another number of rows than the first feature",
            received=f"{length} rows, against {count}",
            remedy="give one row for each example in every column",
        )


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    if not wanted:
        # The signature does not say even how many dimensions there are.
        return True
    return len(shape) == len(wanted) and all(
        want is None or have == want for have, want in zip(shape[1:], wanted[1:], strict=True)
    )


def _shape_text(shape: tuple[int | None, ...]) -> str:
    sizes = ["any" if size is None else str(size) for size in shape[1:]]
    return f"[{', '.join(['count', *sizes])}]"


def _convertible(have: np.dtype[np.generic], want: np.dtype[np.generic]) -> bool:
    if np.can_cast(have, want, "safe"):
        return have.kind in "biuf"
    if have.kind in "iu" and want.kind in "iuf":
        # Whether each value fits is seen when it is converted.
        return True
    # Of either byte order, as in what FITS and other scientific formats hold.
    return have.newbyteorder("=") == np.float64 and want == np.float32


def check_labels(
    where: str, label: str, array: Array, *, count: int, output: TensorSpec, file: Path
) -> Array:
    """Return the labels of `output`, mapped; written to `file` if need be.

    Integers are class ids: one an example of an output [batch, classes], or
    [batch] or [batch, 1] of two classes; of an output with more axes one for
    each place along all but the last, where those below 0 are padding. Of an
    integer output they are what it should give, in its own shape. Zeros and ones
    in the shape of an output [batch, labels] say which of several labels apply.
    Floats have the output's shape. They are values, one-hot rows, or zeros and ones of
    several labels; which of these depends on the output's activation, so that they are
    stored as they are (`paring.evaluation.scoring`, `paring.training.losses`).

    Returns:
        int64 [count]; int64 [count, ...] with -1 for padding; or float32 of the
        output's shape, [count] where that is one value.

    Raises:
        ExamplesError: They are nothing of that kind.
    """
    check_length(where, label, length=len(array), count=count)
    rank = len(output.shape)
    if array.shape == (count, 1) and rank < 3:
        array = array.reshape(count)
    own = output.shape[:1] if output.shape[1:] == (1,) else output.shape
    if array.dtype.kind == "f":
        if not _fits(array.shape, own):
            raise _no_labels(where, label, array, output=output)
        return write_column(where, label, array, dtype="float32", file=file)
    of_tokens = rank > 2 or (rank == 0 and array.ndim > 1)
    wanted = output.shape[:-1] if of_tokens else (None,)
    if array.dtype.kind not in "iub":
        raise _no_labels(where, label, array, output=output)
    if np.dtype(output.dtype).kind in "biu" and _fits(array.shape, own):
        return write_column(where, label, array, dtype="int64", file=file)
    if of_tokens and array.ndim == rank and array.shape[-1] == 1 and output.shape[-1] == 1:
        # Masks often keep the axis of the output's one value.
        array = array.reshape(array.shape[:-1])
    several = rank == 2 and array.ndim == 2 and _fits(array.shape, output.shape)
    if several and are_flags(array) and not are_one_hot(array):
        return write_column(where, label, array, dtype="int64", file=file)
    if not _fits(array.shape, wanted):
        raise _no_labels(where, label, array, output=output)
    _check_classes(where, label, array, output=output, of_tokens=of_tokens)
    if of_tokens and array.dtype.kind == "i" and any(c.min() < -1 for _, c in chunks(array)):
        return _padded(array, file, where)
    return write_column(where, label, array, dtype="int64", file=file)


def are_flags(array: Array) -> bool:
    """Return whether all values are 0 or 1."""
    return all(((chunk == 0) | (chunk == 1)).all() for _, chunk in chunks(array))


def are_one_hot(array: Array) -> bool:
    """Return whether the last axis holds one-hot rows of two or more classes.

    Args:
        array: Labels [count, ..., classes]. Where they have more axes than two, rows of
            zeros are padding, and there must be a row that is none.
    """
    if array.ndim < 2 or array.shape[-1] < 2:
        return False
    least = 1 if array.ndim == 2 else 0
    most_seen = 0
    for _, chunk in chunks(array):
        if not ((chunk == 0) | (chunk == 1)).all():
            return False
        sums = np.count_nonzero(chunk, axis=-1)
        if sums.size and (sums.min() < least or sums.max() > 1):
            return False
        most_seen = max(most_seen, int(sums.max(initial=0)))
    return most_seen == 1


def one_hot_ids(array: Array) -> NDArray[np.int64]:
    """Return the class ids of one-hot rows, -1 of rows of zeros.

    Args:
        array: Labels [count, ..., classes].

    Returns:
        int64 [count, ...].
    """
    ids: NDArray[np.int64] = np.where(array.any(axis=-1), array.argmax(axis=-1), -1)
    return ids


def _no_labels(where: str, label: str, array: Array, *, output: TensorSpec) -> ExamplesError:
    """Return the error for unusable labels, which describes each kind of labels."""
    ids = "one integer for each example"
    if len(output.shape) > 2:
        ids = f"integers {_shape_text(output.shape[:-1])}"
    values = _shape_text(output.shape) if output.shape else "[count, ...]"
    return ExamplesError(
        f"{where}: {label!r} holds no class ids for output {output.name!r}, and no values",
        received=f"{array.dtype} of shape {list(array.shape)}",
        remedy=f"give {ids} (of one-hot rows, their argmax), or for regression floats {values}",
    )


def _check_classes(
    where: str, label: str, array: Array, *, output: TensorSpec, of_tokens: bool
) -> None:
    """Refuse class ids that the output does not tell apart."""
    shape = output.shape
    # One value, [batch] or [..., 1], is two classes.
    single = len(shape) == 1 or shape[-1:] == (1,)
    classes = 2 if single else shape[-1] if shape else None
    for start, chunk in chunks(array):
        wrong = np.zeros(chunk.shape, bool)
        if chunk.dtype.kind == "i" and not of_tokens:
            wrong |= chunk < 0
        if classes is not None:
            wrong |= chunk >= classes
        if wrong.any():
            place = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
            bound = "0 or more" if classes is None else f"0 to {classes - 1}"
            padding = ", and less than 0 for padding" if of_tokens else ""
            floats = "; for regression, give floats" if classes == 2 else ""
            raise ExamplesError(
                f"{where}: {label!r} is not a class of the model at row {start + int(place[0])}",
                received=chunk[place],
                remedy=f"give class ids of {bound}{padding}{floats}",
            )


def _padded(array: Array, file: Path, where: str) -> Array:
    """Return `array` as int64, with -1 for all values below."""
    written = open_memmap(file, "w+", np.dtype(np.int64), array.shape)
    for start, chunk in chunks(array):
        written[start : start + len(chunk)] = np.maximum(chunk, -1)
    written.flush()
    del written
    return map_array(file, where)


def write_column(
    where: str,
    name: str,
    array: Array,
    *,
    dtype: str,
    file: Path,
    rows: NDArray[np.int64] | None = None,
) -> Array:
    """Write `array`, or its `rows`, in `dtype`, with every value checked.

    An array that is right as it stands is returned itself; otherwise `file` is
    written and mapped.

    Raises:
        ExamplesError: NaN, infinity, or a value that `dtype` does not hold.
    """
    target = np.dtype(dtype)
    if rows is None and array.dtype == target:
        for start, chunk in chunks(array):
            _check_finite(where, name, chunk, start)
        return array
    count = len(array) if rows is None else len(rows)
    written = open_memmap(file, "w+", target, (count, *array.shape[1:]))
    for start, chunk in chunks(array, rows):
        _check_finite(where, name, chunk, start)
        with np.errstate(over="ignore"):
            converted = chunk.astype(target)
        _check_range(where, name, chunk=chunk, converted=converted, start=start)
        if chunk.dtype.kind in "iu" and not np.array_equal(converted.astype(chunk.dtype), chunk):
            raise ExamplesError(
                f"{where}: {name!r} holds integers that {dtype} does not",
                received=f"values from {chunk.min()} to {chunk.max()}",
                remedy=f"convert them to {dtype} yourself, in the way the model was trained",
            )
        written[start : start + len(chunk)] = converted
    written.flush()
    del written
    return map_array(file, f"{where}, {name}")


def copy_column(array: Array, file: Path, rows: NDArray[np.int64]) -> None:
    """Write the `rows` of `array` to a `.npy` file."""
    written = open_memmap(file, "w+", array.dtype, (len(rows), *array.shape[1:]))
    for start, chunk in chunks(array, rows):
        written[start : start + len(chunk)] = chunk
    written.flush()


def _check_finite(where: str, name: str, chunk: Array, start: int) -> None:
    if chunk.dtype.kind != "f":
        return
    finite = np.isfinite(chunk)
    if finite.all():
        return
    place = np.unravel_index(int(np.argmin(finite)), finite.shape)
    raise ExamplesError(
        f"{where}: {name!r} holds NaN or infinity, first in row {start + int(place[0])}",
        received=chunk[place],
        remedy="remove or repair those examples",
    )


def _check_range(where: str, name: str, *, chunk: Array, converted: Array, start: int) -> None:
    """Refuse finite numbers that became infinite in a narrower dtype."""
    if converted.dtype.kind != "f":
        return
    finite = np.isfinite(converted)
    if finite.all():
        return
    place = np.unravel_index(int(np.argmin(finite)), finite.shape)
    raise ExamplesError(
        f"{where}: {name!r} holds numbers that {converted.dtype} does not, first in row"
        f" {start + int(place[0])}",
        received=chunk[place],
        remedy=f"scale them to within {np.finfo(converted.dtype).max:.3g} in the way the model was"
        " trained, or repair them",
    )


def chunks(array: Array, rows: NDArray[np.int64] | None = None) -> Iterator[tuple[int, Array]]:
    """Yield the number of the first row and the rows, some megabytes at a time."""
    count = len(array) if rows is None else len(rows)
    row_bytes = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    step = max(1, _CHUNK_BYTES // row_bytes)
    for start in range(0, count, step):
        part = slice(start, start + step)
        yield start, np.asarray(array[part] if rows is None else array[rows[part]])
