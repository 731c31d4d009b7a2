"""Accuracy of a candidate and its agreement with the source, on held-out examples."""

import json
import logging
from typing import Annotated

from annotated_types import Ge

from paring.artifacts import EvaluationMetrics, Examples, Servable, content_digest
from paring.errors import ParameterError, UnsupportedError
from paring.evaluation.metrics import function_digest
from paring.step import Input, Output, step

_log = logging.getLogger(__name__)


@step(version="9", runs_model=True)
def evaluate(
    source: Input[Servable],
    candidate: Input[Servable | None],
    examples: Input[Examples],
    evaluation: Output[EvaluationMetrics],
    *,
    metric: str = "auto",
    top_k: Annotated[int, Ge(1)] = 5,
    output: str = "",
    weights: str = "",
    metric_digest: str = "",
    batch_size: Annotated[int, Ge(1)] = 64,
    beam_options: str = "",
    shared_dir: str = "",
) -> None:
    """Compare a candidate's predictions with the source's and the labels.

    Both models run over the whole eval split on Apache Beam, through RunInference: in
    one worker in this process, or on the runner of `beam_options`. On a host with a TPU
    SavedModels are compiled by XLA and run on one core of it. The labels determine the
    kind of each output:

    - Integers [n] are classes: the prediction is the class with the highest
      score of [batch, classes]. An output [batch, 1] or [batch] is two classes:
      class 1 is a probability over 0.5, or a logit over 0. The kind follows
      from the source's graph, or else from its values for the
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
      variance of the source's values that the candidate explains. `metric` can
      name either.

    MODULE:FUNCTION is a user's function(predictions, labels), called on
    each batch, that returns a number for each example; for a model with several
    outputs both are dicts by output. More is better unless it has an attribute
    `lower_is_better` that is true. The metric is the mean over all examples.

    The drop of scores, of which more is better, is source less candidate; of errors
    (candidate - source) / source, so that 0.01 is a growth of 1%.

    With sample weights each example, and each of its tokens, counts in proportion to its
    weight in every metric, the agreement and the intervals; counts remain numbers of examples.
    A weight of 0 leaves the example out. Areas, shares and means equal those of examples
    that are repeated as often; intervals do not, since repeating adds no information.

    Each of several outputs of a model has its own metric, and the gate applies to
    each, unless `output` names one or the metric is a function.

    `evaluation.json` holds `count`, `output`, `metric`, `higher_is_better`, `score`,
    `source_score`, and `drop` with its 95% confidence interval `drop_low` and
    `drop_high` (`paring.evaluation.scoring` has the methods), or null and the reason in
    `no_interval`. Further, where they have a meaning and else null,
    `accuracy`, `source_accuracy`, `agreement`, `accuracy_drop` with
    `accuracy_drop_low` and `accuracy_drop_high`, `threshold` and `threshold_origin`
    (two classes only),
    `nan_predictions`, `source_nan_predictions`, `classes` (count and both
    accuracies of each), `most_confused` (the candidate's commonest mistakes); for
    values `mae`, `rmse` and the source's; for tokens their number `tokens`; for
    auc `score_error`, the bound on its error. `gated_outputs` is the number of outputs
    that the gate applies to, `other_outputs` has the figures of those that are not
    `output`, `sample_weights` is the column of weights or null, and `examples_digest` is
    the digest of the examples.

    Examples:
        >>> converted = paring.convert_tflite(network)
        >>> evaluation = paring.evaluate(network, converted, arrays)
        >>> evaluation.metric, evaluation.agreement
        ('top_1', 1.0)

    Args:
        source: The model that candidates are compared with; a SavedModel.
        candidate: The model to evaluate, in any form that a runtime takes; the source
            itself if left out.
        examples: Its eval split is used.
        evaluation: Figures in `evaluation.json`.
        metric: Metric of the accuracy gate: auto, top_1, top_k, auc, mae, rmse,
            token_accuracy, or MODULE:FUNCTION.
        top_k: Number of classes in a prediction of the metric top_k.
        output: The only output that the gate and the metric apply to. "" is each, and
            the metric applies to the first with labels, by name, or the first at all;
            others have the metric auto.
        weights: Column of sample weights, a number of 0 or more for each example; "" for the
            column that the examples were imported with, if any.
        metric_digest: Required digest of the file of the user's function, as
            `paring.evaluation.metrics.function_digest` returns it; "" accepts any. A run that
            was planned with it is not answered by another function's result.
        batch_size: Examples in one call of a model.
        beam_options: Apache Beam's pipeline options, as on a command line; "" is one
            worker in this process. Its runner is FnApiRunner (here), FlinkRunner,
            SparkRunner, DataflowRunner or PortableRunner (elsewhere).
        shared_dir: A folder that remote workers can reach: gs://, s3:// or a path. Both
            models and the split are stored below it during the run.

    Raises:
        ParameterError: There is no such metric or output, it does not fit the
            labels, or the user's function fails, or its file has another digest; or
            `beam_options` and `shared_dir` are invalid, or not valid together.
        ExamplesError: The examples are not what the source takes.
        ModelError: A model can't be loaded, or names its tensors otherwise.
        UnsupportedError: The models' outputs can't be compared, or are NaN where
            a mean error is requested; or XLA can't compile a SavedModel for a TPU.
        StorageError, OutputError: `shared_dir` can't be used.
        StepFailedError: The runner or its workers broke.
    """
    from paring.evaluation.beam_options import read_beam_options
    from paring.models.tpu import has_tpu

    options = read_beam_options(beam_options, shared_dir)
    on_tpu = has_tpu() and not options.is_remote
    if on_tpu:
        options.check_tpu()
    from paring.data.examples import open_split
    from paring.evaluation.inference import tally_pair
    from paring.evaluation.scoring import make_plan
    from paring.evaluation.thresholds import find_thresholds
    from paring.graphs.xla import check_before_tpu
    from paring.models.saved_model import SavedModel

    saved = SavedModel.open(source)
    signature = saved.signature()
    split = open_split(examples, "eval", signature, weights=weights)
    labels = split.labels_by_output
    thresholds = find_thresholds(
        source,
        saved,
        labels,
        lambda: open_split(examples, "train", signature, weights=weights),
    )
    numbers = [name for name, spec in signature.outputs.items() if spec.dtype != "object"]
    if not numbers:
        raise UnsupportedError(
            "the source has no output of numbers, so there is nothing to compare",
            received=f"outputs of text: {', '.join(signature.outputs)}",
            remedy="export it with its scores or values as an output",
        )
    plan = make_plan(
        metric,
        top_k=top_k,
        gated=output,
        outputs={name: labels.get(name) for name in numbers},
        thresholds=thresholds,
    )
    if plan.function and metric_digest not in ("", function_digest(metric)):
        raise ParameterError(
            f"metric_digest: the file of {metric} is another one",
            received=function_digest(metric),
            remedy=f"start the run again; it was planned with {metric_digest}",
        )
    judged = candidate or source
    if on_tpu:
        check_before_tpu([source, judged], batch_size)
    result = tally_pair(
        source, judged, plan, split, batch_size=batch_size, options=options, shared_dir=shared_dir
    ).summary()
    if metric != "auto" and not labels:
        _log.warning("there are no labels, so agreement stands in for %s", metric)
    if result["nan_predictions"]:
        answer = "%d predictions are NaN, on %d examples"
        _log.warning(answer, result["nan_predictions"], result["count"])
    result["sample_weights"] = split.weights_column or None
    result["examples_digest"] = examples.digest or content_digest(examples.path)
    evaluation.file.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    for fact in ("metric", "score", "source_score", "drop", "drop_low", "drop_high"):
        setattr(evaluation, fact, result[fact])
    evaluation.no_interval = result["no_interval"] or ""
    evaluation.sample_weights = split.weights_column
    evaluation.gated_outputs = result["gated_outputs"]
    evaluation.higher_is_better = result["higher_is_better"]
    evaluation.count = result["count"]
    evaluation.accuracy = result["accuracy"]
    evaluation.source_accuracy = result["source_accuracy"]
    evaluation.agreement = result["agreement"]
