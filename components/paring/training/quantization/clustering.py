"""Weight clustering with tensorflow-model-optimization, layer by layer."""

from typing import Any

import numpy as np
import tensorflow_model_optimization as tfmot
from tensorflow_model_optimization.python.core.clustering.keras.cluster_wrapper import (
    ClusterWeights,
)
from tensorflow_model_optimization.python.core.clustering.keras.clustering_registry import (
    ClusteringRegistry,
)

from paring.errors import UnsupportedError
from paring.models.library_types import KerasModel
from paring.models.wrapper_masks import call_arguments, output_mask
from paring.training.wrapping import wrap_layers


class ClusteredLayer(ClusterWeights):  # type: ignore[misc]
    """The library's wrapper, which by itself loses the masks of padding."""

    def call(self, inputs: Any, training: Any = None, **kwargs: Any) -> Any:
        """Call the layer with its kernels on their centroids."""
        arguments = call_arguments(self.layer, kwargs)
        return ClusterWeights.call(self, inputs, training, **arguments)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Return the mask that the layer gives its outputs."""
        return output_mask(self.layer, inputs, mask)


class Clustering:
    """A model with its clusterable layers wrapped.

    Attributes:
        model: The wrapped model; it shares its weights with the one given.
        left_out: Names of layers with kernels that can't be clustered.
    """

    def __init__(self, model: KerasModel, *, clusters: int, preserve_sparsity: bool) -> None:
        """Wrap the layers of `model`.

        Args:
            model: A sequential or functional tf_keras model, with weights.
            clusters: How many values each kernel may have, at least 2.
            preserve_sparsity: Keep zeros where they are, as one of the values.

        Raises:
            UnsupportedError: No layer can be clustered.
        """
        self._clusters = clusters
        self._preserve_sparsity = preserve_sparsity
        wrapped = wrap_layers(model, self._wrap, _kernels, step="cluster", done="clustered")
        self.model, self.left_out = wrapped.model, wrapped.left_out
        self._wrappers = wrapped.wrappers

    def strip(self) -> KerasModel:
        """Return the model without wrappers, its kernels on their centroids."""
        return tfmot.clustering.keras.strip_clustering(self.model)

    def kernels(self) -> list[np.ndarray[Any, Any]]:
        """Return the clustered kernels, as the last call of the model or `strip` left them."""
        return [
            np.asarray(wrapper.get_weight_from_layer(name))
            for wrapper in self._wrappers
            for name in _kernel_names(wrapper.layer)
        ]

    def shortfalls(self) -> list[str]:
        """Return the layers with more values than clusters, each with how many it has.

        Raises:
            UnsupportedError: All of them have more.
        """
        counts = {
            wrapper.layer.name: max(
                len(np.unique(np.asarray(wrapper.get_weight_from_layer(name))))
                for name in _kernel_names(wrapper.layer)
            )
            for wrapper in self._wrappers
        }
        short = [
            f"{name}: {count} values for {self._clusters} clusters"
            for name, count in counts.items()
            if count > self._clusters
        ]
        if len(short) == len(counts):
            raise UnsupportedError(
                "no kernel of the model has shared weights after training",
                received="; ".join(short[:5]),
                remedy="use a recipe without cluster",
            )
        return short

    def _wrap(self, layer: Any) -> Any | None:
        kernels = [item.numpy() for item in _kernels(layer)]
        if not kernels:
            return None
        if not layer.trainable:
            return "frozen, and clusters are found by training"
        # With zeros kept, the other values are found among the other weights.
        counted = np.count_nonzero if self._preserve_sparsity else np.size
        if min(int(counted(kernel)) for kernel in kernels) <= self._clusters:
            return "no more weights than clusters"
        return ClusteredLayer(
            layer,
            number_of_clusters=self._clusters,
            cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=self._preserve_sparsity,
        )


def _kernels(layer: Any) -> list[Any]:
    return [getattr(layer, name) for name in _kernel_names(layer)]


def _kernel_names(layer: Any) -> list[str]:
    # Recurrent layers and attention hold several kernels in layers inside them,
    # which the library does not find by name.
    kinds = ClusteringRegistry._LAYERS_WEIGHTS_MAP
    return list(kinds.get(type(layer), []))
