"""Check that a SavedModel is complete, without running it."""

from pathlib import Path
from typing import Any

from paring.errors import ModelError, first_line
from paring.models.plain_paths import plain_path
from paring.models.saved_model import SavedModel


def check_saved_model(model: SavedModel) -> None:
    """Read the graph, the signature and every weight of the SavedModel.

    Raises:
        ModelError: Something is missing, cut off or corrupted.
    """
    folder = model.folder
    model.signature()
    index = folder / "variables" / "variables.index"
    if index.is_file():
        _check_weights(folder / "variables" / "variables")
    elif _has_variables(model.meta_graph):
        raise ModelError(
            f"{folder} has a graph with variables, but not their values",
            received=f"no {index.relative_to(folder)}",
            remedy="copy the folder variables/ as well, or export the model again",
        )


def _check_weights(prefix: Path) -> None:
    import tensorflow as tf

    try:
        checkpoint = tf.train.load_checkpoint(str(plain_path(prefix.parent) / prefix.name))
        # Reading a tensor checks its checksum too.
        for name in checkpoint.get_variable_to_shape_map():
            checkpoint.get_tensor(name)
    except (tf.errors.OpError, LookupError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"the weights {prefix}.* can't be read: they are broken, or were cut off",
            received=first_line(error),
            remedy="export or copy the model again",
        ) from error


def _has_variables(graph: Any) -> bool:
    kinds = {"VarHandleOp", "VariableV2", "Variable"}
    return any(node.op in kinds for node in graph.graph_def.node)
