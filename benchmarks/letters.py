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
