"""Batches for training: which rows, in which order and form, and how many ahead."""

import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from paring.data.examples import Split
from paring.errors import UnsupportedError
from paring.training.feeding import (
    Rows,
    labelled_at,
    labelled_batches,
    prefetched,
    shuffled_batches,
    shuffled_rows,
)

COUNT = 50


def _network(**outputs: int) -> Any:
    """One with the inputs `image` and `mark`, and these outputs."""
    image, mark = tf_keras.Input((4, 3), name="image"), tf_keras.Input((2,), name="mark")
    joined = tf_keras.layers.Concatenate()([tf_keras.layers.Flatten()(image), mark])
    heads = {name: tf_keras.layers.Dense(size, name=name)(joined) for name, size in outputs.items()}
    return tf_keras.Model([image, mark], heads if len(heads) > 1 else next(iter(heads.values())))


@pytest.fixture
def split() -> Split:
    generator = np.random.default_rng(0)
    features = {
        "image": generator.random((COUNT, 4, 3), np.float32),
        "mark": generator.integers(0, 9, (COUNT, 2), np.uint8),
    }
    places = generator.random((COUNT, 4), np.float32)
    return Split(features, np.arange(COUNT), COUNT, "digit", {"place": places})


def _expected(rows: Rows, size: int, seed: int, count: int) -> Iterator[Rows]:
    """Yield the first `count` batches, computed independently."""
    generator, left = np.random.default_rng(seed), []
    for _ in range(count):
        if not left:
            order = generator.permutation(rows)
            left = [np.sort(part) for part in np.split(order, range(size, len(rows), size))]
            left = [item for item in left if len(item) == size]
        yield left.pop(0)


def test_shuffled_batches_are_the_same_to_the_bit_each_time(split: Split) -> None:
    model, rows = _network(digit=10, place=4), np.arange(3, COUNT)
    for _ in range(2):
        batches = shuffled_batches(model, split, rows, batch_size=8, seed=5)
        for chosen, (features, labels) in zip(_expected(rows, 8, 5, 30), batches, strict=False):
            assert set(features) == {"image", "mark"}
            assert set(labels) == {"digit", "place"}
            for name, array in features.items():
                np.testing.assert_array_equal(array, split.features[name][chosen])
                assert array.dtype == split.features[name].dtype
            np.testing.assert_array_equal(labels["digit"], split.labels[chosen])
            np.testing.assert_array_equal(labels["place"], split.other_labels["place"][chosen])


def test_the_dataset_states_shapes_and_dtypes(split: Split) -> None:
    targets = np.zeros((COUNT, 10), np.float32)
    dataset = shuffled_batches(
        _network(digit=10), split, np.arange(COUNT), batch_size=8, seed=0, targets=targets
    )
    assert dataset.element_spec == (
        {"image": tf.TensorSpec((8, 4, 3), tf.float32), "mark": tf.TensorSpec((8, 2), tf.uint8)},
        tf.TensorSpec((8, 10), tf.float32),
    )


def test_each_pass_has_an_order_of_its_own_and_every_row_at_most_once() -> None:
    rows = np.arange(100, 147)
    batches = list(islice(shuffled_rows(rows, 10, seed=1), 8))
    first, second = (np.concatenate(batches[part]) for part in (slice(4), slice(4, 8)))
    for item in (first, second):
        assert len(set(item)) == 40
        assert set(item) <= set(rows)
    assert first.tolist() != second.tolist()


def test_batches_keep_their_order_when_the_first_take_longest() -> None:
    def read(rows: Rows) -> np.ndarray:
        time.sleep(0.03 if rows[0] % 3 == 0 else 0)
        return rows * 2

    dataset = prefetched(lambda: iter(np.arange(30)[:, None]), read)
    assert [int(batch[0]) for batch in dataset] == list(range(0, 60, 2))


def test_large_batches_are_not_held_in_any_number() -> None:
    """They are taken in bursts, which tempts tf.data to hold ever more of them."""
    megabyte, size, read_so_far = 2**20, 64, 0

    def read(rows: Rows) -> np.ndarray:
        nonlocal read_so_far
        read_so_far += 1
        return np.zeros(size * megabyte, np.uint8)

    ahead = []
    for taken, _ in enumerate(prefetched(lambda: iter(np.zeros((100, 1), np.int64)), read)):
        # Two are read besides: the one taken, and the one that gave the shape.
        ahead.append(read_so_far - taken - 2)
        if taken % 10 == 0:
            time.sleep(0.1)
    assert len(ahead) == 100
    assert max(ahead) * size <= 512


def test_examples_without_labels_are_refused_before_any_batch(split: Split) -> None:
    bare = Split(split.features, None, COUNT)
    with pytest.raises(UnsupportedError, match="needs labels"):
        shuffled_batches(_network(digit=10), bare, np.arange(COUNT), batch_size=8, seed=0)
    targets = np.zeros((COUNT, 10), np.float32)
    _, labels = labelled_at(_network(digit=10), bare, np.array([1, 2]), targets=targets)
    assert labels.shape == (2, 10)


@pytest.mark.parametrize("weighted", [False, True])
def test_full_batches_count_each_row_once(split: Split, weighted: bool) -> None:
    own = np.linspace(0.5, 2, COUNT).astype(np.float32)
    labelled = Split(split.features, np.arange(COUNT), COUNT, "digit")
    labelled.weights = own if weighted else None
    rows = np.arange(3, 23)
    batches = list(labelled_batches(_network(digit=9), labelled, rows, batch_size=8, full=True))
    counted = np.zeros(COUNT, np.float32)
    for features, labels, weights in batches:
        assert features["image"].shape == (8, 4, 3)
        np.add.at(counted, labels, weights.ravel())
    expected = own if weighted else np.ones(COUNT, np.float32)
    np.testing.assert_array_equal(counted[rows], expected[rows])
    assert counted.sum() == pytest.approx(expected[rows].sum())
