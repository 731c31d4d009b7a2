"""How long a training step waits for its batch, with and without prefetching.

    python benchmarks/input_pipeline.py [--size N] [--repeats N]

Trains MobileNetV2 on random images that lie in a mapped file, as fine-tuning does: once on
the batches as they are read (`paring.tf.feeding.shuffled_batches`), once with the next ones
ready (`paring.tf.feeding.prefetched`), in turns. Prints for each side the milliseconds of a
step and those of them that it waited for its batch.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from paring.artifacts import Examples
from paring.tf.quiet import quiet_tensorflow

ROWS, BATCH, STEPS, WARM_UP = 2048, 64, 20, 3


def main() -> int:
    """Print both sides, and the ratio of their steps."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    quiet_tensorflow()
    import tf_keras

    from paring.tf.examples import open_split
    from paring.tf.feeding import prefetched, shuffled_batches
    from paring.tf.signature import Signature, TensorSpec

    shape = (given.size, given.size, 3)
    model = tf_keras.applications.MobileNetV2(weights=None, input_shape=shape, classes=10)
    model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy())
    with tempfile.TemporaryDirectory() as folder:
        generator = np.random.default_rng(0)
        np.save(Path(folder) / "x_train.npy", generator.random((ROWS, *shape), np.float32))
        np.save(Path(folder) / "y_train.npy", generator.integers(0, 10, ROWS))
        (name,) = model.input_names
        signature = Signature(
            {name: TensorSpec(name, (None, *shape), "float32")},
            {"scores": TensorSpec("scores", (None, 10), "float32")},
        )
        np.savez(
            Path(folder) / "examples.npz",
            **{file.stem: np.load(file, mmap_mode="r") for file in Path(folder).glob("*.npy")},
        )
        split = open_split(Examples(Path(folder) / "examples.npz"), "train", signature)
        rows = np.arange(split.count)

        def read() -> Iterator[Any]:
            return shuffled_batches(model, split, rows, BATCH, seed=0)

        sides: dict[str, Callable[[], Iterator[Any]]] = {
            "as read": read,
            "prefetched": lambda: iter(prefetched(read)),
        }
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for _ in range(given.repeats):
            for side, batches in sides.items():
                found[side].append(train(model, batches()))
    medians = {}
    for side, pairs in found.items():
        medians[side] = statistics.median(step for step, _ in pairs)
        waited = statistics.median(wait for _, wait in pairs)
        print(f"{side:<11} {medians[side]:8.2f} ms a step, {waited:6.2f} ms of it waiting")
    print(f"as read / prefetched: {medians['as read'] / medians['prefetched']:.3f}")
    return 0


def train(model: Any, batches: Iterator[Any]) -> tuple[float, float]:
    """Milliseconds of a training step, and those that it waits for its batch."""
    waited = 0.0
    for index in range(WARM_UP + STEPS):
        if index == WARM_UP:
            start, waited = time.perf_counter(), 0.0
        before = time.perf_counter()
        features, labels = next(batches)
        waited += time.perf_counter() - before
        model.train_on_batch(features, labels)
    whole = time.perf_counter() - start
    return 1e3 * whole / STEPS, 1e3 * waited / STEPS


if __name__ == "__main__":
    sys.exit(main())
