"""The demo's model and data: handwritten digits, trained on this machine.

The data are the 1,797 digits that come with scikit-learn: a copy of the test
set of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak,
UCI Machine Learning Repository, 1998), 8x8 grey images with their real labels.
They are enlarged to 32x32, so that a convolutional network has work to do.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from paring.models.quiet import quiet_tensorflow
from paring.storage import written_beside

INPUT = "image"
OUTPUT = "digit"
CLASSES = 10

_ENLARGE = 4
_HELD_OUT = 0.2
_SEED = 0
_EPOCHS = 12
_BATCH = 32
# Channels after the stem and after each depthwise-separable block.
_WIDTHS = (24, 48, 72, 136, 136)


class Digits(NamedTuple):
    """The digits in two splits.

    Attributes:
        x_train, x_eval: float32 [n, 32, 32, 1], from 0 (white) to 1 (black).
        y_train, y_eval: int64 [n], the digit that was written.
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_eval: NDArray[np.float32]
    y_eval: NDArray[np.int64]


def read_digits() -> Digits:
    """Return the digits, split with a fixed seed; a fifth of each class is held out."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    small = pixels.reshape(-1, 8, 8, 1).astype(np.float32) / 16
    images = np.kron(small, np.ones((1, _ENLARGE, _ENLARGE, 1), np.float32))
    x_train, x_eval, y_train, y_eval = train_test_split(
        images,
        labels.astype(np.int64),
        test_size=_HELD_OUT,
        random_state=_SEED,
        stratify=labels,
    )
    return Digits(x_train, y_train, x_eval, y_eval)


def write_digits_examples(out: Path) -> None:
    """Write the digits to the `.npz` file `out`, an array for each field of `Digits`."""
    digits = read_digits()
    with written_beside(out) as staged:
        with staged.open("wb") as stream:
            # Through an open file, since numpy adds .npz to a name without it.
            np.savez_compressed(stream, **digits._asdict())
        staged.replace(out)


def build_network(widths: tuple[int, ...] = _WIDTHS) -> Any:
    """Return an untrained depthwise-separable network (Howard et al. 2017, "MobileNets").

    Args:
        widths: Channels of the stem, then of each block; every other block
            halves the image.

    Returns:
        A `tf_keras.Model` from float32 [batch, 32, 32, 1] to the classes'
        probabilities, float32 [batch, 10].
    """
    import tf_keras

    layers = tf_keras.layers

    def normalized(values: Any) -> Any:
        # With momentum 0.99 the moving statistics would still be far from the
        # batches' own after the few hundred steps that this training takes.
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(values))

    image = tf_keras.Input((8 * _ENLARGE, 8 * _ENLARGE, 1), name=INPUT)
    values = layers.Conv2D(widths[0], 3, strides=2, padding="same", use_bias=False)(image)
    values = normalized(values)
    for index, width in enumerate(widths[1:]):
        strides = 1 + index % 2
        values = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(values)
        values = normalized(values)
        values = layers.Conv2D(width, 1, use_bias=False)(values)
        values = normalized(values)
    values = layers.GlobalAveragePooling2D()(values)
    digit = layers.Dense(CLASSES, activation="softmax", name=OUTPUT)(values)
    return tf_keras.Model(image, digit, name="digits")


def fit_network(network: Any, digits: Digits, *, epochs: int = _EPOCHS) -> float:
    """Train `network` in place; the same every time on the same machine.

    Call `tf_keras.utils.set_random_seed` before the network is built, or its
    first weights differ from run to run.

    Returns:
        The accuracy on the held-out split, from 0 to 1.
    """
    import tensorflow as tf
    import tf_keras

    steps = epochs * -(-len(digits.x_train) // _BATCH)
    tf.config.experimental.enable_op_determinism()
    network.compile(
        tf_keras.optimizers.Adam(tf_keras.optimizers.schedules.CosineDecay(4e-3, steps)),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    network.fit(digits.x_train, digits.y_train, batch_size=_BATCH, epochs=epochs, verbose=0)
    _, accuracy = network.evaluate(digits.x_eval, digits.y_eval, batch_size=256, verbose=0)
    return float(accuracy)


def train_digits_model(out: Path) -> float:
    """Train the demo's network and save it to the folder `out` as a SavedModel.

    Takes about 20 seconds on two cores. There must be nothing at `out` yet.

    Returns:
        The accuracy on the held-out split, from 0 to 1; at least 0.97.
    """
    quiet_tensorflow()
    import tf_keras

    tf_keras.utils.set_random_seed(_SEED)
    network = build_network()
    accuracy = fit_network(network, read_digits())
    # Without the optimizer's state, which would make the source look three
    # times larger than what is served.
    with written_beside(out) as staged:
        network.save(staged, save_format="tf", include_optimizer=False)
        staged.rename(out)
    return accuracy
