"""Partition of a SavedModel into stages on several devices."""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from paring.artifacts import Examples, Model, SplitModel, content_bytes
from paring.errors import UnsupportedError
from paring.step import Input, Output, step

if TYPE_CHECKING:
    from paring.converters.partition.stage_layout import Workload

_MIB = 1 << 20


@step(version="4")
def split_model(
    model: Input[Model],
    examples: Input[Examples | None],
    split: Output[SplitModel],
    *,
    devices: Annotated[int, Ge(2), Le(64)] = 2,
    device_type: Literal["GPU", "CPU"] = "GPU",
    batch_size: Annotated[int, Ge(0), Le(65536)] = 0,
    device_memory_mb: Annotated[int, Ge(0)] = 0,
    max_difference: Annotated[float, Ge(0), Le(1)] = 1e-4,
    comparison_size: Annotated[int, Ge(1)] = 64,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Split a SavedModel that one device can't hold into stages on several devices.

    The operations of the serving signature, in the order in which the outputs need them,
    are cut into as many stages as there are devices. A stage needs the bytes of the weights
    that it reads and of the tensors that are live at once in it; those are measured by
    running the model. Of all layouts, the one whose largest stage is smallest is chosen,
    and of those the one with the fewest bytes across its cuts: see
    `paring.converters.partition.stage_layout`. Weights that several stages read are in each.

    Stages run one after another, so that a call takes no less time than before.

    The result keeps the model's signature, and no other one, since each would need all weights
    on one device; `dropped_signatures` lists them. It has no Keras form. Its outputs are
    compared with the source's, with each stage on a logical CPU device of its own.
    `stages.json` has for each stage:

    - `device`: the device of the stage;
    - `operations`, `first`, `last`: the number of operations, and the names of both ends;
    - `weight_bytes`, `activation_bytes`: the memory of weights and of live tensors;
    - `crossing_bytes`: the bytes of tensors computed up to its end that are read after it.

    Examples:
        >>> split = paring.split_model(network, arrays, devices=2, device_type="CPU")
        >>> split.largest_stage_bytes < split.single_device_bytes
        True

    Args:
        model: Any model with a SavedModel.
        examples: The model is run and compared on the train split; without examples on random
            numbers, and on zeros where the model takes integers.
        split: The SavedModel, and `stages.json`.
        devices: Number of devices, and of stages.
        device_type: Kind of the devices; the result runs on the first ones of this kind. They
            need not be in this machine.
        batch_size: Examples in the call that is measured; 0 for 1, or the model's fixed
            batch.
        device_memory_mb: MiB that a stage may need; 0 for no limit.
        max_difference: Largest absolute difference of an output, over the largest
            absolute value of that output.
        comparison_size: Number of examples on which outputs are compared.
        seed: Seed of the drawn examples.

    Raises:
        ParameterError: The model's own batch size is fixed, and another was requested.
        ModelError: The SavedModel is missing or broken.
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: The model takes text, has lookup tables, fewer operations than
            there are devices, or stages that don't fit into `device_memory_mb`.
    """
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    from paring.converters.partition.splitting import Source, compare, write_stages
    from paring.converters.partition.stage_files import place_stages
    from paring.converters.partition.stage_layout import best_cuts, largest_stage
    from paring.converters.savedmodel.trial_inputs import (
        check_batches,
        check_repeatable,
        draw_trial_inputs,
    )
    from paring.models.gpu_memory import set_gpu_memory
    from paring.models.same_signatures import note_dropped
    from paring.models.saved_model import SavedModel

    saved = SavedModel.open(model)
    signature = saved.signature()
    own = check_batches(signature, batch_size=batch_size)
    # A GPU that is here is not asked to hold the whole model.
    set_gpu_memory(0)
    inputs = draw_trial_inputs(examples, signature, size=comparison_size, batch=own or 1, seed=seed)
    batch = own or batch_size or 1
    source = Source(saved, inputs)
    check_repeatable(source.own_difference, max_difference)
    graph = source.measure(inputs.batch_of(batch))
    work = graph.work
    if work.count < devices:
        raise UnsupportedError(
            f"this model has fewer operations than the {devices} devices",
            received=f"operations {', '.join(graph.places)}",
            remedy=f"give devices = {max(2, work.count)} at the most",
        )
    cuts = best_cuts(work, devices)
    rows = _rows(work, cuts, places=graph.places, device_type=device_type)
    if device_memory_mb:
        _check_fits(work, rows, limit_mb=device_memory_mb, batch=batch)
    write_stages(graph, cuts, split.serving_dir, source)
    split.difference = compare(
        source, split.serving_dir, devices=devices, inputs=inputs, max_difference=max_difference
    )
    place_stages(split.serving_dir, device_type)

    note_dropped(saved, split)
    split.keras = "none"
    split.size_bytes = content_bytes(split.serving_dir)
    split.applied = (f"split into {devices} stages",)
    split.variables = "kept"
    split.compared_on = inputs.drawn_from
    split.source_operators = graph.inlined.source_operators
    split.devices, split.device_type, split.batch_size = devices, device_type, batch
    split.largest_stage_bytes = largest_stage(work, cuts)
    split.single_device_bytes = work.stage_bytes(0, work.count)
    split.crossing_bytes = sum(row["crossing_bytes"] for row in rows)
    split.note = (
        f"made for {device_type}:0 to {device_type}:{devices - 1}; where one of them is missing,"
        " TensorFlow runs its stage on another device"
    )
    content = {
        "batch_size": batch,
        "largest_stage_bytes": split.largest_stage_bytes,
        "single_device_bytes": split.single_device_bytes,
        "stages": rows,
    }
    split.stages_file.write_text(json.dumps(content, indent=2) + "\n")


def _rows(
    work: "Workload", cuts: Sequence[int], *, places: Sequence[str], device_type: str
) -> list[dict[str, Any]]:
    return [
        {
            "device": f"/device:{device_type}:{number}",
            "operations": end - start,
            "first": places[start],
            "last": places[end - 1],
            "weight_bytes": work.weight_bytes(start, end),
            "activation_bytes": work.activation_bytes(start, end),
            "crossing_bytes": work.crossing_bytes(end),
        }
        for number, (start, end) in enumerate(pairwise(cuts))
    ]


def _check_fits(work: "Workload", rows: list[dict[str, Any]], *, limit_mb: int, batch: int) -> None:
    """Refuse stages that need more than the limit."""
    limit = limit_mb * _MIB
    largest = max(rows, key=lambda row: int(row["weight_bytes"] + row["activation_bytes"]))
    needed = largest["weight_bytes"] + largest["activation_bytes"]
    if needed <= limit:
        return
    from paring.converters.partition.stage_layout import stages_within

    enough = stages_within(work, limit)
    weights, activations = (
        f"{largest[name] / _MIB:.3f}" for name in ("weight_bytes", "activation_bytes")
    )
    raise UnsupportedError(
        f"the best layout on {len(rows)} devices does not fit: {largest['device']} needs"
        f" {needed / _MIB:.3f} MiB, {weights} for weights and {activations} for activations in"
        f" a batch of {batch}",
        received=f"device_memory_mb {limit_mb}",
        remedy="give a smaller batch_size, or devices with more memory; one operation alone"
        " needs more than that"
        if enough is None
        else f"give devices = {enough}, a smaller batch_size, or devices with more memory",
    )
