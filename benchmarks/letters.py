"""A data set that is harder than the digits: letters in the fonts that matplotlib ships.

Each of the 62 letters and digits (A-Z, a-z, 0-9) is drawn in 22 text fonts with
a random rotation, size, place, blur, contrast and noise. Three families' fonts
are held out whole, so that a model meets them first when it is judged; and pairs
such as o and O, or l and I, differ by little more than their size.
"""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

LETTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
SIZE = 32

_TRAINED = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-BoldOblique", "-Oblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-BoldOblique", "-Oblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-BoldItalic")),
    *("STIXGeneral", "STIXGeneralBolIta", "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10"),
)
_HELD_OUT = ("DejaVuSerif-Italic", "DejaVuSansDisplay", "STIXGeneralBol", "cmb10", "cmti10")

# Channels, expansion and strides of each block.
_BLOCKS = ((16, 1, 1), (24, 4, 2), (24, 4, 1), (40, 4, 2), (40, 4, 1), (80, 4, 1), (80, 4, 1))


def read_letters(*, train_draws: int = 12, eval_draws: int = 8) -> dict[str, NDArray[Any]]:
    """The letters, the same every time.

    Args:
        train_draws: Images of each letter in each font of the train split.
        eval_draws: The same of the eval split.

    Returns:
        x_train, x_eval: float32 [n, 32, 32, 1], from 0 (paper) to 1 (ink).
        y_train, y_eval: int64 [n], the index in `LETTERS`.
    """
    generator = np.random.default_rng(0)
    x_train, y_train = _draw(_TRAINED, train_draws, generator)
    x_eval, y_eval = _draw(_HELD_OUT, eval_draws, generator)
    return {"x_train": x_train, "y_train": y_train, "x_eval": x_eval, "y_eval": y_eval}


def _draw(
    fonts: Sequence[str], draws: int, generator: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    images, labels = [], []
    for font in fonts:
        for label, letter in enumerate(LETTERS):
            for _ in range(draws):
                size = int(generator.integers(17, 27))
                drawn = ImageFont.truetype(str(folder / f"{font}.ttf"), size)
                images.append(_image(letter, drawn, generator))
                labels.append(label)
    return np.stack(images)[..., np.newaxis], np.array(labels, np.int64)


def _image(letter: str, font: Any, generator: np.random.Generator) -> NDArray[np.float32]:
    page = Image.new("L", (SIZE, SIZE))
    place = SIZE / 2 + generator.uniform(-3, 3, 2)
    ImageDraw.Draw(page).text(tuple(place), letter, fill=255, font=font, anchor="mm")
    page = page.rotate(generator.uniform(-15, 15), Image.Resampling.BILINEAR)
    page = page.filter(ImageFilter.GaussianBlur(generator.uniform(0, 1.2)))
    ink = np.asarray(page, np.float32) / 255 * generator.uniform(0.4, 1)
    noisy = ink + generator.normal(0, generator.uniform(0, 0.15), ink.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


def build_network() -> Any:
    """An untrained network of inverted residuals with squeeze-and-excitation.

    The blocks are those of EfficientNet (Tan and Le 2019), which int8 and pruning find
    harder than plain convolutions.

    Returns:
        A `tf_keras.Model` from float32 [batch, 32, 32, 1] to the probabilities of
        `LETTERS`, float32 [batch, 62].
    """
    import tf_keras

    layers = tf_keras.layers

    def normalized(values: Any) -> Any:
        return layers.BatchNormalization(momentum=0.9)(values)

    def squeezed(values: Any, units: int) -> Any:
        weights = layers.GlobalAveragePooling2D(keepdims=True)(values)
        weights = layers.Conv2D(units, 1, activation="swish")(weights)
        weights = layers.Conv2D(values.shape[-1], 1, activation="sigmoid")(weights)
        return layers.Multiply()([values, weights])

    def block(values: Any, channels: int, expansion: int, strides: int) -> Any:
        before = values
        if expansion > 1:
            wide = layers.Conv2D(expansion * values.shape[-1], 1, use_bias=False)(values)
            values = layers.Activation("swish")(normalized(wide))
        values = layers.DepthwiseConv2D(3, strides=strides, padding="same", use_bias=False)(values)
        values = layers.Activation("swish")(normalized(values))
        values = squeezed(values, max(4, before.shape[-1] // 4))
        values = normalized(layers.Conv2D(channels, 1, use_bias=False)(values))
        same = strides == 1 and before.shape[-1] == channels
        return layers.Add()([before, values]) if same else values

    image = tf_keras.Input((SIZE, SIZE, 1), name="image")
    values = layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(image)
    values = layers.Activation("swish")(normalized(values))
    for channels, expansion, strides in _BLOCKS:
        values = block(values, channels, expansion, strides)
    values = layers.Conv2D(240, 1, use_bias=False)(values)
    values = layers.Activation("swish")(normalized(values))
    values = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(values))
    letter = layers.Dense(len(LETTERS), activation="softmax", name="letter")(values)
    return tf_keras.Model(image, letter, name="letters")


def train_network(letters: dict[str, NDArray[Any]], out: Path, *, epochs: int = 8) -> float:
    """Train the network and save it to the folder `out` as a SavedModel.

    Takes about two minutes on two cores.

    Returns:
        The accuracy on the held-out fonts, from 0 to 1.
    """
    import tensorflow as tf
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    network = build_network()
    steps = epochs * (len(letters["x_train"]) // 64)
    rate = tf_keras.optimizers.schedules.CosineDecay(4e-3, steps)
    network.compile(
        tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    network.fit(letters["x_train"], letters["y_train"], batch_size=64, epochs=epochs, verbose=0)
    _, accuracy = network.evaluate(letters["x_eval"], letters["y_eval"], batch_size=256, verbose=0)
    network.save(out, save_format="tf", include_optimizer=False)
    return float(accuracy)
