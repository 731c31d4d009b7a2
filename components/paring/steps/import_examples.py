"""Import of a user's examples into Paring's form."""

import shutil
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from paring.artifacts import Examples, Model
from paring.errors import ExamplesError
from paring.step import Input, Output, step


@step(version="6")
def import_examples(
    original: Input[Examples],
    model: Input[Model],
    examples: Output[Examples],
    *,
    label: str = "label",
    weights: str = "",
    eval_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2,
    eval_from: Literal["eval", "train"] = "eval",
    train_limit: Annotated[int, Ge(0)] = 0,
    eval_limit: Annotated[int, Ge(0)] = 0,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Check examples against the model and store them as mapped arrays.

    Writes `Split-train/` and `Split-eval/` with one `.npy` file for each input
    of the model, [count, ...] in its dtype, and `label.npy` if there are labels
    of its only output; labels of several outputs are named for the outputs. Sample weights,
    which steps that train and `evaluate` use, are in `sample_weights/COLUMN.npy`, float64
    [count]. A column that belongs to no input or output is left out, with a warning that
    names it. See
    `paring.data.example_files` for the formats, `paring.data.examples.open_split` for
    the dtypes that are converted, and `paring.data.columns.check_labels` for the
    labels that are accepted.

    Of a model that `import_model` cut at its numeric core, examples have the form that the
    whole model takes: TFRecords of tf.Example, or columns of text and numbers. Its text work is
    done once, and the core's inputs are stored. The core's outputs are compared with the
    whole model's on some of them (`compared_with_whole`).

    Examples:
        >>> examples = paring.import_examples(arrays, network)
        >>> examples.train_count, examples.eval_count
        (160, 40)

    Args:
        original: `.npz`, TFRecords, CSV, Parquet, TFX's Examples, or Paring's own form.
        model: A model whose signature states names, shapes and dtypes.
        examples: The imported examples.
        label: Name in `original` of the only output's labels; for several outputs OUTPUT=COLUMN
            for each, separated by commas, or nothing where columns are named after outputs.
        weights: Column of sample weights, a number of 0 or more for each example; "" if all
            count the same.
        eval_fraction: Share of a source without splits that becomes eval, taken
            from each class alike; with `eval_from` train, of the train split.
        eval_from: With train, a part of the train split becomes eval, and the
            source's own eval split is left out: for choices that must not be
            made on the examples that the result is evaluated on.
        train_limit: Number of examples of train to keep, drawn with each class in
            its share; 0 for all.
        eval_limit: The same for eval.
        seed: Seed of that split and of both draws.

    Raises:
        ExamplesError: The examples are missing, broken, or not what the model takes; or the
            weights are missing, not numbers [count], negative, NaN, or all 0 in a split.
        ModelError: The model's signature can't be read.
        UnsupportedError: The core of a model that was cut differs from the whole.
    """
    import numpy as np

    from paring.data.columns import copy_column, label_outputs
    from paring.data.example_files import column_file
    from paring.data.examples import LABEL, draw_rows, open_splits, stratified_split
    from paring.data.raw_examples import preprocessed
    from paring.data.raw_sample import SAMPLE
    from paring.data.weights import FOLDER, check_any_weight
    from paring.models.saved_model import SavedModel

    signature = SavedModel.open(model).signature()
    scratch = examples.path / "unpacked"
    source = original.path
    if model.preprocess_inputs:
        source, examples.compared_with_whole = preprocessed(
            original.path, model, scratch / "preprocessed", label=label, weights=weights
        )
        for sample in sorted(source.rglob(SAMPLE))[:1]:
            shutil.copyfile(sample, examples.path / SAMPLE)
    splits = open_splits(
        source,
        ["train", "eval"],
        signature,
        scratch,
        label=label,
        weights=weights,
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
    columns = {split.weights_column for split in splits.values()}
    if len(columns) > 1:
        raise ExamplesError(
            f"{original.path}: the splits have different sample weights",
            received=" and ".join(item or "none" for item in sorted(columns)),
            remedy="give both splits the same column of weights, or neither",
        )
    (examples.sample_weights,) = columns
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
            train.labels, train.count, eval_fraction=eval_fraction, seed=seed
        )
    limits = {"train": train_limit, "eval": eval_limit}
    for name, split in splits.items():
        rows[name] = draw_rows(split.labels, rows[name], limit=limits[name], seed=seed)
        folder = examples.path / f"Split-{name}"
        folder.mkdir()
        for feature, array in split.features.items():
            copy_column(array, folder / column_file(feature), rows[name])
        for output, array in split.labels_by_output.items():
            copy_column(array, folder / column_file(files[output]), rows[name])
        if split.weights is not None:
            own = split.weights[rows[name]]
            check_any_weight(f"{original.path}, {name}", examples.sample_weights, own)
            target = folder / FOLDER / column_file(examples.sample_weights)
            target.parent.mkdir()
            copy_column(split.weights, target, rows[name])
    # Linux and macOS keep mapped files readable until they are unmapped.
    shutil.rmtree(scratch)
    examples.train_count = len(rows["train"])
    examples.eval_count = len(rows["eval"])
    examples.labelled = bool(labelled["train"])
