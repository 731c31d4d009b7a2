"""Rebuilding of a Keras 3 model in tf_keras, with the same layers, weights and outputs.

The optimization methods take tf_keras models only (docs/adr/0006-keras-3-bridge.md).
Each layer of Keras 3 becomes the tf_keras layer of its name with the same settings;
operations between layers and activations that tf_keras lacks or computes otherwise
become layers too. That the result computes the same is checked on the spot, so a
setting that tf_keras does not know can be left out without harm.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from paring.errors import ParingError, UnsupportedError, first_line
from paring.models.precision import finalize

TOLERANCE = 1e-5
"""Largest difference that is let pass, relative to the largest value of the same output."""

_EXAMPLES = 4
_OPEN_DIMENSION = 32

layers = tf_keras.layers


@dataclass(frozen=True)
class Rebuilt:
    """A rebuilt model.

    Attributes:
        model: A functional `tf_keras.Model`, not compiled.
        difference: Largest absolute difference between its outputs and those of
            the Keras 3 model, on random inputs.
    """

    model: Any
    difference: float


def rebuild(source: Any) -> Rebuilt:
    """Rebuild `source`, a functional or sequential `keras.Model` of Keras 3, in tf_keras.

    Raises:
        UnsupportedError: A layer, an operation or the model's kind has no
            counterpart, or the outputs differ by more than `TOLERANCE`.
    """
    bridge = _Bridge()
    try:
        model = bridge.model(source)
        _refuse_text(source, model)
        bridge.copy_weights()
        inputs = [_random(tensor, seed) for seed, tensor in enumerate(source.inputs)]
        expected = _outputs(source, inputs)
        result = _outputs(model, inputs)
    except ParingError:
        raise
    except Exception as error:
        # Settings may be lacking, and either model may fail on random inputs, in whatever
        # its own operations raise.
        raise UnsupportedError(
            f"model {source.name} of Keras 3 can't be rebuilt in tf_keras ({first_line(error)})",
            remedy="export it as a SavedModel (model.export(DIR)) for conversion, or build it"
            " with tf_keras for the training steps",
        ) from error
    differences = [_difference(item, other) for item, other in zip(expected, result, strict=True)]
    for item, difference in zip(expected, differences, strict=True):
        largest = float(np.max(np.abs(item[np.isfinite(item)]), initial=0.0))
        if difference > TOLERANCE * max(largest, 1e-30):
            raise UnsupportedError(
                f"model {source.name} of Keras 3 computes something else in tf_keras",
                received=f"outputs that differ by {difference:.3g}, the largest being"
                f" {largest:.3g}",
                remedy="export it as a SavedModel (model.export(DIR)) for conversion, or build it"
                " with tf_keras for the training steps",
            )
    return Rebuilt(model, max(differences))


class _Bridge:
    """Keeps what was made of each layer, since layers may be called several times."""

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}
        self._pairs: list[tuple[Any, Any]] = []

    def model(self, source: Any) -> Any:
        """Return a functional or sequential model, itself or inside another one."""
        import keras

        graph = source._functional if isinstance(source, keras.Sequential) else source
        if not isinstance(graph, keras.src.models.functional.Functional):
            raise UnsupportedError(
                f"model {source.name} of Keras 3 is {_kind_of_model(source)}, and its layers"
                " can't be rebuilt in tf_keras",
                received=type(source).__name__,
                remedy="build it with the functional or sequential API, with an Input; or"
                " export it as a SavedModel (model.export(DIR)) for conversion",
            )
        inputs = [
            tf_keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
            for name, tensor in zip(_input_names(graph), graph.inputs, strict=True)
        ]
        outputs = graph._run_through_graph(inputs, operation_fn=self._counterpart)
        return tf_keras.Model(inputs, outputs, name=source.name)

    def copy_weights(self) -> None:
        """Copy the weights of every layer, once all have been built by being called."""
        for source, made in self._pairs:
            weights = source.get_weights()
            if [weight.shape for weight in weights] != [
                tuple(weight.shape) for weight in made.weights
            ]:
                raise _unsupported(source, "keeps other weights in tf_keras")
            made.set_weights(weights)
            finalize(made)

    def _counterpart(self, operation: Any) -> Callable[..., Any]:
        import keras

        if id(operation) not in self._made:
            if isinstance(operation, keras.Model):
                made = self.model(operation)
            elif isinstance(operation, keras.layers.Layer):
                made = self._layer(operation)
            else:
                made = _operation(operation)
            self._made[id(operation)] = made
        counterpart: Callable[..., Any] = self._made[id(operation)]
        return counterpart

    def _layer(self, source: Any) -> Callable[..., Any]:
        kind = getattr(layers, type(source).__name__, None)
        if kind is None or not type(source).__module__.startswith("keras.src.layers"):
            raise _unsupported(source, "has no counterpart in tf_keras")
        config = _config(source, kind)
        after = _DECOMPOSED.get(config.get("activation"))
        if after is not None:
            config["activation"] = "linear"
        try:
            # Wrappers find the layer inside them in their config only; attention takes
            # no config without the shapes that it was built for.
            made = kind.from_config(config) if "layer" in config else kind(**config)
        except (TypeError, ValueError, KeyError) as error:
            raise _unsupported(source, f"can't be made in tf_keras ({error})") from error
        if source.weights:
            self._pairs.append((source, made))
        call = _guarded(source, made)
        if after is None:
            return call
        return lambda *args, **kwargs: after(call(*args, **kwargs), source.name)


def _config(source: Any, kind: type) -> dict[str, Any]:
    """Return the layer's settings as far as `kind` knows them; initial values don't matter."""
    known = {"name", "trainable"}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            known |= set(inspect.signature(vars(base)["__init__"]).parameters)
    given = source.get_config()
    config = {
        name: value
        for name, value in given.items()
        if name in known and not name.endswith("_initializer")
    }
    config["dtype"] = source.dtype_policy.name
    if "negative_slope" in given and "negative_slope" not in known:
        config["alpha"] = given["negative_slope"]
    if hasattr(source, "get_vocabulary") and "vocabulary" in known:
        # What was adapted is not in the settings, and lies in a table, not in weights.
        config["vocabulary"] = source.get_vocabulary(include_special_tokens=False)
        if config.get("output_mode") == "int":
            # The policy of Keras 3 is that of floats, whatever the outputs are.
            config["dtype"] = "int64"
    if config.get("bin_boundaries") is not None:
        # They were found by the number of bins, and tf_keras takes one of the two.
        config.pop("num_bins", None)
    if config.get("activation") in _RENAMED:
        config["activation"] = _RENAMED[config["activation"]]
    wrapped = {
        "layer": getattr(source, "forward_layer", None) or getattr(source, "layer", None),
        "backward_layer": getattr(source, "backward_layer", None),
    }
    for name, inner in wrapped.items():
        if name in config and inner is not None:
            kind_name = type(inner).__name__
            config[name] = {
                "class_name": kind_name,
                "config": _config(inner, getattr(layers, kind_name)),
            }
    return config


# Activations under the names that tf_keras has for them.
_RENAMED = {"silu": "swish"}


def _relu6(values: Any, name: str) -> Any:
    return layers.ReLU(max_value=6.0, name=f"{name}_relu6")(values)


def _hard_sigmoid(values: Any, name: str) -> Any:
    # Of Keras 3; that of tf_keras has another slope.
    raised = layers.Rescaling(1.0, offset=3.0, name=f"{name}_plus_3")(values)
    return layers.Rescaling(1 / 6, name=f"{name}_sixth")(_relu6(raised, name))


def _hard_swish(values: Any, name: str) -> Any:
    gate = _hard_sigmoid(values, name)
    return layers.Multiply(name=f"{name}_gated")([values, gate])


def _leaky_relu(values: Any, name: str) -> Any:
    return layers.LeakyReLU(alpha=0.2, name=f"{name}_leaky")(values)


_DECOMPOSED: dict[Any, Callable[[Any, str], Any]] = {
    "relu6": _relu6,
    "hard_sigmoid": _hard_sigmoid,
    "hard_swish": _hard_swish,
    "hard_silu": _hard_swish,
    "leaky_relu": _leaky_relu,
}


def _operation(source: Any) -> Callable[..., Any]:
    """Return the replacement of an operation between layers, such as `x + 3.0`."""
    kind = type(source).__name__
    if kind in _ARITHMETIC:
        return _guarded(source, _arithmetic(source))
    if kind in _FUNCTIONS:
        return _guarded(source, lambda values: _FUNCTIONS[kind](source)(values))
    # The rest in TensorFlow's own operations, which become layers by being called.
    return _guarded(source, source.call)


def _arithmetic(source: Any) -> Callable[[Any, Any], Any]:
    merge, scaling = _ARITHMETIC[type(source).__name__]

    def combine(first: Any, second: Any) -> Any:
        if not (_is_number(first) or _is_number(second)):
            return merge(name=source.name)([first, second])
        number, values = (first, second) if _is_number(first) else (second, first)
        scale, offset = scaling(float(number), number is first)
        return layers.Rescaling(scale, offset=offset, name=source.name)(values)

    return combine


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or (
        isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0
    )


def _guarded(source: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except Exception as error:
            # Anything may come out of code that was not made for these tensors.
            raise _unsupported(source, f"can't be called in tf_keras ({_why(error)})") from error

    return guarded


def _why(error: Exception) -> str:
    if "TypeSpec" in str(error):
        # Followed by the operation as protobuf's text, in 25 lines.
        return "no layer can be made of what it computes"
    return first_line(error)


def _no_merge(name: str) -> Any:
    raise ValueError("there is no such layer for two tensors")


def _no_scaling(number: float, first: bool) -> tuple[float, float]:
    raise ValueError(f"there is no such layer for a tensor and {number}")


def _subtraction(number: float, first: bool) -> tuple[float, float]:
    return (-1.0, number) if first else (1.0, -number)


def _division(number: float, first: bool) -> tuple[float, float]:
    return _no_scaling(number, first) if first else (1 / number, 0.0)


# For each operation: the layer for two tensors; scale and offset for a tensor and a
# number, by whether the number comes first.
_ARITHMETIC: dict[str, tuple[Any, Callable[[float, bool], tuple[float, float]]]] = {
    "Add": (layers.Add, lambda number, first: (1.0, number)),
    "Subtract": (layers.Subtract, _subtraction),
    "Multiply": (layers.Multiply, lambda number, first: (number, 0.0)),
    "TrueDivide": (_no_merge, _division),
    "Divide": (_no_merge, _division),
    "Maximum": (layers.Maximum, _no_scaling),
    "Minimum": (layers.Minimum, _no_scaling),
}

_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "Relu": lambda source: layers.ReLU(name=source.name),
    "Relu6": lambda source: layers.ReLU(max_value=6.0, name=source.name),
    "Sigmoid": lambda source: layers.Activation("sigmoid", name=source.name),
    "Tanh": lambda source: layers.Activation("tanh", name=source.name),
    "Silu": lambda source: layers.Activation("swish", name=source.name),
    "Softmax": lambda source: layers.Softmax(axis=source.axis, name=source.name),
    "Reshape": lambda source: layers.Reshape(source.newshape[1:], name=source.name),
    "Concatenate": lambda source: layers.Concatenate(axis=source.axis, name=source.name),
}


def _unsupported(source: Any, why: str) -> UnsupportedError:
    return UnsupportedError(
        f"{source.name}, a {type(source).__name__} of Keras 3, {why}",
        received=f"{type(source).__module__}.{type(source).__name__}",
        remedy="replace it by a layer that both have, or export the model as a SavedModel"
        " (model.export(DIR)) for conversion",
    )


def _kind_of_model(source: Any) -> str:
    return "sequential without an Input" if hasattr(source, "add") else "subclassed"


def _refuse_text(source: Any, model: Any) -> None:
    texts = [
        name
        for name, tensor in zip(model.input_names, model.inputs, strict=True)
        if tensor.dtype == tf.string
    ]
    if texts:
        raise UnsupportedError(
            f"model {source.name} of Keras 3 takes text, which no training step feeds",
            received=f"inputs of text: {', '.join(texts)}",
            remedy="put what turns text into numbers into a model of its own",
        )


def _input_names(graph: Any) -> list[str]:
    return [tensor._keras_history.operation.name for tensor in graph.inputs]


def _random(tensor: Any, seed: int) -> np.ndarray[Any, Any]:
    """Return random examples for an input: floats in [0, 1), integers 0 and 1, or booleans."""
    shape = [_OPEN_DIMENSION if size is None else size for size in tensor.shape]
    shape[0] = tensor.shape[0] or _EXAMPLES
    generator = np.random.default_rng(seed)
    if "float" in tensor.dtype:
        return generator.random(shape).astype(tensor.dtype)
    return generator.integers(0, 2, shape).astype(tensor.dtype)


def _outputs(model: Any, inputs: list[Any]) -> list[np.ndarray[Any, Any]]:
    given = inputs[0] if len(inputs) == 1 else inputs
    return [np.asarray(item, np.float64) for item in tf.nest.flatten(model(given, training=False))]


def _difference(expected: np.ndarray[Any, Any], result: np.ndarray[Any, Any]) -> float:
    """Return the largest absolute difference, infinite where one alone has NaN."""
    differs = ~((expected == result) | (np.isnan(expected) & np.isnan(result)))
    apart = np.abs(expected[differs] - result[differs])
    return float("inf") if np.isnan(apart).any() else float(np.max(apart, initial=0.0))
