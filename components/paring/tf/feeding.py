"""Feed the rows of a split to a tf_keras model in batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from paring.errors import UnsupportedError
from paring.tf.examples import Split, stratified_split

_VALIDATION = 0.1

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Portions:
    """Row numbers of the train split, so that nothing is copied to divide it.

    Attributes:
        train: Rows to train on, int64 [n], sorted.
        validation: Rows to choose the best epoch by, int64 [m], sorted.
    """

    train: Rows
    validation: Rows


def hold_out(split: Split, seed: int) -> Portions:
    """Keep a tenth of each class for validation; all of it where there is one example."""
    if split.count < 2:
        rows = np.arange(split.count)
        return Portions(rows, rows)
    train, validation = stratified_split(split.labels, split.count, _VALIDATION, seed)
    return Portions(train, validation)


def features_at(model: Any, split: Split, rows: Rows) -> Any:
    """The features at `rows`, in the form that the tf_keras model takes.

    Raises:
        UnsupportedError: There are several inputs, and the model has other
            names for them than its signature.
    """
    features = {name: np.asarray(array[rows]) for name, array in split.features.items()}
    if len(features) == 1:
        return next(iter(features.values()))
    if set(features) != set(model.input_names):
        raise UnsupportedError(
            "the signature's inputs are not the Keras model's, and which is which is unclear",
            received=f"signature: {', '.join(features)}; Keras: {', '.join(model.input_names)}",
            remedy="export the model under its Keras names, as model.save(DIR) does",
        )
    return features


def feature_batches(model: Any, split: Split, rows: Rows, batch_size: int) -> Iterator[Any]:
    """The features at `rows` in order, once; the last batch may be smaller."""
    for start in range(0, len(rows), batch_size):
        yield features_at(model, split, rows[start : start + batch_size])


def labelled_batches(
    model: Any, split: Split, rows: Rows, batch_size: int, targets: NDArray[Any] | None = None
) -> Iterator[Any]:
    """Like `feature_batches`, with the labels [batch, ...], a tuple of several outputs'.

    With `targets`, an array [count, ...] over the split, those stand in the labels' place.
    """
    for start in range(0, len(rows), batch_size):
        yield _labelled(model, split, rows[start : start + batch_size], targets)


def shuffled_batches(
    model: Any,
    split: Split,
    rows: Rows,
    batch_size: int,
    seed: int,
    targets: NDArray[Any] | None = None,
) -> Iterator[Any]:
    """Features and labels without end, each pass over `rows` in an order of its own.

    Every batch is full: what is left over in a pass is skipped, since a very
    small batch would upset the batch normalization. Fewer rows than one are one batch.
    """
    batch_size = min(batch_size, len(rows))
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(rows)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            # Within a batch the order is of no matter, and mapped files are
            # read fastest forwards.
            yield _labelled(model, split, np.sort(order[start : start + batch_size]), targets)


def prefetched(batches: Callable[[], Iterator[Any]]) -> tf.data.Dataset:
    """The batches as a dataset that has the next ones ready while one is computed on.

    They come in the same order, from one thread beside the caller's. Few are held at a
    time: TensorFlow chooses how many by how fast they are taken.

    Args:
        batches: Starts the iterator; every batch has the structure, shapes and dtypes
            of the first one.
    """
    specs = tf.nest.map_structure(
        lambda array: tf.TensorSpec(array.shape, array.dtype), next(batches())
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=specs)
    return dataset.prefetch(tf.data.AUTOTUNE)


def _labelled(model: Any, split: Split, rows: Rows, targets: NDArray[Any] | None) -> Any:
    answers = list(split.labels_by_output.values()) if targets is None else [targets]
    labels = tuple(np.asarray(array[rows]) for array in answers)
    if not labels:
        raise UnsupportedError(
            "fine-tuning needs labels, and the examples have none",
            remedy="give examples with a label, or use a recipe without training steps",
        )
    return features_at(model, split, rows), as_outputs(model, labels)


def as_outputs(model: Any, values: Sequence[Any]) -> Any:
    """`values`, one for each output of the tf_keras model in order, in the outputs' form.

    That is a dict where the model gives a dict, else a tuple, or an only value.
    """
    if isinstance(model.output, dict):
        return tf.nest.pack_sequence_as(model.output, list(values))
    return values[0] if len(values) == 1 else tuple(values)
