"""Magnitude pruning with fine-tuning."""

import json
from dataclasses import asdict
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt

from paring.artifacts import Examples, Model, PrunedModel
from paring.errors import ParameterError
from paring.step import Input, Output, Search, step
from paring.system.workers import StrategyName


@step(version="7", imports_models=True)
def prune(
    model: Input[Model],
    examples: Input[Examples],
    pruned: Output[PrunedModel],
    *,
    sparsity: Annotated[float, Ge(0), Lt(1), Search(0.2, 0.9, spacing=0.05)] = 0.5,
    pattern: Literal["unstructured", "1x4", "2:4"] = "unstructured",
    allocation: Literal["uniform", "sensitivity"] = "uniform",
    epochs: Annotated[int, Ge(1), Search(1, 8, log=True)] = 2,
    batch_size: Annotated[int, Ge(1)] = 32,
    learning_rate: Annotated[float, Gt(0), Search(1e-4, 5e-3, log=True)] = 1e-3,
    seed: Annotated[int, Ge(0)] = 0,
    weights: str = "",
    strategy: StrategyName = "auto",
) -> None:
    """Set the smallest weights of `model` to zero and fine-tune the rest.

    Magnitude pruning of each kernel on the gradual schedule of Zhu and Gupta
    (2017, arXiv:1710.01878), by tensorflow-model-optimization. Layers that it
    can't prune stay dense and are named in the facts. The best epoch among those at the
    full sparsity is kept, by the loss on a tenth of the train split; the eval
    split is not looked at. Batch-normalization statistics are re-estimated.

    A model without a Keras form is pruned on its graph: the kernels of its convolutions and
    matrix products, on the same schedule. It is fine-tuned to give its own outputs
    of before, so that no labels are needed, with the statistics of batch normalization as they
    are, on one device.

    The zeros can follow a pattern, in convolutions and dense layers; other layers then
    stay dense:

    - unstructured: no pattern;
    - 1x4: blocks of four neighbouring output channels (Elsen et al. 2019,
      arXiv:1911.09723), on the same schedule;
    - 2:4: two of four neighbouring input channels (Mishra et al. 2021,
      arXiv:2104.08378), all of them from the first step; the sparsity is 0.5.

    The zeros can also be allocated by the layers' sensitivity. For that,
    each layer alone is pruned to several sparsities, and the loss on up to 128 of the
    held-out examples is measured (Han et al. 2015, arXiv:1506.02626); then more zeros
    are allocated where the loss rises least.

    Examples:
        >>> pruned = paring.prune(network, arrays, sparsity=0.75, epochs=1)
        >>> round(pruned.sparsity, 2)
        0.75

    Args:
        model: A model with class scores or values as outputs.
        examples: Examples, labelled if the model has a Keras form; its train split is used.
        pruned: The same architecture under the same signature names, with the
            facts `sparsity`, `layer_sparsities` and `pattern`, measured over the
            prunable kernels, `unpruned_layers`, and `not_reached`, the layers that have fewer
            zeros than requested.
        sparsity: The share of zeros: of each prunable kernel, or with allocation
            sensitivity, of all prunable weights together.
        pattern: Pattern of the zeros; see above.
        allocation: uniform, or sensitivity; see above. The latter writes the measured
            losses to `sensitivity.json`.
        epochs: Passes over the train split.
        batch_size: Examples in a training step.
        learning_rate: Learning rate of the Adam optimizer.
        seed: Seed of all random numbers.
        weights: Column of sample weights, a number of 0 or more for each example, by which its
            loss is multiplied; "" for the column that the examples were imported with, if any.
            Examples of weight 0 are left out.
        strategy: Devices of the training: one_device; mirrored, all GPUs of the machine;
            multi_worker, the machines that TF_CONFIG names; tpu; xla, one device with the
            compiled steps of a TPU; auto takes what there is.

    Raises:
        ParameterError: Pattern 2:4 with another sparsity than 0.5, or with allocation
            sensitivity; a strategy of several devices for a model without a Keras form.
        UnsupportedError: No layer can be pruned or none was, the examples lack labels, no loss
            goes with the model's outputs, or an operator of its graph has no gradient.
        ModelError: `model` is missing or broken.
        ExamplesError: `examples` are missing or not what the model takes.
        StepFailedError: The training diverged.
        MissingDependencyError: Strategy tpu was requested, and there is no TPU.
    """
    if pattern == "2:4" and sparsity != 0.5:
        raise ParameterError(
            "pattern 2:4 makes half of the weights zero",
            received=f"sparsity {sparsity}",
            remedy="leave sparsity out, or use pattern 1x4 or unstructured",
        )
    if pattern == "2:4" and allocation == "sensitivity":
        raise ParameterError(
            "pattern 2:4 leaves nothing to allocate: it makes half of every kernel zero",
            received=f"allocation {allocation}",
            remedy="leave allocation out, or use pattern 1x4 or unstructured",
        )
    from paring.models.loading import has_trainable_layers
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    if not has_trainable_layers(model):
        from paring.training.graphs.graph_training import open_graph_training
        from paring.training.graphs.pruning import prune_graph

        prune_graph(
            open_graph_training(
                model,
                examples,
                batch_size=batch_size,
                seed=seed,
                strategy=strategy,
                weights=weights,
            ),
            pruned,
            sparsity=sparsity,
            pattern=pattern,
            allocation=allocation,
            epochs=epochs,
            learning_rate=learning_rate,
        )
        return
    from paring.training.pruning.pruning import Pruning, prunable_layers
    from paring.training.pruning.sensitivity import allocate, scan
    from paring.training.training import open_training

    training = open_training(
        model, examples, batch_size=batch_size, seed=seed, strategy=strategy, weights=weights
    )
    with training.devices.scope():
        layers = prunable_layers(training.model, pattern)
        shares = [sparsity] * len(layers)
        if allocation == "sensitivity":
            result = scan(training, layers, sparsity=sparsity, pattern=pattern)
            shares = allocate(result, sparsity)
            table = [
                asdict(item) | {"asked": share} for item, share in zip(result, shares, strict=True)
            ]
            pruned.sensitivity_file.write_text(json.dumps(table, indent=2) + "\n")
        pruning = Pruning(
            training.model,
            sparsities=dict(zip(layers, shares, strict=True)),
            steps=epochs * training.steps_per_epoch,
            pattern=pattern,
        )
        training.fine_tune(
            pruning.model,
            epochs=epochs,
            learning_rate=learning_rate,
            callbacks=[pruning.callback()],
            may_keep=pruning.reached,
        )
        stripped = pruning.strip()
    training.save(stripped, model, pruned)
    pruned.not_reached = tuple(pruning.shortfalls())
    pruned.sparsity = pruning.sparsity()
    pruned.layer_sparsities = tuple(
        f"{name} {share:.3f}" for name, share in pruning.layer_sparsities()
    )
    pruned.pattern = pruning.pattern()
    pruned.unpruned_layers = tuple(pruning.left_out)
