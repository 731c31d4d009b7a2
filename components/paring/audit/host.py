"""Operators that run on the host between others that an accelerator runs."""

from typing import Any

from paring.audit.finding import Finding, counted, places
from paring.audit.subject import HEAVY, Subject
from paring.graphs.graph import tensor_bytes
from paring.graphs.kernels import GPU, has_kernel
from paring.graphs.names import place

PYTHON = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunction"})


def python_functions(subject: Subject) -> list[Finding]:
    """Find calls into Python, which is there at training and not where the model is served."""
    result = [where for where, node in subject.nodes() if node.op in PYTHON]
    if not result:
        return []
    return [
        Finding(
            rule="python_function",
            severity="high",
            place=places(result),
            cost=f"{counted(len(result), 'call')} into Python at each inference, under its lock,"
            " with a copy to the host and back; TensorFlow Serving and TFLite can't run them",
            fix="write the function with TensorFlow's own operators, or call it before the model",
        )
    ]


def host_copies(subject: Subject) -> list[Finding]:
    """Find operators without a kernel for GPUs, strings above all, amid computation."""
    before = _heavy_before(subject)
    after = _heavy_after(subject)
    result = [
        op
        for op in subject.live
        if op.name in before
        and op.name in after
        and op.type not in PYTHON | {"Placeholder"}
        and not has_kernel(op.node_def, GPU, "DEFAULT")
    ]
    if not result or not _knows_gpus():
        return []
    names = {op.name for op in result}
    size = sum(
        tensor_bytes(tensor.shape, tensor.dtype)
        for op in result
        for tensor in op.inputs
        if tensor.op.name not in names
    )
    strings = any(tensor.dtype.name == "string" for op in result for tensor in op.outputs)
    return [
        Finding(
            rule="host_copies",
            severity="medium",
            place=places([place(op) for op in result]),
            cost=f"{counted(len(result), 'operator')} without a kernel for GPUs: at least {size:,}"
            " bytes an example go to the host, and the accelerator waits for what comes back",
            fix="do this before or behind the model"
            + (", and keep strings out of what computes" if strings else "")
            + ", or use operators that have a kernel",
        )
    ]


def _heavy_before(subject: Subject) -> set[str]:
    result: set[str] = set()
    for op in subject.live:
        if any(t.op.name in result or t.op.type in HEAVY for t in op.inputs):
            result.add(op.name)
    return result


def _heavy_after(subject: Subject) -> set[str]:
    result: set[str] = set()
    for op in reversed(subject.live):
        users: list[Any] = subject.users[op.name]
        if any(user.name in result or user.type in HEAVY for user in users):
            result.add(op.name)
    return result


def _knows_gpus() -> bool:
    """Return whether this TensorFlow was built with kernels for GPUs, used or not."""
    import tensorflow as tf

    return bool(tf.sysconfig.get_build_info().get("is_cuda_build"))
