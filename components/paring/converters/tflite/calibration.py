"""Draw of the examples on which post-training quantization is calibrated."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.artifacts import Examples
from paring.converters.tflite.conversion import (
    Calls,
    activation_quantization,
    convert,
    has_fake_quantization,
    random_features,
)
from paring.data.examples import Split, class_ids, draw_rows, open_split, stratified_split
from paring.errors import UnsupportedError
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature

_HASHED_AT_ONCE = 256


def calibration_calls(split: Split, signature: Signature, *, size: int, seed: int) -> Calls:
    """Return a function that gives the inputs of one model call after another.

    Args:
        split: Where they are drawn from.
        signature: The model's. Each call is as large as its batch, or one example
            where that is open; a fixed batch that can't be filled wraps around to
            the first examples.
        size: How many examples to draw; all, if there are fewer.
        seed: Of the draw.
    """
    rows = draw_rows(split.labels, np.arange(split.count), limit=size, seed=seed)
    return calls_of(split.take(rows), signature)


def calls_of(chosen: Split, signature: Signature) -> Calls:
    """Return the calls on all examples of `chosen`, in the form of `calibration_calls`."""
    batch = max((spec.shape[0] or 1 for spec in signature.inputs.values() if spec.shape), default=1)

    def calls() -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, chosen.count, batch):
            rows = np.arange(start, start + batch) % chosen.count
            yield {name: array[rows] for name, array in chosen.features.items()}

    return calls


def drawn_batches(
    examples: Examples | None, signature: Signature, *, size: int, seed: int
) -> list[dict[str, NDArray[Any]]]:
    """Return the inputs of each call on which two models are compared.

    Args:
        examples: Calls are drawn of the train split; None for one call of random numbers.
        signature: The models'.
        size: How many examples to draw.
        seed: Of the draw, and of random numbers.
    """
    if examples is None:
        return [random_features(signature, seed)]
    split = open_split(examples, "train", signature)
    return list(calibration_calls(split, signature, size=size, seed=seed)())


@dataclass(frozen=True)
class Drawn:
    """Rows that `draw` chose.

    Attributes:
        rows: Sorted row numbers of the train split.
        classes: Number of rows of each class, by class id; None without class ids.
        also_in_eval: Number of rows that are in the eval split too.
    """

    rows: NDArray[np.int64]
    classes: dict[str, int] | None
    also_in_eval: int


def draw(train: Split, held_out: Split, *, size: int, seed: int) -> Drawn:
    """Draw examples of `train`, each class in its share, disjoint from `held_out`.

    Args:
        train: Where they are drawn from.
        held_out: Whose examples are passed over, where `train` has others.
        size: How many, at least 1.
        seed: Of the draw.
    """
    pool = np.arange(train.count)
    rows = draw_rows(train.labels, pool, limit=size, seed=seed)
    shared = 0
    if _shared(train, rows, held_out).any():
        others = pool[~_shared(train, pool, held_out)]
        if len(others):
            rows = draw_rows(train.labels, others, limit=size, seed=seed)
        else:
            shared = len(rows)
    labels = class_ids(train.labels)
    if labels is None:
        return Drawn(rows, None, shared)
    result, counts = np.unique(labels[rows], return_counts=True)
    shares = {str(item): int(count) for item, count in zip(result, counts, strict=True)}
    return Drawn(rows, shares, shared)


def _shared(train: Split, rows: NDArray[np.int64], held_out: Split) -> NDArray[np.bool_]:
    """Return a mask of the rows of `train` that are in `held_out` too; bool [rows]."""
    wanted = list(_digests(train, rows))
    some = set(wanted)
    result = some.intersection(_digests(held_out, np.arange(held_out.count)))
    return np.array([item in result for item in wanted], dtype=bool)


def _digests(split: Split, rows: NDArray[np.int64]) -> Iterator[bytes]:
    """Yield a digest of each row's features."""
    for start in range(0, len(rows), _HASHED_AT_ONCE):
        part = split.take(rows[start : start + _HASHED_AT_ONCE])
        for index in range(part.count):
            digest = hashlib.blake2b(digest_size=16)
            for name in sorted(part.features):
                digest.update(part.features[name][index].tobytes())
            yield digest.digest()


def compare_halves(model: SavedModel, chosen: Split, seed: int) -> tuple[float | None, str]:
    """Compare the activation ranges of two disjoint halves of `chosen`.

    Args:
        model: The SavedModel that is quantized on each half.
        chosen: The calibration examples.
        seed: Of the halving, which gives each class its share.

    Returns:
        The median, over the activations, of the difference of the two ranges as a
        share of the larger one; and why it could not be found, else "".

    Raises:
        ModelError: TensorFlow can't load the SavedModel.
    """
    if chosen.count < 2:
        return None, "there is one example only"
    if has_fake_quantization(model):
        return None, "the model brings its ranges from quantization-aware training"
    halves = stratified_split(chosen.labels, chosen.count, eval_fraction=0.5, seed=seed)
    try:
        first, second = (_ranges(model, chosen.take(half)) for half in halves)
    except UnsupportedError as error:
        return None, str(error)
    # Whether an operator is quantized does not depend on the examples.
    differences = [
        abs(scale - second[name]) / max(scale, second[name])
        for name, scale in first.items()
        if name in second
    ]
    if not differences:
        return None, "no activation of the model is quantized"
    return float(np.median(differences)), ""


def _ranges(model: SavedModel, half: Split) -> dict[str, float]:
    """Return the range of each activation, in units of its 255 steps."""
    content = convert(model, "int8", calls_of(half, model.signature())).content
    return {name: scale for name, (scale, _) in activation_quantization(content).items()}
