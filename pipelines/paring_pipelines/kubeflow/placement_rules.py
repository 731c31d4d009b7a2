"""Placement of each node of a Dag on a cluster, by files such as k8s/runtime.toml.

A file names images and pools of machines, and has rules that match nodes by their step
or their id. Rules apply in the file's order, and a later one overrides an earlier one
field by field; so does a later file. Of `env`, labels, annotations, the security context
and volumes, each key is a field of its own; lists are overridden as a whole.
docs/kubeflow.md has all fields.

What can't work is refused here, before anything is compiled, with the file, the table
and the key that say so.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from paring.tensorrt.library import RTX, SERVER, TITLES
from paring.tensorrt.rtx import CAPABILITIES
from paring_pipelines.kubeflow.formats import quantity
from paring_pipelines.kubeflow.placement import Placement
from paring_pipelines.kubeflow.placement_fields import NodeFields
from paring_pipelines.kubeflow.placement_file import Pool
from paring_pipelines.kubeflow.placement_layers import (
    check_effects,
    check_node,
    check_step,
    merge_files,
)
from paring_pipelines.kubeflow.placement_values import NONE, chips
from paring_pipelines.pipeline.dag import Dag

_CAPABILITIES = {
    "nvidia-p100": "6.0",
    "nvidia-p4": "6.1",
    "nvidia-v100": "7.0",
    "nvidia-t4": "7.5",
    "nvidia-a100": "8.0",
    "nvidia-a10": "8.6",
    "nvidia-l4": "8.9",
    "nvidia-l40s": "8.9",
    "nvidia-h100": "9.0",
    "nvidia-h200": "9.0",
    "nvidia-gh200": "9.0",
    "nvidia-b200": "10.0",
    "nvidia-gb200": "10.0",
    "nvidia-rtx-pro-6000": "12.0",
}
"""The compute capabilities of known accelerators, as NVIDIA lists them."""

_CURRENT = "current"
"""The compute capability of what is built for the GPU that it is built on."""


def place(
    dag: Dag, files: Sequence[Path], *, target: str, image: str | None = None
) -> dict[str, Placement]:
    """Return the placement of each node of `dag`, by its id.

    Args:
        dag: The wiring.
        files: Such as k8s/runtime.toml; a later one goes over an earlier one.
        target: Whose own rules apply after those for all targets.
        image: The image of every node, in place of those that the files name.

    Raises:
        ParameterError: A file can't be read, names what there is not, or asks for what
            can't work; the message names the file, the table and the key.
    """
    runtime = merge_files(files, target)
    for layer in (*runtime.layers, *runtime.others):
        check_step(dag, layer)
    for layer in runtime.layers:
        check_node(dag, layer)
    checked: set[tuple[str, str, bool]] = set()
    result = {node.id: NodeFields(node, runtime, image, checked) for node in dag.nodes.values()}
    for node in dag.nodes.values():
        for layer in runtime.layers:
            if layer.fits(node):
                result[node.id].override(layer)
    check_effects(dag, runtime.layers)
    _check_product(dag, result)
    _check_bound(dag, result)
    _check_alone(dag, result)
    return {node_id: fields.placement() for node_id, fields in result.items()}


def _check_alone(dag: Dag, result: Mapping[str, NodeFields]) -> None:
    """Refuse two tasks that measure on one machine, and tasks larger than a machine.

    Only pools that state the size of their machines are checked. A task that measures must
    not fit beside itself either, since there may be another run.
    """
    measuring: dict[str, list[NodeFields]] = {}
    for node in dag.nodes.values():
        fields = result[node.id]
        pool = fields.pool()
        machine = quantity(pool.machine_cpu) if pool.machine_cpu else None
        if machine is not None and fields.cores() > machine:
            raise fields.refusal(
                fields.cores_key(),
                f"a machine of pool {fields.pool_name()} has {pool.machine_cpu} cores, so the"
                " task would wait for ever",
                received=f"{fields.cores():g} cores",
                remedy="request less, or place it on another pool",
            )
        whole = _machine_accelerators(pool)
        if whole is not None and fields.accelerators(pool) > whole:
            raise fields.refusal(
                "accelerator",
                f"a machine of pool {fields.pool_name()} has {whole}, so the task would wait"
                " for ever",
                received=f"{fields.accelerators(pool)} accelerators",
                remedy="request less, or place it on another pool",
            )
        if node.step.machine_dependent and (machine is not None or whole is not None):
            measuring.setdefault(fields.pool_name(), []).append(fields)
    for name, those in measuring.items():
        for position, item in enumerate(those):
            for other in those[position:]:
                _check_pair(name, item, other)


def _check_pair(name: str, item: NodeFields, other: NodeFields) -> None:
    """Refuse two tasks that measure and fit on one machine of the pool `name`."""
    pool = item.pool()
    whole = _machine_accelerators(pool)
    if whole is not None and item.accelerators(pool) + other.accelerators(pool) > whole:
        return
    small, large = sorted((item, other), key=lambda fields: fields.cores())
    beside = "another run's" if item is other else large.node_id
    if pool.machine_cpu is None:
        raise small.refusal(
            "accelerator_count" if small.has("accelerator_count") else "pool",
            f"this task and {beside} both measure, and both fit on one machine of pool {name}"
            f" ({whole} accelerators), where they would distort each other's figures",
            received=f"{item.accelerators(pool)} and {other.accelerators(pool)} accelerators",
            remedy=f"request more than {(whole or 0) // 2} accelerators, or give the pool"
            " machine_cpu and the task more than half of it",
        )
    if item.cores() + other.cores() <= quantity(pool.machine_cpu):
        raise small.refusal(
            small.cores_key(),
            f"this task and {beside} both measure, and both fit on one machine of pool {name}"
            f" ({pool.machine_cpu} cores), where they would distort each other's figures",
            received=f"{small.cores():g} cores",
            remedy=f"request more than {quantity(pool.machine_cpu) / 2:g} cores",
        )


def _machine_accelerators(pool: Pool) -> int | None:
    return chips(pool.topology) if pool.topology else pool.machine_accelerators


def _capability(accelerator: str) -> str | None:
    """Return the compute capability of an accelerator, also by the names of GKE; None if unknown.

    GKE adds "tesla-" before the model and the size of the memory behind it.
    """
    name = accelerator.replace("nvidia-tesla-", "nvidia-")
    return next(
        (value for key, value in _CAPABILITIES.items() if f"{name}-".startswith(f"{key}-")), None
    )


def _check_product(dag: Dag, result: Mapping[str, NodeFields]) -> None:
    """Refuse engines of TensorRT for RTX for the GPU of the node, if it builds none for it."""
    for node in dag.nodes.values():
        parameters = node.parameters
        if parameters.get("product") != RTX:
            continue
        if parameters.get("compute_capability", _CURRENT) != _CURRENT:
            continue
        here = result[node.id]
        capability = _capability(here.accelerator)
        if capability is None or capability in CAPABILITIES:
            continue
        raise here.refusal(
            "accelerator",
            f"{TITLES[RTX]} builds no engines for compute capability {capability}, only for"
            f" {', '.join(CAPABILITIES)}",
            received=here.accelerator,
            remedy="place it and what runs its engine on another pool, or give a recipe with"
            ' { step = "build_tensorrt", product = "server" } and, as its image, one of yours'
            f" with {TITLES[SERVER]} for servers",
        )


def _check_bound(dag: Dag, result: Mapping[str, NodeFields]) -> None:
    """Refuse to run on one kind of hardware what was built for another.

    What is built for a stated compute capability may be built anywhere.
    """
    for node in dag.nodes.values():
        if not node.step.runs_model:
            continue
        for edge in node.edges():
            if not dag.type_of(edge).bound_to_hardware or edge.node in dag.sources:
                continue
            there, here = result[edge.node].accelerator, result[node.id].accelerator
            stated = dag.nodes[edge.node].parameters.get("compute_capability", _CURRENT)
            if stated == _CURRENT:
                wrong, built = there != here, f"on {there}"
                remedy = "give both nodes the same accelerator"
            else:
                # Of one that is not known here TensorRT's runtime says whether it fits.
                fits = (_capability(here) or stated) == stated
                wrong = there != NONE if here == NONE else not fits
                built = f"for compute capability {stated}"
                remedy = f"run it on a GPU of compute capability {stated}, or build it for another"
            if wrong:
                raise result[node.id if here != NONE else edge.node].refusal(
                    "accelerator",
                    f"{edge.node} builds a {dag.type_of(edge).__name__} {built},"
                    f" and {node.id} runs it on {here}, where it does not load",
                    received=here if here != NONE else there,
                    remedy=remedy,
                )
