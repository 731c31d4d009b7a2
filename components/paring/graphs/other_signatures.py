"""The signatures of a SavedModel besides the one that is optimized, passed on as they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from paring.errors import UnsupportedError, first_line
from paring.models.arguments import argument_specs, by_position, signature_specs
from paring.models.same_signatures import dropped_signatures
from paring.models.saved_model import SavedModel
from paring.models.signature_loading import load_signatures


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
    others = False
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
