"""Examples as arrays, read from every supported form.

Read are: Paring's own form (`Split-train/` and `Split-eval/` folders with one
`.npy` file for each model input, named for it, and `label.npy`, or one for each of
several outputs), an `.npz`
file, and TFRecords of `tf.Example` in a file, a folder or TFX's `Split-`
folders; `paring.data.example_files` has the names. Whatever the form, a split
becomes memory-mapped arrays that have been checked against the model's
signature, so that memory stays bounded and no work starts on bad input.
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paring.artifacts import Examples
from paring.data.columns import (
    are_one_hot,
    check_features,
    check_labels,
    label_outputs,
    map_array,
    match_columns,
    model_inputs,
    one_hot_ids,
    write_column,
)
from paring.data.example_files import WHOLE, Columns, locate, read_columns
from paring.data.weights import check_any_weight, check_weights, check_weights_column
from paring.errors import ExamplesError
from paring.models.signature import Signature

LABEL = "label"
EVAL_FRACTION = 0.2

SplitName = Literal["train", "eval"]


@dataclass(eq=False)
class Split:
    """Split of the examples.

    Attributes:
        features: An array for each of the signature's inputs, in its dtype and
            of shape [count, ...]; memory-mapped unless it came from `take`.
        labels: Those of the model's first output, or None: class ids, int64
            [count]; class ids of tokens, int64 [count, ...], -1 for padding; or
            values, one-hot rows or flags, float32 of the output's shape, [count]
            for one value.
        count: The number of examples, at least 1.
        output: The name of the model's first output.
        other_labels: Those of its other outputs, by name.
        weights: How much each example counts, float64 [count] of 0 or more; None if all
            count the same.
        weights_column: The name of the column that the weights come from; "" without.
    """

    features: dict[str, NDArray[Any]]
    labels: NDArray[Any] | None
    count: int
    output: str = ""
    other_labels: dict[str, NDArray[Any]] = field(default_factory=dict)
    weights: NDArray[np.float64] | None = None
    weights_column: str = ""

    @property
    def labels_by_output(self) -> dict[str, NDArray[Any]]:
        """All labels that there are, by the output's name."""
        own = {} if self.labels is None else {self.output: self.labels}
        return own | self.other_labels

    @property
    def used_rows(self) -> NDArray[np.int64]:
        """Numbers of the rows that count, int64: those whose weight is above 0."""
        if self.weights is None:
            return np.arange(self.count)
        return np.flatnonzero(np.asarray(self.weights, np.float32) > 0)

    def take(self, indices: Sequence[int] | NDArray[np.integer]) -> "Split":
        """Return the examples at `indices`, in that order, copied into memory."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Split(
            {name: np.array(array[chosen]) for name, array in self.features.items()},
            None if self.labels is None else np.array(self.labels[chosen]),
            len(chosen),
            self.output,
            {name: np.array(array[chosen]) for name, array in self.other_labels.items()},
            None if self.weights is None else np.array(self.weights[chosen]),
            self.weights_column,
        )

    def batches(
        self, batch_size: int
    ) -> Iterator[tuple[dict[str, NDArray[Any]], NDArray[Any] | None]]:
        """Yield the features and first labels of `batch_size` examples at a time, in order.

        The last batch holds what is left over. The arrays are views.
        """
        for start in range(0, self.count, batch_size):
            rows = slice(start, start + batch_size)
            features = {name: np.asarray(array[rows]) for name, array in self.features.items()}
            yield (
                features,
                None if self.labels is None else np.asarray(self.labels[rows]),
            )


def open_split(
    examples: Examples,
    name: SplitName,
    signature: Signature,
    *,
    label: str = LABEL,
    weights: str = "",
) -> Split:
    """Open one split, checked against the model's signature.

    Source dtypes other than the model's are converted where no value changes
    (integers to wider integers or floats, floats to wider floats); float64 is
    also rounded to float32, since NumPy makes float64 unasked. A source without
    splits is split as in `stratified_split`, with a fifth for eval and seed 0.
    Converted or unpacked arrays lie in a temporary folder that goes with the
    returned object.

    Raises:
        ExamplesError: Missing, unreadable, or not what the model takes.
        UnsupportedError: The model takes something else than numeric tensors.
    """
    scratch = Path(tempfile.mkdtemp(prefix="paring-examples-"))
    try:
        splits = open_splits(
            examples.path, [name], signature, scratch, label=label, weights=weights
        )
    except BaseException:
        shutil.rmtree(scratch)
        raise
    split = splits[name]
    # The mapped pages stay valid after the files' names are gone.
    weakref.finalize(split, shutil.rmtree, scratch, ignore_errors=True)
    return split


def open_splits(
    path: Path,
    names: Sequence[SplitName],
    signature: Signature,
    scratch: Path,
    *,
    label: str = LABEL,
    weights: str = "",
    eval_fraction: float = EVAL_FRACTION,
    seed: int = 0,
) -> dict[SplitName, Split]:
    """Open the splits `names` of `path`; see `open_split`.

    Args:
        path: The file or folder.
        names: Which splits.
        signature: Of the model that shall take them.
        scratch: A folder for what has to be unpacked or converted.
        label: The name of the column with the only output's labels, or OUTPUT=COLUMN; see
            `paring.data.columns.label_outputs`.
        weights: The name of the column of sample weights; "" for those that Paring's own
            form states, or none.
        eval_fraction: Share of a source without splits that becomes eval.
        seed: Of that split.
    """
    inputs = model_inputs(signature)
    if label in inputs:
        raise ExamplesError(
            f"the label's name is also the name of an input of the model: {label!r}",
            remedy="rename the label's column and give its new name as label",
        )
    groups = locate(path)
    labels = label_outputs(signature, label)
    if WHOLE in groups:
        columns = read_columns(
            groups[WHOLE], inputs=inputs, labels=labels, scratch=scratch / WHOLE, weights=weights
        )
        whole = _checked(columns, signature, label=label, weights=weights, scratch=scratch / WHOLE)
        if whole.count < 2:
            raise ExamplesError(
                f"{columns.where}: too few examples to split into train and eval",
                received=f"{whole.count} example",
                remedy="give at least two, or better a few hundred",
            )
        train, held_out = stratified_split(
            whole.labels, whole.count, eval_fraction=eval_fraction, seed=seed
        )
        rows: dict[SplitName, NDArray[np.int64]] = {"train": train, "eval": held_out}
        gathered = {name: _gathered(whole, rows[name], scratch / name) for name in names}
        for name, split in gathered.items():
            if split.weights is not None:
                check_any_weight(f"{columns.where}, {name}", split.weights_column, split.weights)
        return gathered
    opened: dict[SplitName, Split] = {}
    for name in names:
        if name not in groups:
            raise ExamplesError(
                f"{path}: there is no {name} split",
                received=f"splits: {', '.join(sorted(groups))}",
                remedy="give both train and eval, or one set without splits to be split",
            )
        columns = read_columns(
            groups[name], inputs=inputs, labels=labels, scratch=scratch / name, weights=weights
        )
        opened[name] = _checked(
            columns, signature, label=label, weights=weights, scratch=scratch / name
        )
    return opened


def stratified_split(
    labels: NDArray[Any] | None, count: int, *, eval_fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the sorted indices of train and eval, the same for the same seed.

    Each class gives eval its share, rounded by the largest remainder so that
    eval holds `eval_fraction` of all; without class ids all are one class.
    Neither side is ever empty.

    Args:
        labels: Class ids, integers [count], or one-hot rows, float [count, classes]; other
            labels are as good as None.
        count: Number of examples, at least 2.
        eval_fraction: In (0, 1).
        seed: Of the shuffle within each class.
    """
    classes = class_ids(labels)
    if classes is None:
        classes = np.zeros(count, np.int64)
    _, inverse, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    total = min(max(round(count * eval_fraction), 1), count - 1)
    shares = sizes * (total / count)
    taken = np.floor(shares).astype(np.int64)
    # Ties go to the lower class id, so that the result has one order only.
    order = np.argsort(-(shares - taken), kind="stable")
    taken[order[: total - int(taken.sum())]] += 1
    generator = np.random.default_rng(seed)
    held_out = np.concatenate(
        [
            generator.permutation(np.flatnonzero(inverse == item))[:number]
            for item, number in enumerate(taken)
        ]
    )
    held_out.sort()
    return np.setdiff1d(np.arange(count), held_out), held_out


