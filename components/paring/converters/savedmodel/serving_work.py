"""Building and comparing of a SavedModel's forms: what needs TensorFlow.

What one function leaves for the next is in the task's folder, so that each can run in a process
of its own (`paring.system.child_calls`), whose memory is free when two forms are timed. Each
leaves room on a GPU for the children that time.
"""

import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paring.artifacts import Examples, Model
from paring.converters.comparison import largest_difference
from paring.converters.savedmodel.serving_forms import GraphVariant, GraphVariants
from paring.converters.savedmodel.trial_inputs import (
    TrialInputs,
    check_batches,
    check_repeatable,
    draw_trial_inputs,
)
from paring.errors import ParingError, UnsupportedError, first_line
from paring.models.gpu_memory import set_gpu_memory
from paring.models.same_signatures import dropped_signatures
from paring.models.saved_model import SavedModel
from paring.runtimes import Features
from paring.runtimes.savedmodel import SavedModelRuntime


@dataclass(frozen=True)
class Task:
    """A SavedModel, and the forms of it to try.

    Attributes:
        model: The model.
        examples: What it is compared on; None for random numbers.
        folder: An empty folder for what the functions of this module leave there.
        variables: As in `paring.graphs.serving_graph.export`.
        fixed_batch: As there.
        precision: Half precisions to try.
        xla: Whether to try XLA.
        max_difference: Largest difference from itself.
        comparison_size: Number of compared examples.
        batch_size: Examples in a timed call; 0 for 1, or the model's fixed batch.
        seed: Seed of the draw of inputs.
    """

    model: Model
    examples: Examples | None
    folder: Path
    variables: Literal["frozen", "kept"]
    fixed_batch: int
    precision: Literal["auto", "float32", "float16", "bfloat16"]
    xla: bool
    max_difference: float
    comparison_size: int
    batch_size: int
    seed: int

    @property
    def timed_inputs(self) -> Path:
        """An .npz file of the timed inputs, as `paring.benchmarking.measure.Spec` has it."""
        return self.folder / "inputs.npz"

    @property
    def forms_file(self) -> Path:
        """The pickled `GraphVariants`."""
        return self.folder / "forms.pickle"

    @property
    def comparison_file(self) -> Path:
        """The pickled `Comparison`."""
        return self.folder / "comparison.pickle"


@dataclass(frozen=True)
class Prepared:
    """Findings of `prepare`.

    Attributes:
        changes: See `GraphVariants.changes`.
        names: The signature's inputs, in the order of `Task.timed_inputs`.
        drawn_from: See `TrialInputs`.
        variation: How far the source's outputs for one example are from those for another.
        source_operators: Operators of the signature; None if the model can't be frozen.
        others: The model's other signatures, which each form has as they are.
    """

    changes: Mapping[str, Mapping[str, Any]]
    names: list[str]
    drawn_from: str
    variation: float
    source_operators: int | None
    others: tuple[str, ...]


def prepare(task: Task) -> Prepared:
    """Run the model on inputs, and freeze its graph; both are left in the task's folder.

    Raises:
        ParameterError: The model's own batch size is fixed, and another was requested.
        ModelError, ExamplesError, UnsupportedError: See `paring.steps.optimize_savedmodel`.
    """
    from paring.graphs.graph import load_function

    set_gpu_memory(0)
    source = SavedModel.open(task.model)
    signature = source.signature()
    sizes = {"fixed_batch": task.fixed_batch, "batch_size": task.batch_size}
    batch = check_batches(signature, **sizes) or task.batch_size or 1
    inputs = draw_trial_inputs(
        task.examples, signature, size=task.comparison_size, batch=batch, seed=task.seed
    )
    comparison = Comparison(source, inputs, task.fixed_batch)
    check_repeatable(comparison.own_difference, task.max_difference)
    task.comparison_file.write_bytes(pickle.dumps(comparison))
    names = list(inputs.timed[0])
    arrays: dict[str, Any] = {
        str(index): np.stack([batch[name] for batch in inputs.timed])
        for index, name in enumerate(names)
    }
    np.savez(task.timed_inputs, **arrays)
    forms = GraphVariants(
        load_function(source), variables=task.variables, fixed_batch=task.fixed_batch
    )
    task.forms_file.write_bytes(pickle.dumps(forms))
    return Prepared(
        forms.changes(task.precision, task.xla),
        names,
        inputs.drawn_from,
        comparison.variation,
        None if forms.graph is None else forms.graph.source_operators,
        dropped_signatures(source),
    )


