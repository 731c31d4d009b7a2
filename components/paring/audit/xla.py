"""Compilation of a model by XLA for fixed shapes, which a TPU needs."""

import re
from dataclasses import dataclass
from typing import Any

from paring.audit.subject import Subject
from paring.graphs.graph import concrete_shape
from paring.graphs.kernels import XLA, has_kernel
from paring.models.arguments import by_position
from paring.models.signature import Signature

_PASSED_ON = frozenset({"Identity", "NoOp", "Placeholder", "_Arg", "_Retval"})
_INSTRUCTION = re.compile(
    r"= \(?\w+\[[^\]]*<=[^\]]*\].*?metadata=\{(?:op_type=\"(?P<kind>[^\"]*)\" )?"
    r"op_name=\"(?P<name>[^\"]*)\""
)
_NODE = re.compile(r"\{\{node ([^}]+)\}\}")


@dataclass(frozen=True)
class Refusal:
    """One operator that can't be compiled for fixed shapes.

    Attributes:
        place: Its name, or that of the input.
        kind: Its type in TensorFlow; "" where that is not known.
        reason: Why.
    """

    place: str
    kind: str
    reason: str


def refusals(subject: Subject, function: Any, batch_size: int) -> list[Refusal]:
    """Return the reasons why XLA can't compile the whole graph, with the shapes of one batch.

    First come inputs of text and operators that XLA has no kernel for; without any, what
    TensorFlow's own conversion to XLA's HLO says, which TPUs begin with as well, and
    the operators in it whose results have no fixed shape.

    Args:
        subject: The graph, frozen.
        function: The signature's function, as it was loaded.
        batch_size: Examples in one batch.
    """
    known = [
        Refusal(f"input {name}", "Placeholder", "text, which no accelerator holds")
        for name, spec in subject.signature.inputs.items()
        if spec.dtype == "object"
    ]
    known += [
        Refusal(where, node.op, "XLA has no kernel for it")
        for where, node in subject.nodes()
        if node.op not in _PASSED_ON and not has_kernel(node, XLA)
    ]
    return known or _converted(function, subject.signature, batch_size)


def _converted(function: Any, signature: Signature, batch_size: int) -> list[Refusal]:
    import tensorflow as tf

    specs = [
        tf.TensorSpec(concrete_shape(spec, batch_size), spec.dtype)
        for spec in signature.inputs.values()
    ]

    serve = by_position(function, signature.inputs)
    compiled = tf.function(serve, input_signature=specs, jit_compile=True)
    try:
        hlo = compiled.experimental_get_compiler_ir(*specs)(stage="hlo")
    except (tf.errors.OpError, ValueError, TypeError) as error:
        reason = str(error)
        node = _NODE.search(reason)
        return [Refusal(node.group(1) if node else "the graph", "", reason.splitlines()[0][:300])]
    result: dict[str, Refusal] = {}
    for line in hlo.splitlines():
        dynamic = _INSTRUCTION.search(line)
        if dynamic:
            where, kind = dynamic["name"], dynamic["kind"] or ""
            result.setdefault(where, Refusal(where, kind, "its result has no fixed shape"))
    return list(result.values())
