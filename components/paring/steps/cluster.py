"""Weight clustering with fine-tuning."""

from typing import Annotated

from annotated_types import Ge, Gt, Le

from paring.artifacts import ClusteredModel, Examples, Model
from paring.step import Input, Output, Search, step
from paring.system.workers import StrategyName


@step(version="7", imports_models=True)
def cluster(
    model: Input[Model],
    examples: Input[Examples],
    clustered: Output[ClusteredModel],
    *,
    clusters: Annotated[int, Ge(2), Le(256), Search(4, 64, log=True)] = 16,
    preserve_sparsity: bool = False,
    epochs: Annotated[int, Ge(1), Search(1, 8, log=True)] = 2,
    batch_size: Annotated[int, Ge(1)] = 32,
    learning_rate: Annotated[float, Gt(0), Search(1e-5, 1e-3, log=True)] = 1e-4,
    seed: Annotated[int, Ge(0)] = 0,
    weights: str = "",
    strategy: StrategyName = "auto",
) -> None:
    """Cluster the weights of each kernel to a few shared values, and fine-tune those.

    Weight sharing of Han, Mao and Dally, "Deep Compression" (2016,
    arXiv:1510.00149), by tensorflow-model-optimization: k-means++ (Arthur and
    Vassilvitskii 2007) finds the first centroids, and training moves them. Layers
    that it can't cluster are named in the facts. The best epoch is kept, by the loss
    on a tenth of the train split; the eval split is not read.
    Batch-normalization statistics are re-estimated.

    A model without a Keras form is clustered on its graph: the kernels of its convolutions and
    matrix products. Each weight keeps the cluster that k-means gives it, and the centroids are
    fine-tuned to give the model's own outputs of before, so that no labels are
    needed, on one device.

    Examples:
        >>> clustered = paring.cluster(network, arrays, clusters=8, epochs=1)
        >>> clustered.distinct_weights
        8

    Args:
        model: A model with class scores or values as outputs.
        examples: Examples, labelled if the model has a Keras form; its train split is used.
        clustered: The same architecture under the same signature names, with the
            facts `distinct_weights`, the most values in any clustered kernel,
            `sparsity`, `unclustered_layers`, and `not_reached`, the layers with more values.
        clusters: Largest number of distinct values in each kernel.
        preserve_sparsity: Keep the zeros of a pruned model where they are.
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
        ParameterError: A strategy of several devices for a model without a Keras form.
        UnsupportedError: No layer can be clustered or none was, the examples have no labels, no
            loss goes with the model's outputs, or an operator of its graph has no gradient.
        ModelError: `model` is missing or broken.
        ExamplesError: `examples` are missing or not what the model takes.
        StepFailedError: The training diverged.
        MissingDependencyError: Strategy tpu was requested, and there is no TPU.
    """
    from paring.models.loading import has_trainable_layers
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    if not has_trainable_layers(model):
        from paring.training.graphs.clustering import cluster_graph
        from paring.training.graphs.graph_training import open_graph_training

        cluster_graph(
            open_graph_training(
                model,
                examples,
                batch_size=batch_size,
                seed=seed,
                strategy=strategy,
                weights=weights,
            ),
            clustered,
            clusters=clusters,
            preserve_sparsity=preserve_sparsity,
            epochs=epochs,
            learning_rate=learning_rate,
        )
        return
    import numpy as np

    from paring.training.quantization.clustering import Clustering
    from paring.training.training import open_training
    from paring.training.wrapping import share_of_zeros

    training = open_training(
        model, examples, batch_size=batch_size, seed=seed, strategy=strategy, weights=weights
    )
    with training.devices.scope():
        clustering = Clustering(
            training.model, clusters=clusters, preserve_sparsity=preserve_sparsity
        )
        training.fine_tune(clustering.model, epochs=epochs, learning_rate=learning_rate)
        stripped = clustering.strip()
    training.save(stripped, model, clustered)
    clustered.not_reached = tuple(clustering.shortfalls())
    kernels = clustering.kernels()
    clustered.distinct_weights = max(len(np.unique(kernel)) for kernel in kernels)
    clustered.sparsity = share_of_zeros(kernels)
    clustered.unclustered_layers = tuple(clustering.left_out)
