"""Files of models and examples that a program holds in memory."""

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paring.errors import ExamplesError, ModelError, first_line

SPLITS = ("x_train", "y_train", "x_eval", "y_eval")
"""Usual names of a set's arrays; see `import_examples` for those of several inputs."""


def is_path(given: Any) -> bool:
    """Return whether an argument is a path, and not empty."""
    return isinstance(given, str | Path) and given != ""


def model_path(model: Any, folder: Path) -> Path:
    """Return the path of a model, which is saved into `folder` if it is one in memory.

    Raises:
        ModelError: It is neither a path nor a model of Keras.
    """
    if is_path(model):
        return Path(model)
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "tf_keras" in packages:
        file = folder / "model"
        shutil.rmtree(file, ignore_errors=True)
        model.save(file, save_format="tf", include_optimizer=False)
    elif "keras" in packages:
        file = folder / "model.keras"
        model.save(file)
    else:
        raise ModelError(
            "model: must be a path, or a model of tf_keras or Keras 3",
            received=repr(model) if isinstance(model, str) else type(model).__name__,
            remedy="save it with tf.saved_model.save, and give the folder",
        )
    return file


def examples_path(examples: Any, folder: Path) -> Path:
    """Return the path of examples, which are saved into `folder` if they are arrays.

    Raises:
        ExamplesError: They are neither a path nor arrays by name.
    """
    if is_path(examples):
        return Path(examples)
    if not isinstance(examples, Mapping) or not all(isinstance(name, str) for name in examples):
        raise ExamplesError(
            "examples: must be a path, or arrays by name",
            received=repr(examples) if isinstance(examples, str) else type(examples).__name__,
            remedy=f"give a mapping with {', '.join(SPLITS)}",
        )
    import numpy as np

    file = folder / "examples.npz"
    # As numpy.savez does, whose own arguments some names are taken for.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in examples.items():
            try:
                values = np.asarray(array)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)
            except ValueError as error:
                raise ExamplesError(
                    f"examples: {name} is no array of numbers",
                    received=first_line(error),
                    remedy="give rows of one shape, without Python objects in them",
                ) from error
    return file
