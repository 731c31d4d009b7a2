"""Draw of calibration examples from the train split."""

import json
from typing import Annotated

from annotated_types import Ge

from paring.artifacts import CalibrationSet, Examples, Model
from paring.step import Input, Output, step

MAX_RANGE_DIFFERENCE = 0.1
"""On the letters of benchmarks/, two halves of 2 examples differ by more, of 4 by less."""


@step(version="4")
def draw_calibration(
    model: Input[Model],
    examples: Input[Examples],
    calibration: Output[CalibrationSet],
    *,
    size: Annotated[int, Ge(1)] = 200,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Draw the examples on which quantization after training is calibrated.

    The examples come from the train split, each class in its share. An example that is
    in the eval split too, byte for byte, is skipped where there are others,
    so that no model is evaluated on examples that its ranges were fitted to.

    To measure if they are enough, the model is quantized to int8 on one half
    of the examples and on the other, and the ranges of each activation are compared.
    If the median difference is over a tenth, the fact `too_small` is true.

    `manifest.json` holds the digest of the examples, the rows that were drawn, the number
    of each class, and the result of the comparison.

    Examples:
        >>> calibration = paring.draw_calibration(network, arrays, size=32)
        >>> calibration.train_count
        32

    Args:
        model: Any model with a SavedModel; the halves are compared on it.
        examples: Examples, labelled or not.
        calibration: The drawn examples, in Paring's form, and the manifest.
        size: Number of examples to draw; all, if there are fewer.
        seed: Seed of the draw and of the halves.

    Raises:
        ModelError: The SavedModel is missing or broken.
        ExamplesError: The examples are missing or not what the model takes.
        UnsupportedError: The model has inputs that are no numeric tensors.
    """
    from paring.converters.tflite.calibration import compare_halves, draw
    from paring.data.columns import copy_column, label_outputs
    from paring.data.example_files import column_file
    from paring.data.examples import LABEL, class_ids, open_split
    from paring.models.saved_model import SavedModel

    saved = SavedModel.open(model)
    signature = saved.signature()
    train = open_split(examples, "train", signature)
    drawn = draw(train, open_split(examples, "eval", signature), size=size, seed=seed)
    chosen = train.take(drawn.rows)
    difference, why_not = compare_halves(saved, chosen, seed)

    split = calibration.path / "Split-train"
    split.mkdir()
    for name, array in train.features.items():
        copy_column(array, split / column_file(name), drawn.rows)
    # Labels that are no class ids say nothing about which examples to take.
    labels = class_ids(train.labels)
    if labels is not None:
        # Under the name by which they are found again: of several outputs, that of their own.
        columns = {item.name: column for column, item in label_outputs(signature, LABEL).items()}
        copy_column(labels, split / column_file(columns[train.output]), drawn.rows)
    calibration.train_count = chosen.count
    calibration.labelled = labels is not None
    calibration.also_in_eval = drawn.also_in_eval
    calibration.range_difference = difference
    calibration.too_small = chosen.count < 2 or (difference or 0) > MAX_RANGE_DIFFERENCE
    manifest = {
        "examples": examples.digest,
        "split": "train",
        "available": train.count,
        "asked": size,
        "seed": seed,
        "count": chosen.count,
        "rows": drawn.rows.tolist(),
        "classes": drawn.classes,
        "also_in_eval": drawn.also_in_eval,
        "range_difference": difference,
        "not_compared": why_not,
    }
    calibration.manifest.write_text(json.dumps(manifest, indent=2) + "\n")
