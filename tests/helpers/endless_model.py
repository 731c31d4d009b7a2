"""A model whose graph never ends."""

from pathlib import Path
from typing import Any


def write_endless_model(folder: Path) -> Path:
    """Write a SavedModel [batch, 4] -> [batch, 4] with a loop that never ends."""
    import tensorflow as tf

    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")])
    def serve(x: Any) -> dict[str, Any]:
        (y,) = tf.while_loop(
            lambda y: tf.reduce_all(tf.math.is_finite(y)), lambda y: (y * 0.5,), [x]
        )
        return {"y": y}

    module.serve = serve
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return folder
