"""Fine-tuning of a SavedModel's graph, with the source's own outputs as targets.

No labels and no Keras form are needed: the signature's function is the forward pass, as at
inference, without dropout. Only batch normalization takes the statistics of each batch, which are
computed again for inference.
"""

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from paring.artifacts import Examples, Model, content_bytes
from paring.data.examples import Split, open_split
from paring.errors import (
    ExamplesError,
    ParameterError,
    StepFailedError,
    UnsupportedError,
    first_line,
)
from paring.graphs.graph import load_function
from paring.models.arguments import by_name
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature
from paring.system.workers import StrategyName
from paring.training.feeding import Portions, Rows, hold_out, prefetched, shuffled_rows
from paring.training.graphs.graph_model import GraphModel
from paring.training.graphs.teaching import TaughtOutput, taught_outputs
from paring.training.graphs.weights import GraphWeight
from paring.training.training import seed_everything, steps_per_epoch

# Examples that show what kind of values the outputs are.
_LOOKED_AT = 128
# Largest difference of outputs between what was trained and what was saved, of their largest.
_TOLERANCE = 1e-4
# Examples that statistics of batch normalization are computed from.
_ENOUGH = 10_000
# A function in XLA's own form, and calls that are not inlined.
_COMPILED = "XlaCallModule"
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_OPERATOR = re.compile(r"\(op type: (\w+)\)")

_log = logging.getLogger(__name__)

Values = Mapping[GraphWeight, Any]


