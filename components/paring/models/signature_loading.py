"""Loading of a SavedModel's signatures without the functions that these do not call.

TensorFlow makes a Python function of every function in a SavedModel while it loads it. Keras 2
writes each layer's calls there, for its own loading: 629 functions for MobileNetV2, of which
the signature calls one. Without them it loads in 2.8 s of CPU time instead of 6.9 s (TensorFlow
2.21, two-core AMD EPYC).
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from paring.errors import first_line
from paring.models.function_library import FunctionLibrary, concrete_functions
from paring.models.library_types import MetaGraphDef
from paring.models.quiet import quiet_tensorflow
from paring.models.saved_model import SavedModel
from paring.models.signature import loading_saved_model

_log = logging.getLogger(__name__)

# Fewer functions load faster than a second saved_model.pb is written.
_MIN_FUNCTIONS = 16
# Constants of a frozen graph are not worth copying.
_MAX_BYTES = 64 << 20
# The attribute by which a node names a gradient that the model defines.
_GRADIENT_TYPE = "_gradient_op_type"


def load_signatures(model: SavedModel, options: Any = None, *, whole: bool = False) -> Any:
    """Load a SavedModel for its signatures.

    Args:
        model: The SavedModel.
        options: A `tf.saved_model.LoadOptions`.
        whole: Whether the other functions are loaded as well, for a measurement of the loading.

    Returns:
        The trackable object that `tf.saved_model.load` returns, with its signatures, variables
        and tables.

    Raises:
        ModelError: The SavedModel is broken.
    """
    quiet_tensorflow()
    import tensorflow as tf

    folder = model.folder
    small = None if whole else _without_unused_functions(model.meta_graph)
    if small is not None:
        with tempfile.TemporaryDirectory(prefix="paring-signatures-") as scratch:
            (Path(scratch) / "saved_model.pb").write_bytes(small)
            variables = (folder / "variables").absolute()
            if variables.exists():
                (Path(scratch) / "variables").symlink_to(variables, target_is_directory=True)
            try:
                return tf.saved_model.load(scratch, options=options)
            except Exception as error:
                # Of whichever kind: what is wrong is said of the whole SavedModel below.
                _log.debug("%s: %s; loading all of its functions", folder, first_line(error))
    with loading_saved_model(folder) as plain:
        return tf.saved_model.load(str(plain), options=options)


def _without_unused_functions(meta_graph: MetaGraphDef) -> bytes | None:
    """Return a saved_model.pb with the functions that loading and the signatures need.

    None if there are hardly more in it, or if the model has assets, whose paths it would lose.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    library, objects = meta_graph.graph_def.library, meta_graph.object_graph_def
    if meta_graph.asset_file_def or not objects.nodes or meta_graph.ByteSize() > _MAX_BYTES:
        return None
    used = _used_functions(meta_graph)
    kept = [function for function in library.function if function.signature.name in used]
    if len(library.function) - len(kept) < _MIN_FUNCTIONS:
        return None

    saved = saved_model_pb2.SavedModel(saved_model_schema_version=1)
    small = saved.meta_graphs.add()
    small.CopyFrom(meta_graph)
    del small.graph_def.library.function[:]
    small.graph_def.library.function.extend(kept)
    objects = small.object_graph_def
    for name in [name for name in objects.concrete_functions if name not in used]:
        del objects.concrete_functions[name]
    for node in objects.nodes:
        if not used.issuperset(concrete_functions(node)):
            node.user_object.identifier = "_generic_user_object"
            node.user_object.version.producer = node.user_object.version.min_consumer = 1
    aliases = small.meta_info_def.function_aliases
    for name in [name for name in aliases if name not in used]:
        del aliases[name]
    gradients = small.graph_def.library.registered_gradients
    for entry in [entry for entry in gradients if entry.gradient_func not in used]:
        gradients.remove(entry)
    content: bytes = saved.SerializeToString()
    return content


def _used_functions(meta_graph: MetaGraphDef) -> set[str]:
    """Return the names of the functions that the signatures and the loading call."""
    library = FunctionLibrary(meta_graph.graph_def)
    own_gradients = {
        entry.registered_op_type.encode(): entry.gradient_func
        for entry in meta_graph.graph_def.library.registered_gradients
    }
    starts = {name for node in meta_graph.graph_def.node for name in library.called(node)}
    for node in _loading_nodes(meta_graph.object_graph_def):
        starts |= concrete_functions(node)
    used = set[str]()
    while not starts <= used:
        used |= library.reached(starts)
        bodies = (library.functions[name].node_def for name in used & library.functions.keys())
        nodes = (node for body in bodies for node in body if _GRADIENT_TYPE in node.attr)
        types = {node.attr[_GRADIENT_TYPE].s for node in nodes}
        starts = {own_gradients[kind] for kind in types & own_gradients.keys()}
    return used


def _loading_nodes(objects: Any) -> Iterator[Any]:
    """Yield the objects whose functions are the signatures, or are called while loading."""
    root = {child.local_name: child.node_id for child in objects.nodes[0].children}
    if "signatures" in root:
        yield from (
            objects.nodes[child.node_id] for child in objects.nodes[root["signatures"]].children
        )
    for node in objects.nodes:
        if node.WhichOneof("kind") == "resource":
            yield from (objects.nodes[child.node_id] for child in node.children)
        for saveable in node.saveable_objects.values():
            yield objects.nodes[saveable.save_function]
            yield objects.nodes[saveable.restore_function]
