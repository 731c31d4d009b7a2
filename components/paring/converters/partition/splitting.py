"""Splitting of a SavedModel, and the comparison of the result with it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tensorflow as tf
from google.protobuf.message import Error

from paring.converters.comparison import largest_difference
from paring.converters.partition.stage_files import export_stages, place_stages, run_on_cpus
from paring.converters.partition.stage_graph import StageGraph
from paring.converters.savedmodel.serving_work import in_short
from paring.converters.savedmodel.trial_inputs import TrialInputs
from paring.errors import UnsupportedError
from paring.graphs.graph import load_function
from paring.graphs.inlined_graph import inlined_graph
from paring.models.arguments import by_name, signature_specs
from paring.models.saved_model import SavedModel
from paring.runtimes import Features

_CPU = "/device:CPU:0"
_T = TypeVar("_T")


class Source:
    """The SavedModel that is split, in the memory of the CPU alone.

    Attributes:
        model: The SavedModel.
        outputs: For each compared call, an array [batch, ...] by output.
        own_difference: How far they are from themselves, called again.
    """

    def __init__(self, model: SavedModel, inputs: TrialInputs) -> None:
        """Load it and run it.

        Raises:
            ModelError: TensorFlow can't load it.
        """
        self.model = model
        with tf.device(_CPU):
            self._function = load_function(model)
            self.outputs = self._run(inputs.compared)
            self.own_difference = largest_difference(self.outputs, self._run(inputs.compared))

    def measure(self, features: Features) -> StageGraph:
        """Return the model's graph, with the size of every tensor in one call.

        Raises:
            UnsupportedError: It can't be cut; the message names what is in the way.
        """
        with tf.device(_CPU):
            return _or_refuse(lambda: StageGraph(inlined_graph(self._function), features))

    def _run(self, calls: Sequence[Features]) -> list[Features]:
        specs, call_by_name = signature_specs(self._function), by_name(self._function)
        result: list[Features] = []
        for call in calls:
            given = {name: tf.constant(array, specs[name].dtype) for name, array in call.items()}
            made = call_by_name(given)
            result.append({name: tensor.numpy() for name, tensor in made.items()})
        return result


def write_stages(graph: StageGraph, cuts: Sequence[int], folder: Path, source: Source) -> None:
    """Write a graph in stages as a SavedModel, each on a CPU device of its own.

    Args:
        graph: What `Source.measure` gave.
        cuts: As `paring.converters.partition.stage_layout.best_cuts` gives them.
        folder: Gets the SavedModel.
        source: What the graph was made of.

    Raises:
        UnsupportedError: TensorFlow can't write it.
    """
    _or_refuse(lambda: export_stages(graph.cut(cuts), graph.inlined, folder, source.model))
    place_stages(folder, "CPU")


def compare(
    source: Source, folder: Path, *, devices: int, inputs: TrialInputs, max_difference: float
) -> float:
    """Compare a split model's outputs with the source's, its stages on CPU devices.

    Returns:
        The difference; see `paring.converters.comparison.largest_difference`.

    Raises:
        UnsupportedError: It is larger than allowed, or a stage runs elsewhere.
    """
    made = SavedModel(folder, source.model.key)
    run = _or_refuse(lambda: run_on_cpus(made, devices, inputs.compared))
    for stage, result in sorted(run.devices.items()):
        if result != {stage}:
            raise UnsupportedError(
                f"TensorFlow does not keep stage {stage} on its device",
                received=f"CPU devices {', '.join(map(str, sorted(result)))}",
                remedy="give another number of devices, which cuts the model elsewhere",
            )
    difference = largest_difference(source.outputs, run.outputs)
    if not difference <= max_difference:
        raise UnsupportedError(
            "the model gives other outputs in stages than in one piece",
            received=f"a difference of {difference:.2g}, where {max_difference:g} is allowed",
            remedy="raise max_difference, if that is precise enough for you",
        )
    return difference


def _or_refuse(action: Callable[[], _T]) -> _T:
    """Return the result of `action`; raise TensorFlow's error as one about the model."""
    try:
        return action()
    except (
        tf.errors.OpError,
        ValueError,
        TypeError,
        KeyError,
        NotImplementedError,
        Error,
    ) as error:
        raise UnsupportedError(
            "this model can't be split",
            received=in_short(error),
            remedy="serve it as it is, on a device with more memory",
        ) from error