@dataclass(frozen=True)
class GraphTraining:
    """SavedModel to fine-tune, and the data for it.

    Attributes:
        source: The artifact of the model.
        model: The signature's graph.
        signature: What it takes and gives.
        split: The train split.
        portions: Its rows to train on and to validate on.
        outputs: What is compared with the source.
        kernels: Those of the model's kernels that its outputs depend on.
        left_out: The other weights with several axes, each with the reason.
        batch_size: Examples in a step; the model's own where it is fixed.
        seed: Seed of all random numbers.
        statistics: The means and variances of batch normalizations, as tf.Variables, which
            training computes again.
    """

    source: Model
    model: GraphModel
    signature: Signature
    split: Split
    portions: Portions
    outputs: Sequence[TaughtOutput]
    kernels: Sequence[GraphWeight]
    left_out: Sequence[str]
    batch_size: int
    seed: int
    statistics: Values

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in a pass over the training rows, at least 1."""
        return steps_per_epoch(self.portions, self.batch_size)

    def choose_kernels(
        self, misfit: Callable[[GraphWeight], str | None], *, step: str, participle: str
    ) -> tuple[list[GraphWeight], list[str]]:
        """Return the kernels that a step can work on, and the other weights with the reasons.

        Args:
            misfit: Gives the reason why a kernel is left as it is, or None.
            step: Name of the step, for the error.
            participle: What becomes of the kernels, for the error.

        Raises:
            UnsupportedError: It can work on none.
        """
        reasons = {weight: misfit(weight) for weight in self.kernels}
        chosen = [weight for weight, reason in reasons.items() if reason is None]
        left_out = [
            *self.left_out,
            *(
                f"{weight.name} ({reason})"
                for weight, reason in reasons.items()
                if reason is not None
            ),
        ]
        if not chosen:
            raise UnsupportedError(
                f"the model has no kernel that can be {participle}",
                received="; ".join(left_out[:5]),
                remedy=f"use a recipe without {step}",
            )
        return chosen, left_out

    def other_variables(self, kernels: Collection[GraphWeight]) -> dict[GraphWeight, Any]:
        """Return a tf.Variable for each weight that is trained and not among `kernels`."""
        return {
            weight: tf.Variable(weight.value, name="weight")
            for weight in self.model.trained
            if weight not in kernels
        }

    def features(self, rows: Rows) -> dict[str, NDArray[Any]]:
        """Return the features at `rows`, by the inputs' names."""
        return {name: np.asarray(array[rows]) for name, array in self.split.features.items()}

    def losses(self, features: Mapping[str, Any], values: Values, *, training: bool = False) -> Any:
        """Return the losses [batch] of the graph with `values`, in a tf.function.

        Outputs without an axis for examples add the same to each.
        """
        tensors = [item.tensor for item in self.outputs]
        values = {**values, **{key: item.read_value() for key, item in self.statistics.items()}}
        taught = self.model.call(features, {}, tensors)
        given = self.model.call(features, values, tensors, training=training)
        parts = zip(self.outputs, given, taught, strict=True)
        # Scalars of outputs without an axis for examples are broadcast.
        total = tf.zeros(tf.shape(next(iter(features.values())))[:1])
        for item, student, teacher in parts:
            total += item.loss(student, teacher)
        return total

    def validation_loss(self, values: Callable[[], Values]) -> Callable[[Rows], float]:
        """Return a function that computes the mean loss at some rows.

        Args:
            values: Gives the weights' values; called within a tf.function, which is traced once
                for each size of batch.
        """

        @tf.function(autograph=False, reduce_retracing=True)  # type: ignore[untyped-decorator]
        def losses(features: Mapping[str, Any]) -> Any:
            return self.losses(features, values())

        def mean(rows: Rows) -> float:
            total, count = 0.0, 0.0
            for start in range(0, len(rows), self.batch_size):
                part = rows[start : start + self.batch_size]
                weights = self._weights(part)
                if self._fixed:
                    part = np.concatenate([part, np.repeat(part[-1:], self._fixed - len(part))])
                result = np.broadcast_to(losses(self.features(part)).numpy(), len(part))
                total += float(np.sum(result[: len(weights)] * weights))
                count += float(np.sum(weights))
            return total / count

        return mean

    def fine_tune(
        self,
        variables: Sequence[Any],
        values: Callable[[], Values],
        *,
        epochs: int,
        learning_rate: float,
        state: Sequence[Any] = (),
        before_step: Callable[[], None] = lambda: None,
        may_keep: Callable[[], bool] = lambda: True,
    ) -> None:
        """Train variables with Adam and leave them at the best epoch's values.

        After each epoch the statistics of batch normalization are computed again, and then the
        loss on the validation rows decides.

        Args:
            variables: tf.Variables.
            values: Gives the graph's weights, computed from the variables.
            epochs: Passes over the training rows, at least 1.
            learning_rate: Learning rate of the optimizer.
            state: Other tf.Variables that `values` reads, kept of the same epoch.
            before_step: Called before each step.
            may_keep: Asked at each epoch's end whether its values may be the result; where none
                may, the last epoch's are.

        Raises:
            StepFailedError: The loss is not finite in any epoch that may be kept.
        """
        seed_everything(self.seed)
        optimizer = tf_keras.optimizers.Adam(learning_rate)
        optimizer.build(variables)

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def train(features: Mapping[str, Any], weights: Any) -> None:
            losses = self.losses(features, values(), training=True)
            loss = tf.reduce_sum(losses * weights) / tf.cast(tf.size(weights), tf.float32)
            gradients = tf.gradients(loss, variables)
            pairs = zip(gradients, variables, strict=True)
            optimizer.apply_gradients([pair for pair in pairs if pair[0] is not None])

        batches = iter(
            prefetched(
                lambda: shuffled_rows(self.portions.train, self.batch_size, self.seed),
                lambda rows: (self.features(rows), self._weights(rows)),
            )
        )
        validation_loss = self.validation_loss(values)
        reestimate = self._reestimation(values)
        state = [*state, *self.statistics.values()]
        best_loss, best = np.inf, None
        for epoch in range(epochs):
            for _ in range(self.steps_per_epoch):
                before_step()
                train(*next(batches))
            reestimate()
            validation = validation_loss(self.portions.validation)
            _log.info("epoch %d of %d: validation loss %.4f", epoch + 1, epochs, validation)
            kept = may_keep() or epoch + 1 == epochs
            if kept and np.isfinite(validation) and validation < best_loss:
                best_loss, best = (
                    validation,
                    [variable.numpy() for variable in (*variables, *state)],
                )
        if best is None:
            raise StepFailedError(
                "fine-tuning diverged: the validation loss is not a finite number",
                received=f"learning_rate {learning_rate}",
                remedy="give a lower learning_rate",
            )
        for variable, value in zip((*variables, *state), best, strict=True):
            variable.assign(value)

    def _reestimation(self, values: Callable[[], Values]) -> Callable[[], None]:
        """Return a function that sets `statistics` to those over the training rows."""

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def moments(features: Mapping[str, Any]) -> Any:
            return self.model.moments(features, values())

        # As in `paring.training.batch_norm`: more examples change little.
        generator = np.random.default_rng(self.seed)
        rows = generator.permutation(self.portions.train)[:_ENOUGH]
        size = min(self.batch_size, len(rows))

        def reestimate() -> None:
            batches = [
                tf.nest.map_structure(lambda item: item.numpy().astype(np.float64), pairs)
                for start in range(0, len(rows) - size + 1, size)
                if (pairs := moments(self.features(np.sort(rows[start : start + size]))))
            ]
            if not batches:
                return
            for place, item in enumerate(self.model.batch_norms):
                mean = np.mean([batch[place][0] for batch in batches], axis=0)
                square = np.mean([batch[place][1] for batch in batches], axis=0)
                self.statistics[item.mean].assign(mean)
                self.statistics[item.variance].assign(np.maximum(square - mean**2, 0))

        return reestimate

    def save(self, values: Mapping[GraphWeight, NDArray[np.float32]], output: Model) -> GraphModel:
        """Write the SavedModel with trained weights, and check that it is what was trained.

        Returns:
            What was written, loaded again.

        Raises:
            StepFailedError: It gives other outputs than the trained graph, or has another
                signature than the source.
        """
        values = {**values, **{key: item.numpy() for key, item in self.statistics.items()}}
        self.model.save(values, output.serving_dir)
        written = SavedModel(output.serving_dir, self.source.signature)
        rows = self.portions.validation[: self.batch_size]
        if self._fixed:
            rows = np.resize(rows, self._fixed)
        features = self.features(rows)

        @tf.function(autograph=False)  # type: ignore[untyped-decorator]
        def trained(features: Mapping[str, Any]) -> Any:
            constants = {weight: tf.constant(value) for weight, value in values.items()}
            tensors = list(self.model.graph.outputs.values())
            return self.model.call(features, constants, tensors)

        names = self.model.graph.outputs
        wanted = dict(zip(names, trained(features), strict=True))
        given = by_name(load_function(written))(_as_tensors(features))
        for name, tensor in wanted.items():
            _check_equal(name, tensor.numpy(), given[name].numpy())
        if written.signature() != self.signature:
            raise StepFailedError(
                "the trained SavedModel has another signature than its source",
                received=str(written.signature()),
                remedy="report this model; conversion works on the source as it is",
            )
        output.keras = "none"
        output.not_trainable = self.source.not_trainable
        output.source_precision = self.source.source_precision
        output.size_bytes = content_bytes(output.serving_dir)
        output.trained_on = "one_device, 1 replica, float32"
        output.trained_form = "graph"
        output.sample_weights = self.split.weights_column
        return GraphModel.open(output.serving_dir, self.source.signature)

    @property
    def _fixed(self) -> int:
        """The only batch size that the model takes; 0 where it takes any."""
        sizes = [spec.shape[0] for spec in self.signature.inputs.values() if spec.shape]
        return next((size for size in sizes if size is not None), 0)

    def _weights(self, rows: Rows) -> NDArray[np.float32]:
        if self.split.weights is None:
            return np.ones(len(rows), np.float32)
        return np.asarray(self.split.weights[rows], np.float32)


