"""SavedModels with several signatures that share their variables."""

from pathlib import Path
from typing import Any

import numpy as np

WEIGHTS = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
HEAD = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)


def expected(x: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Return what `predict` and `embed` give, computed with NumPy."""
    vectors = np.maximum(x @ WEIGHTS, 0)
    logits = vectors @ HEAD
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return {"embed": vectors, "predict": powers / powers.sum(axis=1, keepdims=True)}


def save_module(folder: Path, *, default: str = "") -> None:
    """Save a tf.Module with the signatures `predict`, `again`, `embed`, `letter` and `parse`.

    `again` is the same function as `predict`, `letter` looks its result up in a table, and
    `parse` takes serialized examples.

    Args:
        folder: Must not exist yet.
        default: Which one is serving_default too; "" for none.
    """
    import tensorflow as tf

    module = tf.Module()
    module.weights, module.head = tf.Variable(WEIGHTS), tf.Variable(HEAD)
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), ["a", "b", "c"]), "?"
    )
    x = tf.TensorSpec([None, 8], tf.float32, name="x")

    def scores(x: Any) -> Any:
        return tf.nn.softmax(tf.nn.relu(x @ module.weights) @ module.head)

    def parsed(examples: Any) -> Any:
        feature = tf.io.FixedLenFeature([8], tf.float32, [0.0] * 8)
        return tf.io.parse_example(examples, {"x": feature})["x"]

    predict = tf.function(lambda x: {"scores": scores(x)}, input_signature=[x])
    functions = {
        "predict": predict,
        "again": predict,
        "embed": tf.function(
            lambda x: {"vector": tf.nn.relu(x @ module.weights)}, input_signature=[x]
        ),
        "letter": tf.function(
            lambda x: {"letter": module.table.lookup(tf.argmax(scores(x), 1))}, input_signature=[x]
        ),
        "parse": tf.function(
            lambda examples: {"scores": scores(parsed(examples))},
            input_signature=[tf.TensorSpec([None], tf.string, name="examples")],
        ),
    }
    if default:
        functions["serving_default"] = functions[default]
    tf.saved_model.save(module, str(folder), signatures=functions)


def save_estimator(folder: Path) -> None:
    """Save a model of TensorFlow 1 with an Estimator's signatures.

    `serving_default`, `classification` and `regression` take serialized examples, and are called
    by TensorFlow Serving's Classify and Regress; `predict` takes the parsed feature `x`.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        examples = v1.placeholder(tf.string, [None], name="input_example_tensor")
        feature = tf.io.FixedLenFeature([8], tf.float32, [0.0] * 8)
        parsed = v1.io.parse_example(examples, {"x": feature})["x"]
        x = v1.placeholder_with_default(parsed, [None, 8], name="x")
        weights = v1.get_variable("weights", initializer=WEIGHTS)
        head = v1.get_variable("head", initializer=HEAD)
        logits = tf.matmul(tf.nn.relu(tf.matmul(x, weights)), head)
        scores = tf.nn.softmax(logits)
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), ["a", "b", "c"]), "?"
        )
        letters = tf.expand_dims(table.lookup(tf.argmax(logits, 1)), 1)
        build = v1.saved_model
        classify = build.classification_signature_def(examples, letters, None)
        signatures = {
            "serving_default": classify,
            "classification": classify,
            "regression": build.regression_signature_def(examples, tf.reduce_sum(logits, 1)),
            "predict": build.predict_signature_def({"x": x}, {"scores": scores}),
        }
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = build.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session, ["serve"], signatures, main_op=v1.tables_initializer()
        )
        builder.save()


def save_examples(file: Path, count: int = 48) -> np.ndarray[Any, Any]:
    """Write an .npz of examples `x` with the classes that `predict` gives; return its `x`."""
    x = np.random.default_rng(2).random((count, 8), dtype=np.float32)
    y = expected(x)["predict"].argmax(axis=1)
    np.savez(file, x_train=x, y_train=y, x_eval=x, y_eval=y)
    return x


def serialized(x: np.ndarray[Any, Any]) -> list[bytes]:
    """Return a serialized tf.Example of each row."""
    import tensorflow as tf

    return [
        tf.train.Example(
            features=tf.train.Features(
                feature={"x": tf.train.Feature(float_list=tf.train.FloatList(value=row))}
            )
        ).SerializeToString()
        for row in x
    ]
