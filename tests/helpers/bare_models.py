"""SavedModels without a Keras form, each written by another kind of code."""

from pathlib import Path
from typing import Any

import numpy as np

from paring_pipelines.demo import Digits


def save_images(file: Path, digits: Digits) -> None:
    """Write 320 digits of 8x8 without labels, in both splits alike."""
    small = digits.x_train[:320, ::4, ::4]
    np.savez(file, x_train=small, x_eval=small)


def save_module(folder: Path) -> None:
    """Write a tf.Module with code of its own: convolution, einsum, matrix products, two heads.

    It takes `image` [batch, 8, 8, 1] and gives `digit`, probabilities [batch, 10], and
    `size` [batch, 1]. Its matrix `table` [10, 16] is no kernel of a product.
    """
    import tensorflow as tf

    draw = np.random.default_rng(0)

    def variable(name: str, *shape: int) -> Any:
        values = draw.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
        return tf.Variable(values.astype(np.float32), name=name)

    class Network(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.filters = variable("filters", 3, 3, 1, 16)
            self.bias = tf.Variable(np.zeros(16, np.float32), name="bias")
            self.mixing = variable("mixing", 16, 16)
            self.dense = variable("dense", 10, 16)
            self.table = variable("table", 10, 16)
            self.size = variable("size", 16, 1)

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, "image")])
        def serve(self, image: Any) -> dict[str, Any]:
            hidden = tf.nn.conv2d(image, self.filters, 2, "SAME") + self.bias
            hidden = tf.einsum("bhwc,cd->bhwd", tf.nn.relu(hidden), self.mixing)
            pooled = tf.reduce_mean(tf.nn.relu(hidden), [1, 2])
            logits = tf.matmul(pooled, self.dense, transpose_b=True)
            logits += tf.reduce_sum(self.table, axis=1)
            return {"digit": tf.nn.softmax(5 * logits), "size": tf.matmul(pooled, self.size)}

        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, "image")])
        def features(self, image: Any) -> dict[str, Any]:
            return {"features": tf.nn.conv2d(image, self.filters, 2, "SAME") + self.bias}

    module = Network()
    signatures = {"serving_default": module.serve, "features": module.features}
    tf.saved_model.save(module, str(folder), signatures=signatures)


def save_frozen(source: Path, folder: Path) -> None:
    """Write the signature of another SavedModel with its variables as constants."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    loaded = tf.saved_model.load(str(source))
    signature = loaded.signatures["serving_default"]
    frozen = convert_variables_to_constants_v2(signature)
    names = sorted(signature.structured_outputs)
    (spec,) = signature.structured_input_signature[1].values()

    @tf.function(input_signature=[spec], autograph=False)
    def serve(tensor: Any) -> dict[str, Any]:
        return dict(zip(names, frozen(tensor), strict=True))

    tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": serve})


def save_keras_3(folder: Path) -> None:
    """Write a network by Keras 3's `export`: batch normalization, and a dense layer of rank 3."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    hidden = keras.layers.Conv2D(16, 3, use_bias=False)(image)
    hidden = keras.layers.BatchNormalization()(hidden)
    hidden = keras.layers.ReLU()(hidden)
    hidden = keras.layers.Reshape((36, 16))(hidden)
    hidden = keras.layers.Dense(16, activation="relu")(hidden)
    hidden = keras.layers.GlobalAveragePooling1D()(hidden)
    keras.Model(image, keras.layers.Dense(10)(hidden)).export(str(folder), verbose=False)


def save_subclassed(folder: Path) -> None:
    """Write a subclassed model of tf_keras by its own `save`, with Keras's metadata."""
    import tensorflow as tf
    import tf_keras

    class Network(tf_keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = tf_keras.layers.Dense(32, activation="relu")
            self.scores = tf_keras.layers.Dense(10, activation="softmax")

        def call(self, image: Any) -> Any:
            flat = tf.reshape(image, [-1, 64])
            return self.scores(self.hidden(flat))

    tf_keras.utils.set_random_seed(0)
    network = Network()
    network(np.zeros((2, 8, 8, 1), np.float32))
    network.save(folder, save_format="tf", include_optimizer=False)
