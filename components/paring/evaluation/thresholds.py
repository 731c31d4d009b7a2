"""Thresholds of two-class outputs, by whether a value is a probability or a logit."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.artifacts import Servable
from paring.data.columns import are_flags
from paring.data.examples import Split
from paring.evaluation.scoring.outputs import Threshold, are_distributions
from paring.graphs.last_operator import last_activation
from paring.models.saved_model import SavedModel
from paring.models.signature import TensorSpec
from paring.runtimes import open_runtime, run_rows

_EXAMPLES = 1024
_BATCH = 64

_BY_ACTIVATION = {"sigmoid": (0.5, "the output's sigmoid"), "linear": (0.0, "the output's layer")}


def find_thresholds(
    source: Servable,
    model: SavedModel,
    labels: Mapping[str, NDArray[Any]],
    train: Callable[[], Split],
) -> dict[str, Threshold]:
    """Return the threshold of each output whose single values stand for two classes.

    The graph of the source shows most: what a sigmoid gives is a probability, what a dense
    or convolutional layer gives is a logit, and what a softmax gives has no threshold. Other
    outputs are probabilities if all that the source gives for the train split lies in 0 to 1,
    at most 1,024 examples of it, and those of classes, without a threshold, if besides each
    row adds up to 1. The eval split, which may be small, is not looked at.

    Args:
        source: The model.
        model: Its SavedModel.
        labels: The eval split's, by the output's name, where there are some.
        train: Opens the train split.

    Returns:
        By the output's name; none for outputs that choose among several classes, for
        integers, and for values, where the graph does not show an activation.
    """
    graph = model.meta_graph
    result: dict[str, Threshold] = {}
    unknown: list[str] = []
    for name, spec in model.signature().outputs.items():
        wanted = labels.get(name)
        if not _is_single(spec, wanted):
            continue
        activation = last_activation(graph, name, model.key)
        if activation == "softmax":
            continue
        if activation is not None:
            result[name] = Threshold(*_BY_ACTIVATION[activation])
        elif wanted is None or wanted.dtype.kind != "f" or are_flags(wanted):
            unknown.append(name)
    if unknown:
        result |= _by_values(source, train(), unknown)
    return result


def _is_single(spec: TensorSpec, labels: NDArray[Any] | None) -> bool:
    """Return whether each value of the output is a score of its own, not one of several classes."""
    if spec.dtype != "bfloat16" and np.dtype(spec.dtype).kind != "f":
        return False
    of_its_shape = labels is not None and labels.ndim == len(spec.shape)
    return len(spec.shape) < 2 or spec.shape[-1] == 1 or of_its_shape


def _by_values(source: Servable, split: Split, names: list[str]) -> dict[str, Threshold]:
    split = split.take(range(min(split.count, _EXAMPLES)))
    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    of_classes = dict.fromkeys(names, True)
    runtime = open_runtime(source)
    try:
        for features, _ in split.batches(_BATCH):
            outputs = run_rows(runtime, features)
            for name in names:
                low[name] = min(low[name], np.nanmin(outputs[name], initial=np.inf))
                high[name] = max(high[name], np.nanmax(outputs[name], initial=-np.inf))
                of_classes[name] &= are_distributions(outputs[name])
    finally:
        runtime.close()
    where = f"its values for {split.count} examples of the train split"
    return {
        name: Threshold(0.5 if low[name] >= 0 and high[name] <= 1 else 0.0, where)
        for name in names
        if not of_classes[name]
    }
