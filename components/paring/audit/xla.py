"""Compilation of a model by XLA for fixed shapes, which a TPU needs."""

from typing import Any

from paring.audit.subject import Subject
from paring.graphs.graph import concrete_shape
from paring.graphs.kernels import XLA, has_kernel
from paring.graphs.xla import compile_refusals
from paring.models.arguments import by_position
from paring.models.signature import Signature
from paring.models.xla import Refusal, text_refusals

_PASSED_ON = frozenset({"Identity", "NoOp", "Placeholder", "_Arg", "_Retval"})


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
    known = text_refusals(
        name for name, spec in subject.signature.inputs.items() if spec.dtype == "object"
    )
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
    return compile_refusals(by_position(function, signature.inputs), specs)
