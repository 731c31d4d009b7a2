"""Compilation of functions by XLA for static shapes, as a TPU needs it, without a TPU."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

_INSTRUCTION = re.compile(
    r"= \(?\w+\[[^\]]*<=[^\]]*\].*?metadata=\{(?:op_type=\"(?P<kind>[^\"]*)\" )?"
    r"op_name=\"(?P<name>[^\"]*)\""
)
_NODE = re.compile(r"\{\{node ([^}]+)\}\}")
_KIND = re.compile(r"No registered '(\w+)' OpKernel")


@dataclass(frozen=True)
class Refusal:
    """One operator that can't be compiled for static shapes.

    Attributes:
        place: Its name, or that of the input.
        kind: Its type in TensorFlow; "" where that is not known.
        reason: Why.
    """

    place: str
    kind: str
    reason: str

    def __str__(self) -> str:
        """Return the refusal as in `model/crop/Where (Where): its result has no fixed shape`."""
        return f"{self.place} ({self.kind or 'unknown'}): {self.reason}"


def compile_refusals(function: Callable[..., Any], specs: Sequence[Any]) -> list[Refusal]:
    """Return the reasons why XLA can't compile a function; none if it can.

    TensorFlow's own conversion to XLA's HLO says so, with which compilation for TPUs begins too;
    nothing is run. An operator whose result has no static shape is a reason as well.

    Args:
        function: A function of TensorFlow operators with positional arguments.
        specs: A tf.TensorSpec of static shape for each argument.
    """
    import tensorflow as tf

    compiled = tf.function(function, input_signature=list(specs), jit_compile=True)
    try:
        hlo = compiled.experimental_get_compiler_ir(*specs)(stage="hlo")
    except (tf.errors.OpError, ValueError, TypeError) as error:
        return [parse_refusal(str(error))]
    result: dict[str, Refusal] = {}
    for line in hlo.splitlines():
        dynamic = _INSTRUCTION.search(line)
        if dynamic:
            where, kind = dynamic["name"], dynamic["kind"] or ""
            result.setdefault(where, Refusal(where, kind, "its result has no fixed shape"))
    return list(result.values())


def parse_refusal(message: str) -> Refusal:
    """Return what XLA's message of an error says, with the operator where it names one."""
    node, kind = _NODE.search(message), _KIND.search(message)
    where = node.group(1) if node else "the graph"
    if kind:
        return Refusal(where, kind.group(1), "XLA has no kernel for it")
    lines = [line for line in message.splitlines() if line.strip() and line != "in user code:"]
    return Refusal(where, "", next(iter(lines), "")[:300])


def refusal_in(error: Exception) -> Refusal | None:
    """Return what XLA refused where an error of TensorFlow says so; None for another error."""
    message = str(error)
    return parse_refusal(message) if "XLA" in message else None
