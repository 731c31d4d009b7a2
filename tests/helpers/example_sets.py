"""Small sets of examples, and the files that they come in."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paring.models.signature import Signature, TensorSpec

SIGNATURE = Signature(
    {"image": TensorSpec("image", (None, 4, 3), "float32")},
    {"digit": TensorSpec("digit", (None, 3), "float32")},
)
COUNT = 30


def images(count: int = COUNT, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 4, 3), np.float32)


def classes(count: int = COUNT) -> NDArray[np.int64]:
    return np.arange(count) % 3


def write_npz(file: Path, **arrays: NDArray[np.generic]) -> Path:
    np.savez(file, **arrays)
    return file


def write_records(
    file: Path, features: list[dict[str, NDArray[np.generic] | bytes]], *, gzip: bool = False
) -> Path:
    import tensorflow as tf

    file.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(file), options="GZIP" if gzip else "") as writer:
        for item in features:
            example = tf.train.Example()
            for name, value in item.items():
                stored = example.features.feature[name]
                if isinstance(value, bytes):
                    stored.bytes_list.value.append(value)
                elif value.dtype.kind == "f":
                    stored.float_list.value.extend(value.ravel().tolist())
                else:
                    stored.int64_list.value.extend(value.ravel().tolist())
            writer.write(example.SerializeToString())
    return file


def rows(x: NDArray[np.generic], y: NDArray[np.int64]) -> list[dict[str, NDArray[np.generic]]]:
    return [{"image": item, "label": np.array([label])} for item, label in zip(x, y, strict=True)]


def with_value(x: NDArray[np.generic], place: tuple[int, ...], value: float) -> NDArray[np.generic]:
    """A copy of `x` with another value at `place`."""
    x = x.copy()
    x[place] = value
    return x
