"""The step that brings a user's examples into Paring's form."""

import shutil
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from paring.artifacts import Examples, Model
from paring.errors import ExamplesError
from paring.step import Input, Output, step


@step(version="4")
def import_examples(
    original: Input[Examples],
    model: Input[Model],
    examples: Output[Examples],
    *,
    label: str = "label",
    eval_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2,
    eval_from: Literal["eval", "train"] = "eval",
    train_limit: Annotated[int, Ge(0)] = 0,
    eval_limit: Annotated[int, Ge(0)] = 0,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Check examples against the model and store them as mapped arrays.

    Writes `Split-train/` and `Split-eval/` with one `.npy` file for each input
    of the model, [count, ...] in its dtype, and `label.npy` if there are labels
    of its only output; those of several are named for them. A column that nothing
    takes is left out, with a warning that names it. See
    `paring.data.example_files` for what is read, `paring.data.examples.open_split` for
    which dtypes are converted, and `paring.data.columns.check_labels` for which
    labels are taken.

    Args:
        original: `.npz`, TFRecords, TFX's Examples, or Paring's own form.
        model: A model whose signature states names, shapes and dtypes.
        examples: What is written.
        label: The name in `original` of the only output's labels; of several, OUTPUT=COLUMN
            for each, by commas, or nothing where columns are named after their outputs.
        eval_fraction: Share of a source without splits that becomes eval, taken
            from each class alike; with `eval_from` train, of the train split.
        eval_from: With train, a part of the train split becomes eval, and the
            source's own eval split is left out: for choices that must not be
            made on the examples which the result is held to.
        train_limit: How many examples of train are kept, drawn with each class in
            its share; 0 for all.
        eval_limit: The same for eval.
        seed: Of that split and of both draws.

    Raises:
        ExamplesError: They are missing, broken, or not what the model takes.
        ModelError: The model's signature can't be read.
    """
    import numpy as np

    from paring.data.columns import copy_column, label_outputs
    from paring.data.example_files import column_file
    from paring.data.examples import LABEL, draw_rows, open_splits, stratified_split
    from paring.models.loading import saved_model_dir
    from paring.models.signature import read_signature

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
    rows = {name: np.arange(split.count) for name, split in splits.items()}
    if eval_from == "train":
        train = splits["eval"] = splits["train"]
        if train.count < 2:
            raise ExamplesError(
                f"{original.path}: too few examples to take eval from the train split",
                received=f"{train.count} example",
                remedy="give at least two, or better a few hundred",
            )
        rows["train"], rows["eval"] = stratified_split(
            train.labels, train.count, eval_fraction, seed
        )
    limits = {"train": train_limit, "eval": eval_limit}
    for name, split in splits.items():
        rows[name] = draw_rows(split.labels, rows[name], limits[name], seed)
        folder = examples.path / f"Split-{name}"
        folder.mkdir()
        for feature, array in split.features.items():
            copy_column(array, folder / column_file(feature), rows[name])
        for output, array in split.labels_by_output.items():
            copy_column(array, folder / column_file(files[output]), rows[name])
    # Linux and macOS keep mapped files readable until they are unmapped.
    shutil.rmtree(scratch)
    examples.train_count = len(rows["train"])
    examples.eval_count = len(rows["eval"])
    examples.labelled = int(bool(labelled["train"]))
