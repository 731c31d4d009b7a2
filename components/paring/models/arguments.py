"""Names of a signature's inputs, and of the arguments of TensorFlow's function for them.

A signature may call an input anything. The function that TensorFlow traces for it takes
Python arguments, so that `user/age` is the argument `user_age` of a loaded model; and a
model whose inputs are called `a:b`, `my column` or `größe` can't be saved at all. So
signatures are read, called and saved here, by the signature's names alone.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paring.errors import ModelError
from paring.models.quiet import quiet_tensorflow

_ARGUMENT = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def argument_names(names: Iterable[str]) -> dict[str, str]:
    """Return an argument for each input of a signature that shall be saved, by its name.

    It is the name itself wherever that can be one, and they all differ.
    """
    names = list(names)
    taken = {name for name in names if _ARGUMENT.fullmatch(name)}
    arguments: dict[str, str] = {}
    for name in names:
        arguments[name] = name
        if not _ARGUMENT.fullmatch(name):
            plain = re.sub(r"[^A-Za-z0-9]", "_", name)
            arguments[name] = _free(plain if plain[:1].isalpha() else f"input_{plain}", taken)
            taken.add(arguments[name])
    return arguments


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def argument_specs(specs: Mapping[str, Any]) -> list[Any]:
    """Return a tf.TensorSpec for each input, under the name of its argument.

    Args:
        specs: A tf.TensorSpec by the name of each input.
    """
    import tensorflow as tf

    arguments = argument_names(specs)
    return [
        tf.TensorSpec(item.shape, item.dtype, name=arguments[name]) for name, item in specs.items()
    ]


def signature_specs(function: Any) -> dict[str, Any]:
    """Return the tf.TensorSpec of each input of a loaded signature, by its name.

    Args:
        function: What `tf.saved_model.load(DIR).signatures` holds.

    Raises:
        ModelError: The function's arguments are not the signature's inputs.
    """
    specs = function.structured_input_signature[1]
    return {name: specs[argument] for name, argument in signature_arguments(function).items()}


def by_name(function: Any) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Return a function that calls a loaded signature with tensors by its inputs' names.

    It gives the outputs' tensors, by the outputs' names.

    Args:
        function: What `tf.saved_model.load(DIR).signatures` holds.

    Raises:
        ModelError: The function's arguments are not the signature's inputs.
    """
    arguments = signature_arguments(function)

    def call(tensors: Mapping[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = function(
            **{arguments[name]: item for name, item in tensors.items()}
        )
        return result

    return call


def by_position(function: Any, names: Iterable[str]) -> Callable[..., dict[str, Any]]:
    """Return a function that calls a loaded signature with positional tensors; see `by_name`.

    Args:
        function: What `tf.saved_model.load(DIR).signatures` holds.
        names: The inputs' names, in the order of the tensors.
    """
    call, names = by_name(function), list(names)

    def serve(*tensors: Any) -> dict[str, Any]:
        return call(dict(zip(names, tensors, strict=True)))

    return serve


def signature_arguments(function: Any) -> dict[str, str]:
    """Return the argument of each input of a loaded signature, by the input's name.

    Args:
        function: What `tf.saved_model.load(DIR).signatures` holds.

    Raises:
        ModelError: The function's arguments are not the signature's inputs.
    """
    names = [str(name) for name in function._arg_keywords]
    specs = function.structured_input_signature[1]
    # No other input has an argument that could be this one's.
    arguments = {name: name for name in names if name in specs}
    others = {specs[spec].name: spec for spec in specs if spec not in arguments}
    arguments |= {name: others[name] for name in names if name not in specs and name in others}
    if len(set(arguments.values())) != len(specs) or len(arguments) != len(names):
        raise ModelError(
            "the inputs of the model's signature are not those of its function",
            received=f"inputs {', '.join(sorted(names))}, arguments {', '.join(sorted(specs))}",
            remedy="export the model again with tf.saved_model.save or model.export(DIR)",
        )
    return arguments


def save_signatures(
    module: Any, signatures: Mapping[str, Any], folder: Path, names: Mapping[str, Iterable[str]]
) -> None:
    """Write a module as a SavedModel whose signatures have inputs of these names.

    Args:
        module: Holds what the functions read, and not the functions: one that it holds is
            traced again when it is saved, and all constants are in the file twice.
        signatures: Concrete functions that were traced with `argument_specs`.
        folder: Gets the SavedModel.
        names: Names of the inputs of each signature.
    """
    quiet_tensorflow()
    import tensorflow as tf

    tf.saved_model.save(module, str(folder), signatures=dict(signatures))
    rename_inputs(folder, names)


def rename_inputs(folder: Path, names: Mapping[str, Iterable[str]]) -> None:
    """Give the signatures of a SavedModel their inputs' names instead of the arguments'.

    Args:
        folder: A SavedModel whose signatures were traced with `argument_specs`.
        names: Names of the inputs of each signature.
    """
    renamed = {
        key: {argument: name for name, argument in argument_names(own).items() if name != argument}
        for key, own in names.items()
    }
    if not any(renamed.values()):
        return
    quiet_tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow.python.saved_model import fingerprinting_utils

    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for graph in saved.meta_graphs:
        for key, definition in graph.signature_def.items():
            for argument, name in renamed.get(key, {}).items():
                if argument in definition.inputs:
                    definition.inputs[name].CopyFrom(definition.inputs[argument])
                    del definition.inputs[argument]
        for child in signature_objects(graph.object_graph_def):
            _rename_function(graph.object_graph_def, child, renamed.get(child.local_name, {}))
    file.write_bytes(saved.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(folder))


def name_signature(folder: Path, key: str, names: Sequence[str]) -> None:
    """Give a signature of a SavedModel other names; its other signatures are gone.

    Args:
        folder: The SavedModel.
        key: The signature.
        names: Its names from now on.
    """
    quiet_tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2
    from tensorflow.python.saved_model import fingerprinting_utils

    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for graph in saved.meta_graphs:
        own = type(graph.signature_def[key]).FromString(
            graph.signature_def[key].SerializeToString()
        )
        for name in [name for name in graph.signature_def if not name.startswith("__")]:
            del graph.signature_def[name]
        for name in names:
            graph.signature_def[name].CopyFrom(own)
        objects = graph.object_graph_def
        (place,) = (c.node_id for c in objects.nodes[0].children if c.local_name == "signatures")
        children = objects.nodes[place].children
        number = next(child.node_id for child in children if child.local_name == key)
        del children[:]
        for name in names:
            children.add(node_id=number, local_name=name)
    file.write_bytes(saved.SerializeToString(deterministic=True))
    fingerprinting_utils.write_fingerprint(str(folder))


def signature_objects(objects: Any) -> list[Any]:
    """Return the references to signatures' functions in a SavedObjectGraph, by `local_name`.

    `tf.saved_model.load` makes the signatures of them.
    """
    held = (item for item in objects.nodes[0].children if item.local_name == "signatures")
    return [child for item in held for child in objects.nodes[item.node_id].children]


def _rename_function(objects: Any, child: Any, renamed: Mapping[str, str]) -> None:
    """Rename the inputs of what `tf.saved_model.load` makes a signature of."""
    made = objects.nodes[child.node_id].bare_concrete_function
    made.argument_keywords[:] = [renamed.get(item, item) for item in made.argument_keywords]
    function = objects.concrete_functions[made.concrete_function_name]
    # A tuple of positional arguments and a dictionary of the others.
    given = function.canonicalized_input_signature.tuple_value.values[1].dict_value.fields
    for argument, name in renamed.items():
        if argument in given:
            given[argument].tensor_spec_value.name = name
