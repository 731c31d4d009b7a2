"""The step that measures how well a candidate predicts."""

import json
import logging
from typing import Annotated

from annotated_types import Ge

from paring.artifacts import EvaluationMetrics, Examples, Model, Servable, content_digest
from paring.step import Input, Output, step

_log = logging.getLogger(__name__)


@step(version="1")
def evaluate(
    source: Input[Servable],
    candidate: Input[Servable],
    examples: Input[Examples],
    evaluation: Output[EvaluationMetrics],
    *,
    batch_size: Annotated[int, Ge(1)] = 64,
) -> None:
    """Compare a candidate's predictions with the source's and the labels.

    Both models run over the whole eval split, on Apache Beam's in-process
    runner through RunInference. The prediction is the class with the highest
    score of the source's first output, [batch, classes]. An output [batch, 1]
    is two classes: if all of the source's values lie in 0 to 1 it is taken as a
    probability, and class 1 is what lies over 0.5; otherwise as a logit, and
    class 1 is what lies over 0. A prediction with NaN in it is wrong, and agrees
    with nothing.

    `evaluation.json` holds `count`, `accuracy`, `source_accuracy`, `agreement`
    (share of examples where both models choose the same class),
    `accuracy_drop` with its 95% confidence interval `accuracy_drop_low` and
    `accuracy_drop_high` (`paring.tf.scoring.paired_interval` has the method),
    `threshold` (two classes only), `nan_predictions`, `classes` (count and both
    accuracies of each), `most_confused` (the candidate's commonest mistakes) and
    `examples_digest`. What needs labels is null without them.

    Args:
        source: The model that everything is compared with; a SavedModel.
        candidate: What is judged, in any form that a runtime takes.
        examples: Its eval split is used.
        evaluation: What is written.
        batch_size: Examples in one call of a model.

    Raises:
        ExamplesError: They are not what the source takes.
        ModelError: A model can't be loaded, or names its tensors otherwise.
        UnsupportedError: The models are no classifiers of the same classes.
    """
    from paring.tf.examples import open_split
    from paring.tf.inference import tally_pair
    from paring.tf.loading import saved_model_dir
    from paring.tf.signature import read_signature

    signature = read_signature(saved_model_dir(Model(source.path)))
    split = open_split(examples, "eval", signature)
    output = next(iter(signature.outputs))
    found = tally_pair(source, candidate, output, split, batch_size).summary()
    if found["nan_predictions"]:
        _log.warning("%d of %d predictions are NaN", found["nan_predictions"], found["count"])
    found["examples_digest"] = examples.digest or content_digest(examples.path)
    evaluation.file.write_text(json.dumps(found, indent=2) + "\n")
    evaluation.count = found["count"]
    evaluation.accuracy = found["accuracy"]
    evaluation.source_accuracy = found["source_accuracy"]
    evaluation.agreement = found["agreement"]