def open_graph_training(
    model: Model,
    examples: Examples,
    *,
    batch_size: int,
    seed: int,
    strategy: StrategyName = "auto",
    weights: str = "",
) -> GraphTraining:
    """Load a SavedModel and its train split, and check that its weights can be trained.

    Args:
        model: A model with a SavedModel.
        examples: Its train split is used, with labels or without.
        batch_size: Examples in a step.
        seed: Seed of all random numbers.
        strategy: auto or one_device.
        weights: The column of sample weights; "" for those that the examples were imported
            with, or none.

    Raises:
        ParameterError: Another strategy.
        UnsupportedError: No convolution or matrix product has a weight that can be trained, an
            operator has no gradient, or no output can be compared.
        ModelError: The model is missing or broken.
        ExamplesError: The examples are missing or not what the model takes.
    """
    if strategy not in ("auto", "one_device"):
        raise ParameterError(
            f"strategy {strategy} is for models in Keras form; this one is trained on its graph",
            received=strategy,
            remedy="leave strategy out, or give one_device",
        )
    seed_everything(seed)
    saved = SavedModel.open(model)
    signature = saved.signature()
    split = open_split(examples, "train", signature, weights=weights)
    graph_model = GraphModel(saved)
    if not graph_model.weights.kernels:
        raise _no_kernels(model, graph_model)
    fixed = next(
        (spec.shape[0] for spec in signature.inputs.values() if spec.shape and spec.shape[0]), 0
    )
    portions = hold_out(split, seed)
    count = len(portions.train)
    if fixed and fixed > count:
        raise ExamplesError(
            f"the model takes batches of {fixed}, and there are fewer examples to train on",
            received=f"{count} examples",
            remedy="give more examples, or a model with a free batch size",
        )
    batch_size = fixed or min(batch_size, len(portions.train))
    rows = split.used_rows[: fixed or _LOOKED_AT]
    outputs = taught_outputs(
        graph_model, split, _source_outputs(graph_model, split, rows), len(rows)
    )
    reached = _reached(graph_model, outputs, split, rows[:batch_size])
    left_out = [
        *graph_model.weights.left_out,
        *(
            f"{item.name} (no output's loss depends on it)"
            for item in graph_model.weights.kernels
            if item not in reached
        ),
    ]
    statistics = {
        weight: tf.Variable(weight.value, trainable=False)
        for item in graph_model.batch_norms
        for weight in (item.mean, item.variance)
    }
    return GraphTraining(
        source=model,
        model=graph_model,
        signature=signature,
        split=split,
        portions=portions,
        outputs=outputs,
        kernels=reached,
        left_out=left_out,
        batch_size=batch_size,
        seed=seed,
        statistics=statistics,
    )


