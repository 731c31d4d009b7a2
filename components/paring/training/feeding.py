"""Feeding of a split's rows to a tf_keras model in batches."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from paring.data.examples import Split, stratified_split
from paring.errors import UnsupportedError
from paring.models.library_types import KerasModel

_VALIDATION = 0.1

# Of what tf.data holds of the batches at once, where it has a choice.
_MEMORY_BYTES = 512 * 2**20

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
    """Keep a tenth of each class for validation; all of it where there is one example.

    Examples whose weight is 0 are in neither portion.
    """
    rows = split.used_rows
    if len(rows) < 2:
        return Portions(rows, rows)
    labels = split.labels if split.weights is None or split.labels is None else split.labels[rows]
    train, validation = stratified_split(labels, len(rows), eval_fraction=_VALIDATION, seed=seed)
    return Portions(rows[train], rows[validation])


def features_at(model: KerasModel, split: Split, rows: Rows) -> Any:
    """Return the features at `rows`, in the form that the tf_keras model takes.

    Raises:
        UnsupportedError: There are several inputs, and the model has other
            names for them than its signature.
    """
    features = {name: np.asarray(array[rows]) for name, array in split.features.items()}
    if len(features) == 1:
        return next(iter(features.values()))
    if set(features) != set(model.input_names):
        raise UnsupportedError(
            "the signature's inputs are not the Keras model's, and their order is ambiguous",
            received=f"signature: {', '.join(features)}; Keras: {', '.join(model.input_names)}",
            remedy="export the model under its Keras names, as model.save(DIR) does",
        )
    return features


def feature_batches(
    model: KerasModel, split: Split, rows: Rows, *, batch_size: int
) -> Iterator[Any]:
    """Yield the features at `rows` in order, once; the last batch may be smaller."""
    for start in range(0, len(rows), batch_size):
        yield features_at(model, split, rows[start : start + batch_size])


def labelled_batches(
    model: KerasModel,
    split: Split,
    rows: Rows,
    *,
    batch_size: int,
    targets: NDArray[Any] | None = None,
    full: bool = False,
) -> Iterator[Any]:
    """Yield `feature_batches` with the labels [batch, ...] and weights of `labelled_at`.

    With `targets`, an array [count, ...] over the split, those stand in the labels' place.
    With `full` the last batch is as large as the others, for compilers that need static
    shapes: its last row stands there several times, with a weight of 0 behind the first.
    """
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        if not full:
            yield labelled_at(model, split, part, targets=targets)
            continue
        counted = np.arange(batch_size) < len(part)
        part = np.concatenate([part, np.repeat(part[-1:], batch_size - len(part))])
        yield labelled_at(model, split, part, targets=targets, counted=counted)


def labelled_at(
    model: KerasModel,
    split: Split,
    rows: Rows,
    *,
    targets: NDArray[Any] | None = None,
    counted: NDArray[np.bool_] | None = None,
) -> tuple[Any, ...]:
    """Return the features at `rows`, and the labels or `targets`, as the tf_keras model takes them.

    Where the split has weights, they follow for each output, float32 [batch, 1, ...] with as
    many axes as the losses of its labels have, as `fit` takes them. With `counted` they follow
    in any case, and are 0 for the rows that it leaves out.

    Raises:
        UnsupportedError: As `features_at`, or there are no labels.
    """
    answers = list(split.labels_by_output.values()) if targets is None else [targets]
    labels = tuple(np.asarray(array[rows]) for array in answers)
    if not labels:
        raise UnsupportedError(
            "fine-tuning needs labels, and the examples have none",
            remedy="give examples with a label, or use a recipe without training steps",
        )
    features = features_at(model, split, rows)
    if split.weights is None and counted is None:
        return features, as_outputs(model, labels)
    weights = np.ones(len(rows), np.float32)
    if split.weights is not None:
        weights = np.asarray(split.weights[rows], np.float32)
    if counted is not None:
        weights *= counted
    # A loss of tokens or pixels has an axis for them, and Keras spreads weights over one alone.
    ranks = [len(output.shape) for output in model.outputs]
    shaped = [weights.reshape(-1, *[1] * (max(rank, 2) - 2)) for rank in ranks]
    return features, as_outputs(model, labels), as_outputs(model, shaped)


def shuffled_batches(
    model: KerasModel,
    split: Split,
    rows: Rows,
    *,
    batch_size: int,
    seed: int,
    targets: NDArray[Any] | None = None,
) -> tf.data.Dataset:
    """Return features and labels without end, with the next batches ready; see `shuffled_rows`.

    The batches, of [batch, ...] as `labelled_at` gives them, come in the same order each
    time, though several may be copied from the mapped columns at once.

    Raises:
        UnsupportedError: As `labelled_at`.
    """
    return prefetched(
        lambda: shuffled_rows(rows, batch_size, seed),
        lambda chosen: labelled_at(model, split, chosen, targets=targets),
    )


def shuffled_rows(rows: Rows, batch_size: int, seed: int) -> Iterator[Rows]:
    """Yield the rows of each batch without end, each pass over `rows` in an order of its own.

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
            yield np.sort(order[start : start + batch_size])


def prefetched(rows: Callable[[], Iterator[Rows]], read: Callable[[Rows], Any]) -> tf.data.Dataset:
    """Return the results of `read` for each of `rows`, as a dataset that prefetches them.

    They come in the order of `rows`. Several are read at a time, on threads beside the
    caller's; TensorFlow chooses how many, and how many to hold, by how fast they are taken
    and within `_MEMORY_BYTES`.

    Args:
        rows: Starts the iterator over rows, each time as many.
        read: Gives arrays, in a structure, shapes and dtypes that are always the same.
    """
    first = next(rows())
    batch = read(first)
    specs = tf.nest.map_structure(lambda array: tf.TensorSpec(array.shape, array.dtype), batch)
    flat_specs = tf.nest.flatten(specs)

    def gathered(chosen: Any) -> Any:
        arrays = tf.numpy_function(
            lambda taken: tf.nest.flatten(read(taken)),
            [chosen],
            [spec.dtype for spec in flat_specs],
            stateful=False,
        )
        for array, spec in zip(arrays, flat_specs, strict=True):
            array.set_shape(spec.shape)
        return tf.nest.pack_sequence_as(specs, arrays)

    dataset = tf.data.Dataset.from_generator(
        rows, output_signature=tf.TensorSpec(first.shape, first.dtype)
    )
    dataset = dataset.map(gathered, num_parallel_calls=tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.ram_budget = _MEMORY_BYTES
    # What it starts with, before it knows how large a batch is, is not held to the budget.
    options.autotune.initial_parallelism = 1
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def as_outputs(model: KerasModel, values: Sequence[Any]) -> Any:
    """Return `values`, one for each output of the tf_keras model, in the outputs' structure.

    That is a dict where the model gives a dict, else a tuple, or an only value.
    """
    if isinstance(model.output, dict):
        return tf.nest.pack_sequence_as(model.output, list(values))
    return values[0] if len(values) == 1 else tuple(values)
