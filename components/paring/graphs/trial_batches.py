"""Made-up batches for a signature that takes text or serialized tf.Examples.

The operators that parse tf.Example state the features that they look for, and tables hold the
words that a model knows, so that a batch can be made that the model takes as it is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from paring.graphs.parsed_features import ParsedFeature

Text = Literal["words", "digits", "image"]

# How many values the examples of a batch hold of a feature that may hold any number. No batch
# has as many values as examples by the first two, which tells them apart.
_COUNTS: tuple[tuple[int, ...], ...] = ((2, 0, 3, 1, 2, 4), (1, 0, 1, 1, 0, 1), (1,))
# What text is often split at.
_MARKS = (b" ", b",", b";", b"|", b"\t", b"-")
_TEXTS: tuple[Text, ...] = ("words", "digits", "image")


@dataclass(frozen=True)
class BatchKind:
    """Recipe for made-up values.

    Attributes:
        counts: Values of each example, by its place, where any number is allowed.
        text: Content of text.
        long: Names of the features and inputs whose lengths grow with the batch, so that two
            batches tell a length that varies from one that is fixed.
        marks: What stands between the parts of long text.
    """

    counts: tuple[int, ...]
    text: Text
    long: frozenset[str] = frozenset()
    marks: tuple[bytes, ...] = _MARKS


def batch_kinds() -> Iterator[BatchKind]:
    """Yield the kinds of batches to try, the most telling first."""
    for text in _TEXTS:
        for counts in _COUNTS:
            yield BatchKind(counts, text)


def longer_kinds(kind: BatchKind, names: frozenset[str]) -> Iterator[BatchKind]:
    """Yield kinds with more lengths that vary, to try in turn.

    Args:
        kind: A kind that the signature takes.
        names: Names for `BatchKind.long`.
    """
    if names <= kind.long:
        return
    longer = replace(kind, long=kind.long | names)
    yield longer
    if kind.text == "digits":
        # A number does not hold other marks than those that it is cut off at.
        for mark in (*_MARKS, b""):
            yield replace(longer, marks=(mark,))


def varying_names(
    specs: Mapping[str, Any], features: Mapping[str, Sequence[ParsedFeature]]
) -> list[frozenset[str]]:
    """Return the sets of features and inputs whose lengths may vary, the largest first.

    Those of one set vary together: ids and their mask have the same length.

    Args:
        specs: See `make_batch`.
        features: See there.
    """
    inputs = {
        name
        for name, spec in specs.items()
        if not features.get(name) and (spec.dtype == tf.string or None in _row_sizes(spec))
    }
    parsed = {
        item.name
        for items in features.values()
        for item in items
        if item.shape is None or item.dtype == "object"
    }
    lengths = {item.name for items in features.values() for item in items if item.shape is None}
    sizes = {name for name in inputs if None in _row_sizes(specs[name])}
    together = [inputs | parsed, sizes | lengths, inputs, parsed, sizes, lengths]
    alone = [{name} for name in sorted(inputs | parsed)]
    return [frozenset(names) for names in [*together, *alone] if names]


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
        An array [size, ...] for each input; text as objects. Dimensions that vary are 1, or one
        more than the batch where they are long.
    """
    random = np.random.default_rng(size)
    values = _Values(random, kind, words, size)
    batch: dict[str, np.ndarray[Any, Any]] = {}
    for name, spec in specs.items():
        if features.get(name):
            rows = [values.example(features[name], row) for row in range(size)]
            batch[name] = np.array(rows, object)
            continue
        length = size + 1 if name in kind.long else 1
        shape = (size, *(item or length for item in _row_sizes(spec)))
        dtype = "object" if spec.dtype == tf.string else spec.dtype.name
        batch[name] = values.array(shape, dtype, long=name in kind.long)
    return batch


def _row_sizes(spec: Any) -> list[int | None]:
    """Return the dimensions of an input without its first one; None where one varies."""
    return list(spec.shape.as_list()[1:]) if spec.shape.rank else []


class _Values:
    def __init__(
        self, random: np.random.Generator, kind: BatchKind, words: Sequence[bytes], size: int
    ) -> None:
        self._random = random
        self._kind = kind
        self._size = size
        self._words = [*words, b"paring", b"unknown words"]

    def array(self, shape: tuple[int, ...], dtype: str, *, long: bool) -> np.ndarray[Any, Any]:
        """Return values, of which the last text is long if the others may be words."""
        if dtype == "object":
            count = int(np.prod(shape))
            texts = [self._text(long=long and i == count - 1) for i in range(count)]
            return np.array(texts, object).reshape(shape)
        kind = tf.as_dtype(dtype)
        if kind.is_floating:
            return self._random.normal(size=shape).astype(kind.as_numpy_dtype)
        # 0 and 1 are numbers of a row in any table of weights.
        return self._random.integers(0, 2, shape).astype(kind.as_numpy_dtype)

    def example(self, features: Sequence[ParsedFeature], row: int) -> bytes:
        example = tf.train.Example()
        for place, feature in enumerate(features):
            long = feature.name in self._kind.long and row == self._size - 1
            shape = feature.shape
            if shape is None:
                counts = self._kind.counts
                shape = (self._size + 1 if long else counts[(row + place) % len(counts)],)
            values = self.array(shape, feature.dtype, long=long).ravel()
            stored = example.features.feature[feature.name]
            if feature.dtype == "object":
                stored.bytes_list.value.extend(values)
            elif feature.dtype == "int64":
                stored.int64_list.value.extend(values)
            else:
                stored.float_list.value.extend(values)
        return bytes(example.SerializeToString())

    def _text(self, *, long: bool) -> bytes:
        if self._kind.text == "image":
            # All of a batch have one size.
            side = 32 + (self._size if self._kind.long else 0)
            pixels = self._random.integers(0, 256, (side, side, 3), np.uint8)
            return bytes(tf.io.encode_jpeg(pixels).numpy())
        if self._kind.text == "digits":
            word = str(int(self._random.integers(0, 10))).encode()
        else:
            word = self._words[int(self._random.integers(0, len(self._words)))]
        if not long:
            return word
        # As many parts whatever it is split at.
        return b"".join([word, *((mark + word) * (self._size + 1) for mark in self._kind.marks)])