def _no_kernels(artifact: Model, model: GraphModel) -> UnsupportedError:
    why = "; ".join(model.weights.left_out[:5])
    operators = {node.op for node in model.graph.graph_def.node}
    if _COMPILED in operators:
        why = f"{_COMPILED}, as jax2tf writes it: a compiled program, whose weights are hidden"
    elif not operators.isdisjoint(_CALLS):
        why = "a function that only XLA computes, with all of its weights"
    return UnsupportedError(
        f"{artifact.path} has no weight that can be trained on its graph",
        received=why
        or "no convolution or matrix product with a variable or constant in its signature",
        remedy="use a recipe without training steps",
    )


def _source_outputs(model: GraphModel, split: Split, rows: Rows) -> dict[str, NDArray[Any]]:
    """Return the source's outputs of a floating type, in float32."""
    names = list(model.scores)

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def call(features: Mapping[str, Any]) -> Any:
        return [
            tf.cast(tensor, tf.float32)
            for tensor in model.call(features, {}, [model.graph.outputs[name] for name in names])
        ]

    features = {name: tf.constant(np.asarray(item[rows])) for name, item in split.features.items()}
    return {name: tensor.numpy() for name, tensor in zip(names, call(features), strict=True)}


def _reached(
    model: GraphModel, outputs: Sequence[TaughtOutput], split: Split, rows: Rows
) -> list[GraphWeight]:
    """Return the kernels that the loss has a gradient of.

    Raises:
        UnsupportedError: An operator between has none, or the loss depends on no kernel.
    """
    reached: list[GraphWeight] = []

    @tf.function(autograph=False)  # type: ignore[untyped-decorator]
    def gradients(features: Mapping[str, Any]) -> Any:
        values = {weight: tf.constant(weight.value) for weight in model.weights.kernels}
        tensors = [item.tensor for item in outputs]
        taught = model.call(features, {}, tensors)
        given = model.call(features, values, tensors)
        parts = zip(outputs, given, taught, strict=True)
        losses = [tf.reduce_mean(item.loss(student, teacher)) for item, student, teacher in parts]
        computed = tf.gradients(tf.add_n(losses), list(values.values()))
        reached[:] = [
            item for item, gradient in zip(values, computed, strict=True) if gradient is not None
        ]
        return [gradient for gradient in computed if gradient is not None]

    features = {name: tf.constant(np.asarray(item[rows])) for name, item in split.features.items()}
    try:
        gradients(features)
    except (
        tf.errors.OpError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        operator = _OPERATOR.search(str(error))
        raise UnsupportedError(
            "an operator of this model's graph has no gradient, so that it can't be trained",
            received=operator.group(1) if operator else first_line(error),
            remedy="use a recipe without training steps; conversion works on this one as it is",
        ) from error
    if not reached:
        raise UnsupportedError(
            "no output of this model depends on a kernel in a way that has a gradient",
            received=f"outputs {', '.join(item.name for item in outputs)}",
            remedy="export a signature with scores or values, or use a recipe without training"
            " steps",
        )
    return reached


def _as_tensors(features: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: tf.constant(array) for name, array in features.items()}


def _check_equal(name: str, wanted: NDArray[Any], given: NDArray[Any]) -> None:
    """Raise StepFailedError if an output of the saved model is not the trained graph's."""
    if wanted.dtype.kind not in "fc":
        equal = wanted.shape == given.shape and bool(np.mean(wanted == given) > 1 - _TOLERANCE)
    else:
        scale = float(np.max(np.abs(wanted), initial=0.0)) or 1.0
        equal = wanted.shape == given.shape and np.allclose(
            wanted, given, rtol=0, atol=_TOLERANCE * scale
        )
    if not equal:
        raise StepFailedError(
            f"output {name!r} of the saved model is not that of the trained graph",
            received=f"shapes {wanted.shape} and {given.shape}",
            remedy="report this model; conversion works on the source as it is",
        )
