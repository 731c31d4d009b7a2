"""The step `cluster`."""

from typing import Annotated

from annotated_types import Ge, Gt, Le

from paring.artifacts import ClusteredModel, Examples, Model
from paring.step import Input, Output, step
from paring.system.workers import StrategyName


@step(version="5", imports_models=True)
def cluster(
    model: Input[Model],
    examples: Input[Examples],
    clustered: Output[ClusteredModel],
    *,
    clusters: Annotated[int, Ge(2), Le(256)] = 16,
    preserve_sparsity: bool = False,
    epochs: Annotated[int, Ge(1)] = 2,
    batch_size: Annotated[int, Ge(1)] = 32,
    learning_rate: Annotated[float, Gt(0)] = 1e-4,
    seed: Annotated[int, Ge(0)] = 0,
    strategy: StrategyName = "auto",
) -> None:
    """Let the weights of each kernel share a few values, and fine-tune those.

    Weight sharing of Han, Mao and Dally, "Deep Compression" (2016,
    arXiv:1510.00149), by tensorflow-model-optimization: k-means++ (Arthur and
    Vassilvitskii 2007) finds the first centroids, and training moves them. Layers
    that it can't cluster are named in the facts. The best epoch is kept, by the loss
    on a tenth of the train split; the eval split is not looked at.
    Batch-normalization statistics are re-estimated.

    Args:
        model: A model in Keras form, with class scores or values as outputs.
        examples: Labelled examples; its train split is used.
        clustered: The same architecture under the same signature names, with the
            facts `distinct_weights`, the most values in any clustered kernel,
            `sparsity`, `left_unclustered`, and `not_reached`, the layers with more values.
        clusters: How many values each kernel may have.
        preserve_sparsity: Keep the zeros of a pruned model where they are.
        epochs: Passes over the train split.
        batch_size: Examples in a training step.
        learning_rate: Adam's.
        seed: Everything random follows from it.
        strategy: What the training runs on: one_device; mirrored, all GPUs of the machine;
            multi_worker, the machines that TF_CONFIG names; tpu; auto takes what there is.

    Raises:
        UnsupportedError: No layer can be clustered or none was, the examples have no labels, or
            the model is not in Keras form, or no loss goes with its outputs.
        ModelError: `model` is missing or broken.
        ExamplesError: `examples` are missing or not what the model takes.
        StepFailedError: The training diverged.
        MissingDependencyError: There is no TPU, and strategy tpu was asked for.
    """
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    import numpy as np

    from paring.training.quantization.clustering import Clustering
    from paring.training.training import open_training
    from paring.training.wrapping import share_of_zeros

    training = open_training(model, examples, batch_size=batch_size, seed=seed, strategy=strategy)
    with training.devices.scope():
        clustering = Clustering(
            training.model, clusters=clusters, preserve_sparsity=preserve_sparsity
        )
        training.fine_tune(clustering.model, epochs=epochs, learning_rate=learning_rate)
        stripped = clustering.strip()
    training.save(stripped, model, clustered)
    clustered.not_reached = "; ".join(clustering.shortfalls())
    kernels = clustering.kernels()
    clustered.distinct_weights = max(len(np.unique(kernel)) for kernel in kernels)
    clustered.sparsity = share_of_zeros(kernels)
    clustered.left_unclustered = ", ".join(clustering.left_out)
