"""The step that measures how well a candidate predicts."""

import json
import logging
from typing import Annotated

from annotated_types import Ge

from paring.artifacts import EvaluationMetrics, Examples, Servable, content_digest
from paring.errors import ParameterError, UnsupportedError
from paring.evaluation.metrics import function_digest
from paring.step import Input, Output, step

_log = logging.getLogger(__name__)


@step(version="5")
def evaluate(
    source: Input[Servable],
    candidate: Input[Servable | None],
    examples: Input[Examples],
    evaluation: Output[EvaluationMetrics],
    *,
    metric: str = "auto",
    top_k: Annotated[int, Ge(1)] = 5,
    output: str = "",
    metric_digest: str = "",
    batch_size: Annotated[int, Ge(1)] = 64,
    beam_options: str = "",
    shared_dir: str = "",
) -> None:
    """Compare a candidate's predictions with the source's and the labels.

    Both models run over the whole eval split on Apache Beam, through RunInference: in
    one worker in this process, or wherever `beam_options` says. What their outputs are
    shows by the labels:

    - Integers [n] are classes: the prediction is the class with the highest
      score of [batch, classes]. An output [batch, 1] or [batch] is two classes:
      class 1 is what lies over 0.5 of a probability, or over 0 of a logit. Which
      of the two it is shows in the source's graph, or else in its values for the
      train split (`paring.evaluation.thresholds`). A prediction with NaN in it is
      wrong, and agrees with nothing. Metrics: top_1 (auto), top_k, and auc of two classes.
    - Integers [n, ...] are the classes of tokens of [batch, ..., classes]; those
      below 0 are padding, which is left out. Metric: token_accuracy (auto).
    - Zeros and ones of the shape of an output [batch, labels] say which of several
      labels apply, each held to the threshold; so do floats of zeros and ones of an
      output of a sigmoid. Metrics: top_1 or token_accuracy (auto).
    - One-hot floats of the shape of an output [batch, classes] or [batch, ..., classes]
      that comes from no sigmoid are the classes of examples or of tokens; a token's row
      of zeros is padding. Metrics: those of classes or tokens.
    - Integers of an integer output's own shape, class ids or counts, are
      compared with it by equality. Metrics: top_1 or token_accuracy (auto).
    - Other floats are values, and so are all floats if the metric is rmse or mae.
      Metrics: rmse (auto), mae.
    - Without labels the metric is the agreement with the source, which for
      outputs that are integers, or probabilities throughout, is the share of
      examples, or of tokens, with the same class; for others the share of the
      variance of the source's values that the candidate gives. A metric that is
      named says which.

    MODULE:FUNCTION is a function(predictions, labels) of the user's, called on
    each batch, that returns a number for each example; of a model with several
    outputs it gets a dict of each. More is better unless it has an attribute
    `lower_is_better` that is true. The metric is the mean over all examples.

    Scores, of which more is better, drop by source less candidate; errors by
    (candidate - source) / source, so that 0.01 is a growth of 1%.

    Of a model with several outputs each has its own metric, and the gate is on
    each, unless `output` names one or the metric is a function.

    `evaluation.json` holds `count`, `output`, `metric`, `higher_is_better`, `score`,
    `source_score`, and `drop` with its 95% confidence interval `drop_low` and
    `drop_high` (`paring.evaluation.scoring` has the methods; null for auc, and where there
    is no metric but agreement). Further, where they have a meaning and else null,
    `accuracy`, `source_accuracy`, `agreement`, `accuracy_drop` with
    `accuracy_drop_low` and `accuracy_drop_high`, `threshold` and `threshold_origin`
    (two classes only),
    `nan_predictions`, `source_nan_predictions`, `classes` (count and both
    accuracies of each), `most_confused` (the candidate's commonest mistakes); for
    values `mae`, `rmse` and the source's; for tokens their number `tokens`; for
    auc `score_error`, by how much it may be off. `gated_outputs` says on how many
    outputs the gate is, `other_outputs` has the figures of those that are not
    `output`, and `examples_digest` names the examples.

    Args:
        source: The model that everything is compared with; a SavedModel.
        candidate: The model to judge, in any form that a runtime takes; the source
            itself if left out.
        examples: Its eval split is used.
        evaluation: What is written.
        metric: What the gate goes by: auto, top_1, top_k, auc, mae, rmse,
            token_accuracy, or MODULE:FUNCTION.
        top_k: How many classes a prediction of the metric top_k has.
        output: The output that the gate is on, and the metric of. "" is each, and
            the metric is of the first with labels, by name, or the first at all;
            others have the metric auto.
        metric_digest: What the file of the user's function must be, as
            `paring.evaluation.metrics.function_digest` gives it; "" takes any. A run that was
            planned with it is not answered by another function's result.
        batch_size: Examples in one call of a model.
        beam_options: Apache Beam's pipeline options, as on a command line; "" is one
            worker in this process. Its runner is FnApiRunner (here), FlinkRunner,
            SparkRunner, DataflowRunner or PortableRunner (elsewhere).
        shared_dir: A folder that workers elsewhere reach: gs://, s3:// or a path. Both
            models and the split are put below it for as long as the run takes.

    Raises:
        ParameterError: There is no such metric or output, it does not go with the
            labels, or the user's function fails, or is in another file; or
            `beam_options` and `shared_dir` can't be taken, or not together.
        ExamplesError: They are not what the source takes.
        ModelError: A model can't be loaded, or names its tensors otherwise.
        UnsupportedError: The models' outputs can't be compared, or are NaN where
            a mean error is asked for.
        StorageError, OutputError: `shared_dir` can't be used.
        StepFailedError: The runner or its workers broke.
    """
    from paring.evaluation.beam_options import read_beam_options

    options = read_beam_options(beam_options, shared_dir)
    from paring.data.examples import open_split
    from paring.evaluation.inference import tally_pair
    from paring.evaluation.scoring import make_plan
    from paring.evaluation.thresholds import find_thresholds
    from paring.models.loading import saved_model_dir
    from paring.models.signature import read_signature

    folder = saved_model_dir(source)
    signature = read_signature(folder)
    split = open_split(examples, "eval", signature)
    labels = split.labels_by_output
    thresholds = find_thresholds(
        source, folder, signature, labels, lambda: open_split(examples, "train", signature)
    )
    numbers = [name for name, spec in signature.outputs.items() if spec.dtype != "object"]
    if not numbers:
        raise UnsupportedError(
            "the source has no output of numbers, so there is nothing to compare",
            received=f"outputs of text: {', '.join(signature.outputs)}",
            remedy="export it with its scores or values as an output",
        )
    plan = make_plan(
        metric, top_k, output, {name: labels.get(name) for name in numbers}, thresholds
    )
    if plan.function and metric_digest not in ("", function_digest(metric)):
        raise ParameterError(
            f"metric_digest: the file of {metric} is another one",
            received=function_digest(metric),
            remedy=f"start the run anew; it was planned with {metric_digest}",
        )
    judged = candidate or source
    found = tally_pair(source, judged, plan, split, batch_size, options, shared_dir).summary()
    if metric != "auto" and not labels:
        _log.warning("there are no labels, so agreement stands in for %s", metric)
    if found["nan_predictions"]:
        told = "%d predictions are NaN, on %d examples"
        _log.warning(told, found["nan_predictions"], found["count"])
    found["examples_digest"] = examples.digest or content_digest(examples.path)
    evaluation.file.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    for fact in ("metric", "score", "source_score", "drop", "drop_low", "drop_high"):
        setattr(evaluation, fact, found[fact])
    evaluation.gated_outputs = found["gated_outputs"]
    evaluation.higher_is_better = int(found["higher_is_better"])
    evaluation.count = found["count"]
    evaluation.accuracy = found["accuracy"]
    evaluation.source_accuracy = found["source_accuracy"]
    evaluation.agreement = found["agreement"]