def build(task: Task, form: GraphVariant, folder: Path) -> int:
    """Write the SavedModel of a form, and return the number of its operators.

    Raises:
        UnsupportedError: The model has no such form, or TensorFlow can't build it.
    """
    set_gpu_memory(0)
    forms: GraphVariants = pickle.loads(task.forms_file.read_bytes())
    with _refusals():
        return forms.build(form, folder, SavedModel.open(task.model)).operators


def build_again(task: Task, folder: Path) -> None:
    """Write the source with a second signature for the fixed batch."""
    from paring.graphs.graph import load_function
    from paring.graphs.serving_graph import export_again

    set_gpu_memory(0)
    source = SavedModel.open(task.model)
    export_again(load_function(source), folder, source, fixed_batch=task.fixed_batch)


def difference(task: Task, folder: Path) -> float:
    """Return the difference of the outputs of a form from the source's.

    Raises:
        UnsupportedError: TensorFlow can't run it.
    """
    set_gpu_memory(0)
    comparison: Comparison = pickle.loads(task.comparison_file.read_bytes())
    with _refusals():
        return comparison.difference(folder)


class Comparison:
    """Outputs of a source, with which those of its forms are compared.

    Attributes:
        own_difference: How far the source's outputs are from themselves, called again.
        variation: How far its outputs for one example are from those for another.
    """

    def __init__(self, source: SavedModel, inputs: TrialInputs, fixed_batch: int) -> None:
        """Run the source.

        Args:
            source: The source.
            inputs: What is compared.
            fixed_batch: The batch of the second signature that models other than the source
                have; 0 if there is none.
        """
        from paring.graphs.serving_graph import fixed_key

        self._compared = {source.key: inputs.compared}
        if fixed_batch:
            self._compared[fixed_key(fixed_batch)] = [inputs.batch_of(fixed_batch)]
        self._expected = {key: _outputs(source, calls) for key, calls in self._compared.items()}
        # Within one load, since random numbers may start over with each.
        twice = _outputs(source, [*inputs.compared, *inputs.compared])
        calls = len(inputs.compared)
        self.own_difference = largest_difference(twice[:calls], twice[calls:])
        self.variation = largest_difference(
            twice[:calls], [_shifted(item) for item in twice[:calls]]
        )

    def difference(self, folder: Path) -> float:
        """Return the difference of the outputs from the source's; see `largest_difference`."""
        return max(
            largest_difference(self._expected[key], _outputs(SavedModel(folder, key), calls))
            for key, calls in self._compared.items()
        )


def in_short(error: Exception) -> str:
    """Return an error in one line, with what a ParingError has received."""
    if isinstance(error, ParingError) and error.received:
        return f"{error.what} ({error.received})"
    return first_line(error)


@contextmanager
def _refusals() -> Iterator[None]:
    """Raise TensorFlow's errors about a form as errors of ours."""
    import tensorflow as tf

    try:
        yield
    except (tf.errors.OpError, NotImplementedError, TypeError, ValueError) as error:
        # TensorFlow names operators without such a kernel, and what XLA can't compile.
        raise UnsupportedError(in_short(error), remedy="leave this form out") from error


def _shifted(call: Features) -> Features:
    """Return the outputs of one call, shifted by one example."""
    return {
        name: np.roll(array, 1, axis=0) if array.ndim else array for name, array in call.items()
    }


def _outputs(model: SavedModel, calls: Sequence[Features]) -> list[Features]:
    runtime = SavedModelRuntime(model)
    try:
        return [runtime.run(call) for call in calls]
    finally:
        runtime.close()
