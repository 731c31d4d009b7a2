"""Functions that return memory to the system."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

# What ends with an object that was in a cycle, as TensorFlow's functions do, may be in others.
_COLLECTIONS = 3


@contextmanager
def frequent_collection() -> Iterator[None]:
    """Collect reference cycles soon after they arise, for libraries that copy weights.

    Python looks at all objects once those that are new are a quarter of them. With
    TensorFlow loaded that is hundreds of thousands, and a model's copies by the dozen
    wait for it. Within this context all objects of before are left out, so that a
    collection takes milliseconds.

    In a process that has frozen what it imported, as the server of steps does, they are left
    out already. They stay frozen: `gc.unfreeze` would return these to every later collection.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release_memory() -> None:
    """Collect reference cycles, and return free memory to the system.

    glibc keeps freed blocks below the highest one in use, which after a few copies of a
    model may be half of the process.
    """
    for _ in range(_COLLECTIONS):
        if not gc.collect():
            break
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
