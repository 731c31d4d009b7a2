"""Inputs on which two models are compared and timed: drawn examples or random numbers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paring.artifacts import Examples
from paring.data.examples import draw_rows, open_split
from paring.errors import ParameterError, UnsupportedError
from paring.models.signature import Signature
from paring.runtimes import Features

# Different inputs, so that no data-dependent path is timed alone; as in benchmark.
_BATCHES = 16
# Examples in a compared call, where the model leaves that open.
_COMPARED_BATCH = 16


@dataclass(frozen=True)
class TrialInputs:
    """Inputs of a model.

    Attributes:
        compared: Those of each call whose outputs are compared.
        timed: Those of each call that is timed, all of one shape.
        drawn_from: "examples" or "random inputs".
    """

    compared: list[Features]
    timed: list[Features]
    drawn_from: str

    def batch_of(self, size: int) -> Features:
        """Return a batch of so many of the compared examples, used again where they are fewer."""
        names = self.compared[0]
        whole = {name: np.concatenate([call[name] for call in self.compared]) for name in names}
        return {name: np.resize(array, (size, *array.shape[1:])) for name, array in whole.items()}


def fixed_batch_of(signature: Signature) -> int | None:
    """Return the only batch that the signature takes; None if it takes any.

    Raises:
        UnsupportedError: An input has no batch, or takes text.
    """
    batch: int | None = None
    for spec in signature.inputs.values():
        if spec.dtype == "object":
            raise UnsupportedError(
                f"input {spec.name!r} takes text, on which models can't be compared and timed",
                received=signature.beside(str(spec)),
                remedy=signature.advice(
                    "export the model with what it looks up for the text as its input"
                ),
            )
        if not spec.shape:
            raise UnsupportedError(
                f"input {spec.name!r} has no batch dimension",
                remedy="export the model with inputs [batch, ...]",
            )
        batch = batch or spec.shape[0]
    return batch


def check_batches(signature: Signature, **asked: int) -> int | None:
    """Return `fixed_batch_of`, and check the requested batch sizes against it.

    Args:
        signature: The model's.
        asked: Batches by the names of their parameters; 0 leaves it to the model.

    Raises:
        ParameterError: Another batch size than the only one is requested.
        UnsupportedError: As `fixed_batch_of`.
    """
    own = fixed_batch_of(signature)
    for name, size in asked.items():
        if own and size not in (0, own):
            raise ParameterError(
                f"{name}: the model takes batches of {own} alone",
                received=size,
                remedy=f"give {own}, or export the model with a batch dimension of None",
            )
    return own


def check_repeatable(own_difference: float, max_difference: float) -> None:
    """Refuse a model that can't be compared with another: it differs from itself.

    Args:
        own_difference: Of its outputs, called twice on the same inputs; may be nan.
        max_difference: What is allowed.

    Raises:
        UnsupportedError: It differs by more.
    """
    if not own_difference <= max_difference:
        raise UnsupportedError(
            "this model has other outputs for the same inputs in each call",
            received=f"a difference of {own_difference:.2g} from itself",
            remedy="export it for inference: with training=False, and without augmentation",
        )


def draw_trial_inputs(
    examples: Examples | None, signature: Signature, *, size: int, batch: int, seed: int
) -> TrialInputs:
    """Draw inputs for a trial.

    Args:
        examples: Their train split is drawn from, each class in its share; None for
            floats uniform in [0, 1), and zeros for other types.
        signature: The model's.
        size: How many examples are compared; all, if there are fewer.
        batch: Examples in a timed call.
        seed: Of the draw.

    Raises:
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: An input has no batch, or takes text.
    """
    own = fixed_batch_of(signature)
    if examples is None:
        from paring.converters.tflite.conversion import random_features

        single = Signature(
            {
                name: type(spec)(name, (None, *spec.shape[1:]), spec.dtype)
                for name, spec in signature.inputs.items()
            },
            signature.outputs,
        )
        drawn = [random_features(single, seed + index) for index in range(size)]
        rows = {name: np.concatenate([item[name] for item in drawn]) for name in single.inputs}
    else:
        split = open_split(examples, "train", signature)
        chosen = draw_rows(split.labels, np.arange(split.count), limit=size, seed=seed)
        rows = split.take(chosen).features
    count = len(next(iter(rows.values())))
    compared_batch = own or min(_COMPARED_BATCH, count)
    calls = -(-count // compared_batch)
    return TrialInputs(
        # Where they don't fill the last call, the first ones are used again.
        _reshaped(rows, np.arange(calls * compared_batch) % count, calls),
        _reshaped(rows, np.arange(_BATCHES * batch) % count, _BATCHES),
        "random inputs" if examples is None else "examples",
    )


def _reshaped(rows: Features, places: NDArray[np.int64], calls: int) -> list[Features]:
    """Return the rows at `places`, in so many calls of one size."""
    return [{name: array[part] for name, array in rows.items()} for part in np.split(places, calls)]
