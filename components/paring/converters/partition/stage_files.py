"""A SavedModel whose stages are on devices of their own: written, and tried on CPUs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model import fingerprinting_utils

from paring.converters.partition.stage_graph import STAGE, StagedGraph, captured_handles
from paring.graphs.inlined_graph import InlinedGraph, import_nodes
from paring.graphs.serving_graph import save_signature
from paring.models.arguments import argument_specs
from paring.models.plain_paths import plain_path
from paring.models.saved_model import SavedModel
from paring.runtimes import Features

DeviceType = Literal["GPU", "CPU"]

# They are named for what they move.
_TRANSFERS = ("_Send", "_Recv")


@dataclass(frozen=True)
class Run:
    """Outputs and placement of a split model on logical CPU devices.

    Attributes:
        outputs: Outputs of each call.
        devices: The numbers of the devices where nodes of each stage ran; a stage of
            which TensorFlow left no node is not in it.
    """

    outputs: list[Features]
    devices: dict[int, set[int]]


def export_stages(
    staged: StagedGraph, graph: InlinedGraph, folder: Path, source: SavedModel
) -> None:
    """Write the graph as a SavedModel, as the signature that it was made of.

    `place_stages` says where its stages run. The source's other signatures are left out: they
    would need all weights on one device.

    Args:
        staged: The graph in stages.
        graph: The graph that it was made of.
        folder: Gets the SavedModel.
        source: The SavedModel that the graph was made of.
    """
    module = tf.Module()
    weights: dict[str, Any] = {}
    taken: set[str] = set()
    # Beside the source's, which are there too; a GPU may not hold them all.
    with tf.device("/device:CPU:0"):
        for placeholder, variable in staged.variables.items():
            stage = placeholder.partition("/")[0]
            name = _free_name(f"{stage}/{variable.name.partition(':')[0]}", taken)
            weights[placeholder] = tf.Variable(variable.read_value(), trainable=False, name=name)
    # A checkpoint takes no slashes in a name.
    module.weights = {weight.name.replace("/", "."): weight for weight in weights.values()}

    def serve(*tensors: Any) -> dict[str, Any]:
        given = dict(zip(graph.inputs.values(), tensors, strict=True))
        given |= captured_handles(weights)
        results = import_nodes(staged.graph_def, given, list(staged.outputs.values()), name="")
        return dict(zip(staged.outputs, results, strict=True))

    traced = tf.function(serve, autograph=False)
    concrete = traced.get_concrete_function(*argument_specs(graph.specs))
    save_signature(module, concrete, source, specs=graph.specs, folder=folder, others=False)


def place_stages(folder: Path, device_type: DeviceType) -> None:
    """Put each stage's nodes and variables on the device of its number.

    They are written into the SavedModel's file, so the devices need not be here.

    Args:
        folder: What `export_stages` wrote.
        device_type: The kind of the devices.
    """
    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for meta_graph in saved.meta_graphs:
        functions = meta_graph.graph_def.library.function
        _place(meta_graph.graph_def.node, device_type)
        for function in functions:
            _place(function.node_def, device_type)
        for item in meta_graph.object_graph_def.nodes:
            if item.WhichOneof("kind") == "variable" and (
                result := STAGE.match(item.variable.name)
            ):
                item.variable.device = f"/device:{device_type}:{result[1]}"
    file.write_bytes(saved.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(folder))


def run_on_cpus(model: SavedModel, devices: int, calls: Sequence[Features]) -> Run:
    """Run a SavedModel that is placed on CPU devices, in a session with `devices` of them.

    Sessions have devices of their own, whatever TensorFlow was configured with at its start.
    Nothing runs elsewhere than where it was put, or TensorFlow refuses it.

    Args:
        model: The SavedModel.
        devices: How many logical CPU devices there are.
        calls: The inputs of each call.
    """
    v1 = tf.compat.v1
    config = v1.ConfigProto(device_count={"CPU": devices, "GPU": 0}, allow_soft_placement=False)
    traced = v1.RunOptions(output_partition_graphs=True)
    about = v1.RunMetadata()
    outputs: list[Features] = []
    with v1.Graph().as_default(), v1.Session(config=config) as session:
        meta_graph = v1.saved_model.loader.load(session, ["serve"], str(plain_path(model.folder)))
        signature = meta_graph.signature_def[model.key]
        fetched = {name: item.name for name, item in signature.outputs.items()}
        for number, call in enumerate(calls):
            feed = {signature.inputs[name].name: array for name, array in call.items()}
            options = {} if number else {"options": traced, "run_metadata": about}
            outputs.append(session.run(fetched, feed, **options))
    return Run(outputs, _devices_of_stages(about.partition_graphs))


def _place(nodes: Iterable[Any], device_type: DeviceType) -> None:
    for node in nodes:
        if result := STAGE.match(node.name):
            node.device = f"/device:{device_type}:{result[1]}"


def _devices_of_stages(graphs: Iterable[Any]) -> dict[int, set[int]]:
    """Return the devices of each stage's nodes, except those that transfer tensors."""
    devices: dict[int, set[int]] = {}
    for graph in graphs:
        received = {node.name for node in graph.node if node.op == "_Recv"}
        for node in graph.node:
            result = STAGE.search(node.name)
            handed_on = node.op == "Identity" and node.input[0] in received
            if result and node.op not in _TRANSFERS and not handed_on:
                number = int(node.device.rpartition(":")[2])
                devices.setdefault(int(result[1]), set()).add(number)
    return devices


def _free_name(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    taken.add(free)
    return free
