"""Readiness of a model for TPUs, and the cost of its padding there."""

import json
import logging
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from paring.artifacts import Model, TPUReadiness, content_digest
from paring.step import Input, Output, step

_log = logging.getLogger(__name__)

_SHOWN = 5
"""How many refusals the artifact names itself; the file has all."""


@step(version="2")
def check_tpu(
    model: Input[Model],
    readiness: Output[TPUReadiness],
    *,
    batch_size: Annotated[int, Ge(1), Le(65536)] = 128,
    precision: Literal["bfloat16", "float32"] = "bfloat16",
) -> None:
    """Compile a model for fixed shapes by XLA and estimate a TPU's padding.

    No TPU is needed. The model is converted to XLA's HLO on this machine, the first step of
    compilation for TPUs too; operators of text, of Python, without an XLA kernel, and results
    of no fixed shape are named. Then each product and convolution is laid out in a TPU's tiles
    and matrix unit, by the method of `paring.audit.tpu`. `tpu.json` holds:

    - `source`: the digest of the model's bytes;
    - `batch_size`, `precision`: those that the model was checked for;
    - `ready`, and `refusals`: place, kind and reason of each;
    - `flops`, `padded_flops`, `size_bytes`, `padded_bytes`: of all products and
      convolutions for one batch, without and with padding, at least;
    - `compute_waste`, `memory_waste`: the shares that are padding;
    - `uncounted`: operators with products of their own inside, as loops, and products of
      unknown shape;
    - `operators`: each product and convolution, the one that wastes most first.

    Examples:
        >>> paring.check_tpu(network, batch_size=128).ready
        1

    Args:
        model: Any model with a SavedModel.
        readiness: Result of the check; a model that is not ready is no failure.
        batch_size: Examples in one batch; a model's fixed batch stays as it is.
        precision: Type that the TPU computes in. bfloat16 is its native one, whatever the model's.

    Raises:
        ModelError: The SavedModel is missing or broken.
        UnsupportedError: Its graph can't be frozen.
    """
    from paring.audit import Subject
    from paring.audit.tpu import paddings, uncounted
    from paring.audit.xla import refusals
    from paring.graphs import graph
    from paring.models.saved_model import SavedModel

    saved = SavedModel.open(model)
    signature = saved.signature()
    function = graph.load_function(saved)
    frozen = graph.frozen_graph(function, signature, batch_size)
    subject = Subject(saved.meta_graph, signature, frozen)
    refused = refusals(subject, function, batch_size)
    padded = sorted(paddings(subject, precision), key=lambda item: item.flops - item.padded_flops)
    totals = {
        name: sum(getattr(item, name) for item in padded)
        for name in ("flops", "padded_flops", "size_bytes", "padded_bytes")
    }
    readiness.ready = not refused
    named = [str(item) for item in refused]
    readiness.refused = tuple(named[:_SHOWN])
    if len(named) > _SHOWN:
        readiness.refused += (f"and {len(named) - _SHOWN} more",)
    if padded:
        readiness.compute_waste = 1 - totals["flops"] / totals["padded_flops"]
        readiness.memory_waste = 1 - totals["size_bytes"] / totals["padded_bytes"]
    sizes = [graph.concrete_shape(spec, batch_size) for spec in signature.inputs.values()]
    content: dict[str, Any] = {
        "source": model.digest or content_digest(model.path),
        "batch_size": max((shape[0] for shape in sizes if shape), default=1),
        "precision": precision,
        "ready": not refused,
        "refusals": [vars(item) for item in refused],
        **totals,
        "compute_waste": readiness.compute_waste,
        "memory_waste": readiness.memory_waste,
        "uncounted": uncounted(subject),
        "operators": [{**vars(item), "waste": item.waste} for item in padded],
    }
    readiness.file.write_text(json.dumps(content, indent=2) + "\n")
    for result in named:
        _log.info("refused: %s", result)
    for item in padded[:_SHOWN]:
        _log.info(
            "%s (%s): %.0f%% of its operations on padding", item.place, item.kind, 100 * item.waste
        )
