"""Time of a model's text work, which stays in TensorFlow whatever becomes of its numeric core."""

import time
from pathlib import Path

import numpy as np

from paring.data.raw_sample import read_sample

_WARM_UP_CALLS = 10
_MIN_CALLS = 50


def text_work_ms(
    parts: Path, sample: Path, *, batch_size: int, seconds: float, trusted: bool
) -> float:
    """Return the median time of the text work on a batch, in ms.

    A call goes from NumPy arrays to NumPy arrays, as those of a benchmark do.

    Args:
        parts: The folder of a model's text work.
        sample: See `write_sample`.
        batch_size: Examples in a call.
        seconds: Time to spend in timed calls, at least.
        trusted: Whether the text work may hold operators that touch anything else.
    """
    from paring.models.part_calls import PartCalls
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    import tensorflow as tf

    calls = PartCalls(parts, trusted=trusted)
    raw = read_sample(sample)
    count = len(next(iter(raw.values())))
    rows = np.resize(np.arange(count), batch_size)
    batch = {name: array[rows] for name, array in raw.items()}

    def call() -> None:
        tensors = {
            name: tf.constant(array, tf.string if array.dtype.kind == "O" else array.dtype.name)
            for name, array in batch.items()
        }
        for tensor in calls.core_inputs(calls.preprocess(tensors)).values():
            tensor.numpy()

    for _ in range(_WARM_UP_CALLS):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _MIN_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))
