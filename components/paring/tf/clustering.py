"""Weight clustering with tensorflow-model-optimization, layer by layer."""

from typing import Any

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras
from tensorflow_model_optimization.python.core.clustering.keras.clustering_registry import (
    ClusteringRegistry,
)
from tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster import (
    cluster_weights,
)

from paring.errors import UnsupportedError
from paring.tf.pruning import is_normalization


class Clustering:
    """A model with its clusterable layers wrapped.

    Attributes:
        model: The wrapped model; it shares its weights with the one given.
        left_out: Names of layers with kernels that can't be clustered.
    """

    def __init__(self, model: Any, *, clusters: int, preserve_sparsity: bool) -> None:
        """Wrap the layers of `model`.

        Args:
            model: A sequential or functional tf_keras model, with weights.
            clusters: How many values each kernel may have, at least 2.
            preserve_sparsity: Keep zeros where they are, as one of the values.

        Raises:
            UnsupportedError: No layer can be clustered.
        """
        self.left_out: list[str] = []
        self._wrapped: list[str] = []
        self._clusters = clusters
        self._preserve_sparsity = preserve_sparsity
        self.model = tf_keras.models.clone_model(model, clone_function=self._wrap)
        if not self._wrapped:
            raise UnsupportedError(
                f"model {model.name} has no layer whose weights can be clustered",
                received=", ".join(self.left_out) or "no layers with weights",
                remedy="use a recipe without cluster",
            )

    def strip(self) -> Any:
        """The model without wrappers, its kernels on their centroids."""
        return tfmot.clustering.keras.strip_clustering(self.model)

    def kernels(self, stripped: Any) -> list[np.ndarray[Any, Any]]:
        """The clustered kernels of what `strip` gave."""
        return [
            np.asarray(getattr(layer, name))
            for layer in stripped.submodules
            if isinstance(layer, tf_keras.layers.Layer) and layer.name in self._wrapped
            for name in _kernel_names(layer)
        ]

    def _wrap(self, layer: Any) -> Any:
        if isinstance(layer, tf_keras.Model):
            return tf_keras.models.clone_model(layer, clone_function=self._wrap)
        names = _kernel_names(layer)
        if not names or any(
            getattr(layer, name).shape.num_elements() <= self._clusters for name in names
        ):
            if layer.trainable_weights and not is_normalization(layer):
                self.left_out.append(f"{layer.name} ({type(layer).__name__})")
            return layer
        self._wrapped.append(layer.name)
        return cluster_weights(
            layer,
            number_of_clusters=self._clusters,
            cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS,
            preserve_sparsity=self._preserve_sparsity,
        )


def _kernel_names(layer: Any) -> list[str]:
    # Recurrent layers and attention hold several kernels in layers inside them,
    # which the library does not find by name.
    kinds = ClusteringRegistry._LAYERS_WEIGHTS_MAP
    return list(kinds.get(type(layer), []))
