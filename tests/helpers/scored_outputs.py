"""Outputs of a source and a candidate with labels, of each kind that `evaluate` scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
COUNT = 90
RANDOM = np.random.default_rng(6)


def softmax(shape: Sequence[int]) -> Array:
    raised = np.exp(RANDOM.normal(size=shape))
    result: Array = raised / raised.sum(axis=-1, keepdims=True)
    return result


def lower_share(predictions: Array, labels: Array) -> Array:
    result: Array = np.abs(predictions - labels)
    return result


CASES: dict[str, tuple[Any, Any, Any, str]] = {
    "classes": (softmax((COUNT, 4)), softmax((COUNT, 4)), RANDOM.integers(0, 4, COUNT), "auto"),
    "top 2": (softmax((COUNT, 4)), softmax((COUNT, 4)), RANDOM.integers(0, 4, COUNT), "top_k"),
    "area": (
        RANDOM.integers(0, 9, (COUNT, 1)) / 9,
        RANDOM.random((COUNT, 1)),
        RANDOM.integers(0, 2, COUNT),
        "auc",
    ),
    "squares": (
        RANDOM.normal(size=(COUNT, 3)),
        RANDOM.normal(size=(COUNT, 3)),
        RANDOM.normal(size=(COUNT, 3)),
        "rmse",
    ),
    "errors": (
        RANDOM.normal(size=(COUNT, 1)),
        RANDOM.normal(size=(COUNT, 1)),
        RANDOM.normal(size=COUNT),
        "mae",
    ),
    "tokens": (
        softmax((COUNT, 3, 4)),
        softmax((COUNT, 3, 4)),
        RANDOM.integers(-1, 4, (COUNT, 3)),
        "auto",
    ),
    "flags": (
        RANDOM.random((COUNT, 4)),
        RANDOM.random((COUNT, 4)),
        RANDOM.integers(0, 2, (COUNT, 4)),
        "auto",
    ),
    "ids": (
        RANDOM.integers(0, 3, COUNT),
        RANDOM.integers(0, 3, COUNT),
        RANDOM.integers(0, 3, COUNT),
        "auto",
    ),
    "agreement": (softmax((COUNT, 4)), softmax((COUNT, 4)), None, "auto"),
    "variance": (np.arange(COUNT * 2.0).reshape(COUNT, 2), RANDOM.random((COUNT, 2)), None, "auto"),
    "function": (
        RANDOM.normal(size=COUNT),
        RANDOM.normal(size=COUNT),
        RANDOM.normal(size=COUNT),
        f"{__name__}:lower_share",
    ),
}
