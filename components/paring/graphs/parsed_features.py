"""Features of tf.Example that the operators of a graph parse."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf


def parsed_keys(op: Any) -> dict[int, str]:
    """Return the feature that each output of an operator that parses tf.Example comes from."""
    return {place: feature.name for feature in parsed_features(op) for place in feature.outputs}


@dataclass(frozen=True)
class ParsedFeature:
    """A feature of tf.Example that a signature parses.

    Attributes:
        name: Its name.
        dtype: "float32", "int64" or "object" for text.
        shape: Of one example; None where an example may hold any number of values.
        required: Whether each example must hold it.
        outputs: The operator's outputs that hold it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    required: bool
    outputs: tuple[int, ...] = ()


def parsed_features(op: Any) -> list[ParsedFeature]:
    """Return the features that an operator parses; none if it is no ParseExampleV2.

    Args:
        op: A tf.Operation.
    """
    if op.type not in ("ParseExample", "ParseExampleV2"):
        return []
    inputs = list(op.inputs)[2:]
    attributes = op.node_def.attr
    sparse_types = list(attributes["sparse_types"].list.type)
    dense_types = list(attributes["Tdense"].list.type)
    ragged_types = list(attributes["ragged_value_types"].list.type)
    if op.type == "ParseExampleV2":
        sparse_keys, dense_keys, ragged_keys = (_texts(item) for item in inputs[:3])
        defaults = inputs[3:]
    else:
        counts = len(sparse_types), len(dense_types)
        sparse_keys = [_texts(item)[0] for item in inputs[: counts[0]]]
        dense_keys = [_texts(item)[0] for item in inputs[counts[0] : sum(counts)]]
        ragged_keys, defaults = [], inputs[sum(counts) :]
    sparse, dense, ragged = len(sparse_types), len(dense_types), len(ragged_types)
    result = [
        ParsedFeature(key, _dtype(kind), None, False, (i, sparse + i, 2 * sparse + i))
        for i, (key, kind) in enumerate(zip(sparse_keys, sparse_types, strict=True))
    ]
    shapes = attributes["dense_shapes"].list.shape
    for i, (key, kind) in enumerate(zip(dense_keys, dense_types, strict=True)):
        sizes = tuple(int(dim.size) for dim in shapes[i].dim)
        default = tf.get_static_value(defaults[i])
        # A feature of variable length has a default for each of its values.
        shape = None if any(size < 0 for size in sizes) else sizes
        required = shape is not None and default is not None and np.size(default) == 0
        result.append(ParsedFeature(key, _dtype(kind), shape, required, (3 * sparse + i,)))
    first = 3 * sparse + dense
    result += [
        ParsedFeature(key, _dtype(kind), None, False, (first + i, first + ragged + i))
        for i, (key, kind) in enumerate(zip(ragged_keys, ragged_types, strict=True))
    ]
    return result


def _texts(tensor: Any) -> list[str]:
    value = tf.get_static_value(tensor)
    if value is None:
        return []
    return [item.decode(errors="replace") for item in np.ravel(value)]


def _dtype(kind: int) -> str:
    dtype = tf.as_dtype(kind)
    return "object" if dtype == tf.string else str(dtype.name)