def class_ids(labels: NDArray[Any] | None) -> NDArray[Any] | None:
    """Return the class id of each example, where the labels say one.

    Args:
        labels: Those of one output, or None.

    Returns:
        Integers [count]: the labels themselves, or the ids of one-hot rows, float
        [count, classes]. None of other labels.
    """
    if labels is None:
        return None
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        return np.asarray(labels)
    if labels.ndim == 2 and labels.dtype.kind == "f" and are_one_hot(labels):
        return one_hot_ids(labels)
    return None


def draw_rows(
    labels: NDArray[Any] | None, rows: NDArray[np.int64], *, limit: int, seed: int
) -> NDArray[np.int64]:
    """Return at most `limit` of `rows`, sorted, with each class in its share.

    Args:
        labels: Those of all rows, [count, ...], or None; see `stratified_split`.
        rows: Row numbers, sorted.
        limit: How many are kept; 0 for all.
        seed: Of the draw.
    """
    if not limit or limit >= len(rows):
        return rows
    own = None if labels is None else np.asarray(labels[rows])
    _, drawn = stratified_split(own, len(rows), eval_fraction=limit / len(rows), seed=seed)
    return rows[drawn]


def _checked(
    columns: Columns, signature: Signature, *, label: str, weights: str, scratch: Path
) -> Split:
    """Return the columns as a split in the model's dtypes."""
    scratch.mkdir(parents=True, exist_ok=True)
    inputs = model_inputs(signature)
    outputs = label_outputs(signature, label)
    given = [*columns.arrays, *columns.unread]
    stored = columns.weights
    if weights and stored is not None and stored[0] != weights:
        raise ExamplesError(
            f"{columns.where}: the examples were imported with the weights {stored[0]!r}",
            received=weights,
            remedy=f"give {stored[0]!r} or leave weights out, or import the examples again",
        )
    if weights and stored is None:
        check_weights_column(
            columns.where, given, inputs=inputs, labels=outputs, label=label, weights=weights
        )
        stored = weights, columns.arrays[weights]
        given.remove(weights)
    matched = match_columns(columns.where, given, inputs=inputs, labels=outputs, label=label)
    features = {name: columns.arrays[matched[name]] for name in inputs}
    count = check_features(columns.where, features, inputs)
    checked = {
        name: write_column(
            columns.where,
            name,
            array,
            dtype=inputs[name].dtype,
            file=scratch / f"input-{index}.npy",
        )
        for index, (name, array) in enumerate(features.items())
    }
    labels = {
        outputs[name].name: check_labels(
            columns.where,
            matched[name],
            columns.arrays[matched[name]],
            count=count,
            output=outputs[name],
            file=scratch / f"label-{index}.npy",
        )
        for index, name in enumerate(outputs)
        if name in matched
    }
    first = next(iter(signature.outputs))
    split = Split(checked, labels.pop(first, None), count, first, labels)
    if stored is not None:
        split.weights_column, array = stored
        split.weights = check_weights(
            columns.where, split.weights_column, array, count=count, file=scratch / "weights.npy"
        )
        check_any_weight(columns.where, split.weights_column, split.weights)
    return split


def _gathered(whole: Split, rows: NDArray[np.int64], folder: Path) -> Split:
    """Return the examples at `rows`, copied to mapped files a chunk at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    features = {
        name: write_column(
            "", name, array, dtype=array.dtype.name, file=folder / f"{index}.npy", rows=rows
        )
        for index, (name, array) in enumerate(whole.features.items())
    }
    labels = {}
    for index, (name, array) in enumerate(whole.labels_by_output.items()):
        file = folder / f"label-{index}.npy"
        write_column("", name, array, dtype=array.dtype.name, file=file, rows=rows)
        labels[name] = map_array(file, name)
    split = Split(features, labels.pop(whole.output, None), len(rows), whole.output, labels)
    if whole.weights is not None:
        file = folder / "weights.npy"
        split.weights_column = whole.weights_column
        write_column("", split.weights_column, whole.weights, dtype="float64", file=file, rows=rows)
        split.weights = map_array(file, split.weights_column)
    return split
