"""Signatures that fix what callers vary, and functions that were traced for each call."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from paring.audit.finding import Finding
from paring.audit.subject import Subject

_TENSOR_FIX = "one input_signature for the function, of tf.TensorSpec with None where sizes vary"
_NUMBER_FIX = "pass numbers as tensors (tf.constant), of a tf.TensorSpec([]) in input_signature"


def fixed_shapes(subject: Subject) -> list[Finding]:
    """Find inputs that take batches of one size alone."""
    result = []
    for name, spec in subject.signature.inputs.items():
        if not spec.shape or spec.shape[0] is None:
            continue
        shape = "x".join("?" if size is None else str(size) for size in spec.shape)
        result.append(
            Finding(
                rule="fixed_batch",
                severity="low",
                place=f"input {name} [{shape}]",
                cost=f"takes batches of {spec.shape[0]} alone: a server can't gather requests,"
                " and each other size is padded or traced again",
                fix="export it with None for the batch, unless the target wants fixed shapes",
            )
        )
    return result


def retraced_functions(subject: Subject) -> list[Finding]:
    """Find functions with a graph for each shape, or for each Python number, that they saw."""
    objects = subject.meta_graph.object_graph_def
    names = _names(objects)
    result = []
    for index, node in enumerate(objects.nodes):
        if node.WhichOneof("kind") != "function":
            continue
        traced = [
            _arguments(objects.concrete_functions[item].canonicalized_input_signature)
            for item in node.function.concrete_functions
        ]
        alike: dict[Any, set[tuple[Any, Any]]] = defaultdict(set)
        for fixed, shapes, numbers in traced:
            alike[fixed].add((shapes, numbers))
        for variants in alike.values():
            if len(variants) < 2:
                continue
            by_number = len({numbers for _, numbers in variants}) > 1
            what = "Python number" if by_number else "shape"
            result.append(
                Finding(
                    rule="retraced_function",
                    severity="medium" if by_number else "low",
                    place=names.get(index, "a function"),
                    cost=f"{len(variants)} graphs of one function, one for each {what} that it"
                    " was called with; each new one is traced when it is called, for the time of"
                    " many inferences, and stays in memory",
                    fix=_NUMBER_FIX if by_number else _TENSOR_FIX,
                )
            )
    return result


def _names(objects: Any) -> dict[int, str]:
    """Return the attribute path from the model to each of its functions.

    A SavedModel of TensorFlow 1 has no objects.
    """
    if not objects.nodes:
        return {}
    result = {0: ""}
    queue = [0]
    while queue:
        index = queue.pop(0)
        for child in objects.nodes[index].children:
            if child.node_id not in result:
                result[child.node_id] = f"{result[index]}.{child.local_name}".lstrip(".")
                queue.append(child.node_id)
    return result


def _arguments(signature: Any) -> tuple[Any, Any, Any]:
    """Return a trace's types, flags and texts, which no export can merge, shapes and numbers."""
    fixed: list[Any] = []
    shapes: list[Any] = []
    numbers: list[Any] = []
    for kind, item in _leaves(signature):
        if kind == "tensor_spec_value":
            fixed.append((kind, item.dtype))
            shapes.append(
                "unknown" if item.shape.unknown_rank else tuple(dim.size for dim in item.shape.dim)
            )
        elif kind in ("int64_value", "float64_value"):
            fixed.append(kind)
            numbers.append(item)
        else:
            fixed.append((kind, str(item)))
    return tuple(fixed), tuple(shapes), tuple(numbers)


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    kind = value.WhichOneof("kind")
    content: Any = getattr(value, kind) if kind else None
    if kind in ("tuple_value", "list_value"):
        for item in content.values:
            yield from _leaves(item)
    elif kind == "dict_value":
        for name in sorted(content.fields):
            yield "name", name
            yield from _leaves(content.fields[name])
    elif kind == "named_tuple_value":
        for pair in content.values:
            yield from _leaves(pair.value)
    elif kind:
        yield kind, content
