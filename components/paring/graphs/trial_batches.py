"""Made-up batches for a signature that takes text or serialized tf.Examples.

The operators that parse tf.Example state the features that they look for, and tables hold the
words that a model knows, so that a batch can be made that the model takes as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from paring.graphs.parsed_features import ParsedFeature

Text = Literal["words", "digits", "image"]

# How many values the examples of a batch hold of a feature that may hold any number. No batch
# has as many values as examples by the first two, which tells them apart.
_COUNTS: tuple[tuple[int, ...], ...] = ((2, 0, 3, 1, 2, 4), (1, 0, 1, 1, 0, 1), (1,))
_TEXTS: tuple[Text, ...] = ("words", "digits", "image")


@dataclass(frozen=True)
class BatchKind:
    """Recipe for made-up values.

    Attributes:
        counts: Values of each example, by its place, where any number is allowed.
        text: Content of text.
    """

    counts: tuple[int, ...]
    text: Text


def batch_kinds() -> Iterator[BatchKind]:
    """Yield the kinds of batches to try, the most telling first."""
    for text in _TEXTS:
        for counts in _COUNTS:
            yield BatchKind(counts, text)


def make_batch(
    specs: Mapping[str, Any],
    features: Mapping[str, Sequence[ParsedFeature]],
    *,
    kind: BatchKind,
    words: Sequence[bytes],
    size: int,
) -> dict[str, np.ndarray[Any, Any]]:
    """Return a batch of made-up values.

    Args:
        specs: tf.TensorSpec of each input.
        features: Features that are parsed of an input that holds serialized tf.Examples.
        kind: How values are made up.
        words: Text to draw from.
        size: Number of examples.

    Returns:
        An array [size, ...] for each input; text as objects. Dimensions that vary are 1.
    """
    random = np.random.default_rng(size)
    values = _Values(random, kind, words)
    batch: dict[str, np.ndarray[Any, Any]] = {}
    for name, spec in specs.items():
        if features.get(name):
            rows = [values.example(features[name], row) for row in range(size)]
            batch[name] = np.array(rows, object)
            continue
        sizes = spec.shape.as_list()[1:] if spec.shape.rank else []
        shape = (size, *(item or 1 for item in sizes))
        dtype = "object" if spec.dtype == tf.string else spec.dtype.name
        batch[name] = values.array(shape, dtype)
    return batch


class _Values:
    def __init__(
        self, random: np.random.Generator, kind: BatchKind, words: Sequence[bytes]
    ) -> None:
        self._random = random
        self._kind = kind
        self._words = [*words, b"paring", b"unknown words"]

    def array(self, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
        if dtype == "object":
            count = int(np.prod(shape))
            return np.array([self._text() for _ in range(count)], object).reshape(shape)
        kind = tf.as_dtype(dtype)
        if kind.is_floating:
            return self._random.normal(size=shape).astype(kind.as_numpy_dtype)
        # 0 and 1 are numbers of a row in any table of weights.
        return self._random.integers(0, 2, shape).astype(kind.as_numpy_dtype)

    def example(self, features: Sequence[ParsedFeature], row: int) -> bytes:
        example = tf.train.Example()
        for place, feature in enumerate(features):
            shape = feature.shape
            if shape is None:
                counts = self._kind.counts
                shape = (counts[(row + place) % len(counts)],)
            values = self.array(shape, feature.dtype).ravel()
            stored = example.features.feature[feature.name]
            if feature.dtype == "object":
                stored.bytes_list.value.extend(values)
            elif feature.dtype == "int64":
                stored.int64_list.value.extend(values)
            else:
                stored.float_list.value.extend(values)
        return bytes(example.SerializeToString())

    def _text(self) -> bytes:
        if self._kind.text == "digits":
            return str(int(self._random.integers(0, 10))).encode()
        if self._kind.text == "image":
            pixels = self._random.integers(0, 256, (32, 32, 3), np.uint8)
            return bytes(tf.io.encode_jpeg(pixels).numpy())
        return self._words[int(self._random.integers(0, len(self._words)))]
