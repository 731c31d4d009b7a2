"""The signatures of a SavedModel besides the one that is optimized, passed on as they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import tensorflow as tf

from paring.errors import UnsupportedError, first_line
from paring.models.arguments import argument_specs, by_name, by_position, signature_specs
from paring.models.quiet import silent_stderr
from paring.models.same_signatures import dropped_signatures
from paring.models.saved_model import SavedModel
from paring.models.signature_loading import load_signatures

_OPEN_SIZE: Final = 2


@dataclass(frozen=True)
class PassedSignature:
    """A signature that computes what it does in its source.

    Attributes:
        function: Concrete function, traced with `argument_specs`.
        specs: tf.TensorSpec of each input, by its name.
    """

    function: Any
    specs: Mapping[str, Any]


def other_signatures(source: SavedModel, module: Any) -> dict[str, PassedSignature]:
    """Return the signatures of a SavedModel that don't compute what its own does, by name.

    Args:
        source: The SavedModel.
        module: tf.Module that is saved with them; it gets their variables, tables and files. Of a
            source without such signatures nothing is loaded.

    Raises:
        ModelError: TensorFlow can't load it.
        UnsupportedError: TensorFlow can't take a signature on.
    """
    keys = dropped_signatures(source)
    if not keys:
        return {}
    loaded = load_signatures(source)
    result: dict[str, PassedSignature] = {}
    variables: dict[int, Any] = {}
    # Of TensorFlow 1, whose tables are made and filled by operators of the graph itself.
    others = not source.meta_graph.object_graph_def.nodes
    for key in keys:
        function = loaded.signatures[key]
        try:
            specs = signature_specs(function)
            traced = tf.function(by_position(function, specs), autograph=False)
            concrete = traced.get_concrete_function(*argument_specs(specs))
        except (tf.errors.OpError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise UnsupportedError(
                f"the model's signature {key!r} can't be written again",
                received=first_line(error),
                remedy="export the model without this signature, or serve it as it is",
            ) from error
        result[key] = PassedSignature(concrete, specs)
        variables |= {id(item.handle): item for item in function.variables}
        others |= any(
            item.dtype == tf.resource and id(item) not in variables
            for item in function.captured_inputs
        )
    module.passed = list(variables.values())
    # Functions hold their variables weakly.
    module.passed_functions_owner = loaded if others else None
    return result


def check_passed(source: SavedModel, folder: Path) -> None:
    """Check that another SavedModel has the other signatures of its source as they are.

    Each is called on zeros and empty strings, where the source can be and gives the same twice.

    Args:
        source: The SavedModel.
        folder: What was made of it.

    Raises:
        UnsupportedError: A signature has other inputs or outputs, or gives others.
    """
    keys = dropped_signatures(source)
    if not keys:
        return
    made = SavedModel(folder, source.key)
    before, after = load_signatures(source), load_signatures(made)
    for key in keys:
        if key not in made.keys or made.signature(key) != source.signature(key):
            raise _changed(key, "with other inputs or outputs")
        features = _blank_inputs(before.signatures[key])
        try:
            expected, again = (_called(before, key, features) for _ in range(2))
        except (tf.errors.OpError, ValueError, TypeError):
            # Such as parsing, which takes no empty string.
            continue
        if not _equal(expected, again):
            continue
        try:
            result = _called(after, key, features)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise _changed(key, first_line(error)) from error
        if not _equal(expected, result):
            raise _changed(key, "other outputs")


def _changed(key: str, received: str) -> UnsupportedError:
    return UnsupportedError(
        f"the model's signature {key!r} does not stay as it is when it is written again",
        received=received,
        remedy="export the model without this signature, or serve it as it is",
    )


def _blank_inputs(function: Any) -> dict[str, Any]:
    """Return zeros and empty strings for a loaded signature, 2 where a size is open."""
    return {
        name: tf.zeros([size or _OPEN_SIZE for size in spec.shape.as_list()], spec.dtype)
        for name, spec in signature_specs(function).items()
        if spec.shape.rank is not None
    }


def _called(loaded: Any, key: str, features: Mapping[str, Any]) -> dict[str, Any]:
    # TensorFlow writes there what it raises too.
    with silent_stderr():
        outputs = by_name(loaded.signatures[key])(features)
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def _equal(expected: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    """Return whether outputs are the same, bit for bit; NaN is equal to itself."""
    return expected.keys() == result.keys() and all(
        expected[name].dtype == result[name].dtype
        and expected[name].tolist() == result[name].tolist()
        if expected[name].dtype == object
        else expected[name].tobytes() == result[name].tobytes()
        for name in expected
    )
