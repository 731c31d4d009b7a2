"""Compilation of functions by XLA for static shapes, as a TPU needs it, without a TPU."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from paring.artifacts import Servable
from paring.errors import UnsupportedError
from paring.graphs.graph import concrete_shape, load_function
from paring.graphs.kernels import XLA, nodes_without_kernel
from paring.models.arguments import by_position
from paring.models.saved_model import SavedModel, holds_saved_model
from paring.models.xla import Refusal, parse_refusal, refusals_in_short, text_refusals
from paring.system.child_calls import call_in_child

_INSTRUCTION = re.compile(
    r"= \(?\w+\[[^\]]*<=[^\]]*\].*?metadata=\{(?:op_type=\"(?P<kind>[^\"]*)\" )?"
    r"op_name=\"(?P<name>[^\"]*)\""
)


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
        refusal = parse_refusal(str(error))
        return [refusal] if refusal.kind else _without_kernel(compiled) or [refusal]
    result: dict[str, Refusal] = {}
    for line in hlo.splitlines():
        dynamic = _INSTRUCTION.search(line)
        if dynamic:
            where, kind = dynamic["name"], dynamic["kind"] or ""
            result.setdefault(where, Refusal(where, kind, "its result has no fixed shape"))
    return list(result.values())


def _without_kernel(function: Any) -> list[Refusal]:
    """Return the operators that XLA has no kernel for, where its own message names none.

    So it is with tables, which it can't even take as an argument.
    """
    try:
        graph = function.get_concrete_function().graph.as_graph_def()
    except (ValueError, TypeError):
        # It can't even be traced, which XLA's message has said.
        return []
    return [
        Refusal(node.name, node.op, "XLA has no kernel for it")
        for node in nodes_without_kernel(graph, XLA)
    ]


def check_before_tpu(models: Sequence[Servable], batch_size: int) -> None:
    """Refuse SavedModels among `models` that XLA can't compile, before a TPU is opened for them.

    They are compiled on the processor, in a process of its own. What is no SavedModel computes
    on the host's processor.

    Raises:
        UnsupportedError, ModelError: See `check_signature_compiles`.
    """
    distinct = {model.path: model for model in models if _has_saved_model(model)}
    call_in_child(_check_all, list(distinct.values()), batch_size)


def _check_all(models: Sequence[Servable], batch_size: int) -> None:
    for model in models:
        check_signature_compiles(model, batch_size)


def _has_saved_model(model: Servable) -> bool:
    return any(holds_saved_model(folder) for folder in (model.serving_dir, model.path))


def check_signature_compiles(model: Servable, batch_size: int) -> None:
    """Refuse a SavedModel whose signature XLA can't compile for the shapes of one batch.

    Args:
        model: An artifact with a SavedModel.
        batch_size: Examples in one batch; a model's fixed batch stays as it is.

    Raises:
        UnsupportedError: It can't; the message names the operators.
        ModelError: The SavedModel is missing or broken.
    """
    import tensorflow as tf

    saved = SavedModel.open(model)
    inputs = saved.signature().inputs
    refused = text_refusals(name for name, spec in inputs.items() if spec.dtype == "object")
    if not refused:
        specs = [
            tf.TensorSpec(concrete_shape(spec, batch_size), spec.dtype) for spec in inputs.values()
        ]
        refused = compile_refusals(by_position(load_function(saved), inputs), specs)
    if refused:
        raise UnsupportedError(
            f"XLA can't compile {model.path}, which a TPU needs",
            received=refusals_in_short(refused),
            remedy="move these operators out of the model, as into the preparation of its"
            " inputs, or measure it on a processor or a GPU: --target cpu-server or gpu",
        )
