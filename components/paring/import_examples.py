"""The step that brings a user's examples into Paring's form."""

import shutil
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from paring.artifacts import Examples, Model
from paring.errors import ExamplesError
from paring.step import Input, Output, step


@step(version="2")
def import_examples(
    original: Input[Examples],
    model: Input[Model],
    examples: Output[Examples],
    *,
    label: str = "label",
    eval_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Check examples against the model and store them as mapped arrays.

    Writes `Split-train/` and `Split-eval/` with one `.npy` file for each input
    of the model, [count, ...] in its dtype, and `label.npy` if there are labels
    of its first output; those of others are named for them. See
    `paring.tf.example_files` for what is read, `paring.tf.examples.open_split` for
    which dtypes are converted, and `paring.tf.columns.check_labels` for which
    labels are taken.

    Args:
        original: `.npz`, TFRecords, TFX's Examples, or Paring's own form.
        model: A model whose signature states names, shapes and dtypes.
        examples: What is written.
        label: The name in `original` of the first output's labels.
        eval_fraction: Share of a source without splits that becomes eval, taken
            from each class alike.
        seed: Of that split.

    Raises:
        ExamplesError: They are missing, broken, or not what the model takes.
        ModelError: The model's signature can't be read.
    """
    from paring.tf.columns import copy_column, label_outputs
    from paring.tf.example_files import column_file
    from paring.tf.examples import LABEL, open_splits
    from paring.tf.loading import saved_model_dir
    from paring.tf.signature import read_signature

    signature = read_signature(saved_model_dir(model))
    scratch = examples.path / "unpacked"
    splits = open_splits(
        original.path,
        ["train", "eval"],
        signature,
        scratch,
        label=label,
        eval_fraction=eval_fraction,
        seed=seed,
    )
    labelled = {name: set(split.labels_by_output) for name, split in splits.items()}
    for name, having in labelled.items():
        lacking = sorted(set().union(*labelled.values()) - having)
        if lacking:
            of = f" of output {lacking[0]!r}" if len(signature.outputs) > 1 else ""
            raise ExamplesError(
                f"{original.path}: split {name} has no labels{of}, the other one has",
                remedy="label both splits, or neither",
            )
    files = {output.name: column for column, output in label_outputs(signature, LABEL).items()}
    for name, split in splits.items():
        folder = examples.path / f"Split-{name}"
        folder.mkdir()
        for feature, array in split.features.items():
            copy_column(array, folder / column_file(feature))
        for output, array in split.labels_by_output.items():
            copy_column(array, folder / column_file(files[output]))
    # Linux and macOS keep mapped files readable until they are unmapped.
    shutil.rmtree(scratch)
    examples.train_count = splits["train"].count
    examples.eval_count = splits["eval"].count
    examples.labelled = int(bool(labelled["train"]))
