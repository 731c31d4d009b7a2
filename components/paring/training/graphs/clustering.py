"""Weight clustering of a SavedModel's graph.

Each kernel gets a few shared values: those of k-means, started by k-means++ (Arthur and
Vassilvitskii 2007), which training then moves, while each weight keeps its cluster, as in Han,
Mao and Dally, "Deep Compression", 2016 (arXiv:1510.00149).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from paring.artifacts import ClusteredModel
from paring.errors import UnsupportedError
from paring.training.graphs.graph_training import GraphTraining
from paring.training.graphs.weights import GraphWeight
from paring.training.wrapping import share_of_zeros

_MOST_ITERATIONS = 100
# Weights that the first centroids are drawn from.
_DRAWN = 2**18


@dataclass(frozen=True, eq=False)
class _ClusteredKernel:
    """Kernel in training.

    Attributes:
        weight: The kernel of the source.
        centroids: The shared values, float32 [clusters]; without the 0 of zeros that are kept.
        clusters: The number of each weight's centroid, int32 in the kernel's shape; -1 for zeros
            that are kept.
    """

    weight: GraphWeight
    centroids: Any
    clusters: NDArray[np.int32]

    def value(self) -> Any:
        """Return the kernel on its centroids."""
        shared = tf.concat([[0.0], self.centroids], axis=0)
        return tf.gather(shared, tf.constant(self.clusters + 1))


class GraphClustering:
    """Kernels of a graph that share a few values each while it is trained.

    Attributes:
        left_out: Names of other weights with several axes, each with the reason.
    """

    def __init__(self, training: GraphTraining, *, clusters: int, preserve_sparsity: bool) -> None:
        """Cluster the kernels of a graph.

        Args:
            training: The training.
            clusters: How many values each kernel may have, at least 2.
            preserve_sparsity: Keep zeros where they are, as one of the values.

        Raises:
            UnsupportedError: No kernel can be clustered.
        """
        self._training = training
        self._clusters = clusters
        self._kernels: list[_ClusteredKernel] = []

        def kept_zeros(weight: GraphWeight) -> NDArray[np.bool_]:
            zeros: NDArray[np.bool_] = (weight.value == 0) & preserve_sparsity
            return zeros

        chosen, self.left_out = training.choose_kernels(
            lambda weight: _misfit(weight, kept_zeros(weight), clusters),
            step="cluster",
            participle="clustered",
        )
        generator = np.random.default_rng(training.seed)
        for weight in chosen:
            zeros = kept_zeros(weight)
            free = clusters - 1 if zeros.any() else clusters
            centroids = kmeans(weight.value[~zeros], free, generator)
            numbers = np.where(zeros, -1, nearest(centroids, weight.value)).astype(np.int32)
            self._kernels.append(
                _ClusteredKernel(weight, tf.Variable(centroids, name="centroids"), numbers)
            )
        self._others = training.other_variables({item.weight for item in self._kernels})

    def train(self, *, epochs: int, learning_rate: float) -> None:
        """Train the centroids and all that is no kernel, and leave them at the best epoch."""
        self._training.fine_tune(
            [*(item.centroids for item in self._kernels), *self._others.values()],
            self._values,
            epochs=epochs,
            learning_rate=learning_rate,
        )

    def save(self, clustered: ClusteredModel) -> None:
        """Write the clustered model, with facts that are read from its file.

        Raises:
            UnsupportedError: All kernels have more values than clusters.
        """
        values = {item.weight: item.value().numpy() for item in self._kernels}
        values |= {weight: variable.numpy() for weight, variable in self._others.items()}
        written = self._training.save(values, clustered)
        stored = {item.nodes: item.value for item in written.weights.kernels}
        kernels = {item.weight.name: stored[item.weight.nodes] for item in self._kernels}
        counts = {name: len(np.unique(kernel)) for name, kernel in kernels.items()}
        clustered.not_reached = tuple(
            f"{name}: {count} values for {self._clusters} clusters"
            for name, count in counts.items()
            if count > self._clusters
        )
        if len(clustered.not_reached) == len(counts):
            raise UnsupportedError(
                "no kernel of the model has shared weights after training",
                received="; ".join(clustered.not_reached[:5]),
                remedy="use a recipe without cluster",
            )
        clustered.distinct_weights = max(counts.values())
        clustered.sparsity = share_of_zeros(kernels.values())
        clustered.unclustered_layers = tuple(self.left_out)

    def _values(self) -> Mapping[GraphWeight, Any]:
        return {item.weight: item.value() for item in self._kernels} | {
            weight: variable.read_value() for weight, variable in self._others.items()
        }


def cluster_graph(
    training: GraphTraining,
    clustered: ClusteredModel,
    *,
    clusters: int,
    preserve_sparsity: bool,
    epochs: int,
    learning_rate: float,
) -> None:
    """Cluster a SavedModel's graph and write the result; see the step `cluster`."""
    clustering = GraphClustering(training, clusters=clusters, preserve_sparsity=preserve_sparsity)
    clustering.train(epochs=epochs, learning_rate=learning_rate)
    clustering.save(clustered)


def kmeans(
    values: NDArray[np.float32], clusters: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Return the centroids of one-dimensional k-means, sorted, started by k-means++.

    Args:
        values: In any shape, more than `clusters` of them.
        clusters: Number of centroids; fewer where there are fewer distinct values.
        generator: Draws the first ones.
    """
    flat = np.asarray(values, np.float64).reshape(-1)
    drawn = flat if flat.size <= _DRAWN else generator.choice(flat, _DRAWN, replace=False)
    centroids = [generator.choice(drawn)]
    distances = np.square(drawn - centroids[0])
    while len(centroids) < clusters and distances.sum() > 0:
        centroids.append(generator.choice(drawn, p=distances / distances.sum()))
        distances = np.minimum(distances, np.square(drawn - centroids[-1]))
    result = np.sort(np.asarray(centroids))
    for _ in range(_MOST_ITERATIONS):
        numbers = nearest(result, flat)
        counts = np.bincount(numbers, minlength=len(result))
        sums = np.bincount(numbers, flat, minlength=len(result))
        moved = np.where(counts > 0, sums / np.maximum(counts, 1), result)
        if np.array_equal(moved, result):
            break
        result = moved
    return result.astype(np.float32)


def nearest(centroids: NDArray[Any], values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the number of the nearest of sorted centroids for each value."""
    borders = (centroids[1:] + centroids[:-1]) / 2
    return np.asarray(np.searchsorted(borders, values))


def _misfit(weight: GraphWeight, zeros: NDArray[np.bool_], clusters: int) -> str | None:
    """Return the reason why a kernel can't be clustered; None if it can."""
    if "DepthwiseConv2dNative" in weight.operators:
        # As in Keras form: it has few weights, and each of them matters.
        return "the kernel of a depthwise convolution"
    if weight.value.size - np.count_nonzero(zeros) <= clusters:
        return "no more weights than clusters"
    return None
