"""Draw of the inputs on which models are timed."""

from pathlib import Path
from typing import Any

import numpy as np

from paring.artifacts import Examples, Servable
from paring.data.examples import open_split
from paring.errors import ExamplesError, UnsupportedError
from paring.models.saved_model import SavedModel


def draw_inputs(
    source: Servable, examples: Examples, *, batch_size: int, batches: int, seed: int, file: Path
) -> list[str]:
    """Write batches of eval examples to `file`; the names of the inputs.

    The array `i` of the .npz is [batches, batch_size, ...] of the i-th input.
    Where the split has too few examples, they are used again.

    Args:
        source: The SavedModel whose signature the examples are read by.
        examples: Where they are drawn from.
        batch_size: Examples in a batch.
        batches: How many batches.
        seed: Of the draw.
        file: The .npz file.

    Raises:
        ExamplesError: They are not what the source takes, or there are none.
        UnsupportedError: An input takes text.
    """
    signature = SavedModel.open(source).signature()
    split = open_split(examples, "eval", signature)
    if not split.count:
        raise ExamplesError(f"{examples.path}: the eval split is empty")
    order = np.random.default_rng(seed).permutation(split.count)
    needed = batches * batch_size
    # In memory at most once for each example, however large the batch is.
    drawn = np.sort(order[:needed])
    chosen = split.take(drawn)
    places = np.resize(np.random.default_rng(seed).permutation(len(drawn)), needed)
    arrays: dict[str, Any] = {}
    for index, (name, array) in enumerate(chosen.features.items()):
        if array.dtype == object:
            raise UnsupportedError(
                f"input {name!r} takes text, which can't be drawn",
                remedy="measure a model whose inputs are numbers",
            )
        arrays[str(index)] = array[places].reshape(batches, batch_size, *array.shape[1:])
    np.savez(file, **arrays)
    return list(chosen.features)
