"""The type of examples."""

from dataclasses import dataclass

from paring.artifacts.artifact import Artifact


@dataclass
class Examples(Artifact):
    """Labelled examples in splits.

    In Paring's form, `Split-train/` and `Split-eval/` hold one `.npy` file for
    each model input, named for it, and `label.npy` where there are labels; a
    user may also hand in an `.npz` file, TFRecords of tf.Example, or a TFX
    Examples artifact. `paring.tf.examples` reads all of them.

    Attributes:
        train_count: Examples in the train split.
        eval_count: Examples in the eval split.
        labelled: 1 if there are labels.
    """

    train_count: int = 0
    eval_count: int = 0
    labelled: int = 0
