"""Choose the examples that post-training quantization is calibrated on."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.tf.examples import Split, stratified_split
from paring.tf.signature import Signature


def calibration_indices(
    labels: NDArray[np.int64] | None, count: int, size: int, seed: int
) -> NDArray[np.int64]:
    """Sorted indices of `size` examples (all, if there are fewer).

    Args:
        labels: Class ids, int64 [count], each of which gets its share; or None.
        count: Number of examples, at least 1.
        size: How many to take, at least 1.
        seed: Of the draw.
    """
    if size >= count:
        return np.arange(count)
    _, chosen = stratified_split(labels, count, size / count, seed)
    return chosen


def calibration_calls(
    split: Split, signature: Signature, size: int, seed: int
) -> Callable[[], Iterator[dict[str, NDArray[Any]]]]:
    """A function that gives the inputs of one model call after another.

    Each call is as large as the signature's batch, or one example where that is
    open; a fixed batch that can't be filled wraps around to the first examples.
    """
    chosen = split.take(calibration_indices(split.labels, split.count, size, seed))
    batch = max((spec.shape[0] or 1 for spec in signature.inputs.values() if spec.shape), default=1)

    def calls() -> Iterator[dict[str, NDArray[Any]]]:
        for start in range(0, chosen.count, batch):
            rows = np.arange(start, start + batch) % chosen.count
            yield {name: array[rows] for name, array in chosen.features.items()}

    return calls
