"""Sample weights: how much each example counts, in training and in the metrics.

They are a column of the examples, which a user names. In Paring's own form it lies below a
split's folder in a folder of its own, so that its name may be any.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from paring.data.columns import Array, check_length, chunks, find_target, write_column
from paring.errors import ExamplesError, nearest
from paring.models.signature import TensorSpec

FOLDER = "sample_weights"
"""The folder below `Split-train/` and `Split-eval/`, with one file named for the column."""

_LARGEST = 1e30
"""Training computes with weights in float32, and adds them up."""


def check_weights_column(
    where: str,
    columns: Collection[str],
    *,
    inputs: Mapping[str, TensorSpec],
    labels: Mapping[str, TensorSpec],
    label: str,
    weights: str,
) -> None:
    """Check that `weights` names a column that is neither an input nor a label.

    Raises:
        ExamplesError: There is no such column, or it is one of these.
    """
    target = find_target(weights, inputs=inputs, labels=labels, label=label)
    if target is not None:
        kind = "an input of the model" if target in inputs else "a column of labels"
        raise ExamplesError(
            f"weights: {weights!r} is {kind}",
            received=weights,
            remedy="give the weights a column of their own, and name it",
        )
    if weights not in columns:
        raise ExamplesError(
            f"{where}: there is no column of weights {weights!r}",
            received=f"columns {', '.join(sorted(columns)) or 'none'}",
            remedy=f"{nearest(weights, columns)}, or leave weights out",
        )


def check_weights(where: str, column: str, array: Array, *, count: int, file: Path) -> Array:
    """Check the sample weights of a split; they are written to `file` if need be.

    Args:
        where: What messages call the split.
        column: The name of the column.
        array: Numbers [count] or [count, 1].
        count: How many examples there are.
        file: A `.npy` file to write.

    Returns:
        float64 [count].

    Raises:
        ExamplesError: The shape or the dtype is another one, or a weight is negative, NaN
            or infinite.
    """
    check_length(where, column, length=len(array), count=count)
    if array.dtype.kind not in "biuf":
        raise ExamplesError(
            f"{where}: the weights {column!r} are no numbers",
            received=f"dtype {array.dtype}",
            remedy="give one number of 0 or more for each example",
        )
    if array.shape == (count, 1):
        array = array.reshape(count)
    if array.shape != (count,):
        raise ExamplesError(
            f"{where}: the weights {column!r} have the wrong shape",
            received=list(array.shape),
            remedy="give one number for each example, [count]",
        )
    checked = write_column(where, column, array, dtype="float64", file=file)
    for start, chunk in chunks(checked):
        wrong = (chunk < 0) | (chunk > _LARGEST)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ExamplesError(
                f"{where}: the weights {column!r} hold a value that is negative or too large,"
                f" first in row {start + row}",
                received=chunk[row],
                remedy=f"give weights of 0 to {_LARGEST:.0e}",
            )
    return checked


def check_any_weight(where: str, column: str, array: Array) -> None:
    """Refuse weights that leave no example.

    Raises:
        ExamplesError: All of them are 0.
    """
    if not any((chunk.astype(np.float32) > 0).any() for _, chunk in chunks(array)):
        raise ExamplesError(
            f"{where}: all weights {column!r} are 0",
            received=f"{len(array)} examples",
            remedy="give at least one example of each split a weight above 0",
        )
