"""The type of examples."""

from dataclasses import dataclass
from pathlib import Path

from paring.artifacts.artifact import Artifact


@dataclass
class Examples(Artifact):
    """Labelled examples in splits.

    In Paring's form, `Split-train/` and `Split-eval/` hold one `.npy` file for
    each model input, named for it, and `label.npy` where there are labels, or one
    named for each of several outputs; a
    user may also hand in an `.npz` file, TFRecords of tf.Example, or a TFX
    Examples artifact. `paring.data.examples` reads all of them.

    Attributes:
        train_count: Examples in the train split.
        eval_count: Examples in the eval split.
        labelled: Whether there are labels.
        sample_weights: The column that the sample weights were taken from; "" where all examples
            count the same.
        compared_with_whole: Examples on which a model's numeric core was compared with the whole
            model; 0 where the model was not cut.
    """

    train_count: int = 0
    eval_count: int = 0
    labelled: bool = False
    sample_weights: str = ""
    compared_with_whole: int = 0


@dataclass
class CalibrationSet(Examples):
    """Examples of the train split that quantization takes its ranges from.

    `Split-train/` holds them, and `manifest.json` which they are.

    Attributes:
        range_difference: How far two models that are quantized on one half each
            lie apart: the median, over the activations, of the relative difference
            of their ranges. None where the model can't be quantized, or there is
            one example only.
        too_small: Whether that is more than a tenth, or there is one example only.
        also_in_eval: How many also stand in the eval split.
    """

    range_difference: float | None = None
    too_small: bool = False
    also_in_eval: int = 0

    @property
    def manifest(self) -> Path:
        """The JSON file that names the rows."""
        return self.path / "manifest.json"

    @property
    def warning(self) -> str | None:
        """Warning about a model that was calibrated on these examples; None if there is none."""
        result = []
        if self.too_small:
            apart = (
                "one example has no halves to compare"
                if self.range_difference is None
                else f"the ranges of their halves differ by {self.range_difference:.0%}"
            )
            result.append(f"calibrated on too few examples, {self.train_count}: {apart}")
        if self.also_in_eval:
            result.append(
                f"calibrated on {self.also_in_eval} examples that it is also judged on,"
                " since all of the train split is in the eval split"
            )
        return "; ".join(result) or None
