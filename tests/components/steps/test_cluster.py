"""`cluster`: kernels share a few values, and the model still predicts."""

from pathlib import Path

import numpy as np
import pytest

from paring.artifacts import ClusteredModel, TFLiteModel
from paring.errors import ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.models.loading import load_keras
from paring.models.saved_model import SavedModel
from paring.steps.cluster import cluster
from paring.steps.convert_tflite import convert_tflite
from paring.steps.prune import prune
from paring_pipelines.demo import Digits


def _cluster(model: Path, examples: Path, out: Path, **parameters: object) -> ClusteredModel:
    call = Call({"model": model, "examples": examples}, {"clustered": out}, parameters)
    artifact = execute(cluster, call)["clustered"]
    assert isinstance(artifact, ClusteredModel)
    return artifact


@pytest.fixture(scope="module")
def clustered(
    digits_model: Path, digits_npz: Path, tmp_path_factory: pytest.TempPathFactory
) -> ClusteredModel:
    """The digits model with 16 values in each kernel."""
    return _cluster(digits_model, digits_npz, tmp_path_factory.mktemp("cluster") / "out", epochs=1)


def test_each_kernel_has_as_many_values_as_asked(clustered: ClusteredModel) -> None:
    assert clustered.distinct_weights == 16
    model = load_keras(clustered)
    kernels = [
        layer.kernel for layer in model.layers if type(layer).__name__ in ("Conv2D", "Dense")
    ]
    assert len(kernels) == 5
    for kernel in kernels:
        assert len(np.unique(kernel)) <= 16


def test_layers_that_cannot_be_clustered_are_named(clustered: ClusteredModel) -> None:
    assert sum("DepthwiseConv2D" in layer for layer in clustered.unclustered_layers) == 3


def test_accuracy_and_signature_are_kept(
    clustered: ClusteredModel, digits: Digits, digits_model: Path
) -> None:
    assert SavedModel(clustered.serving_dir).signature() == SavedModel(digits_model).signature()
    scores = load_keras(clustered).predict(digits.x_eval, verbose=0)
    assert np.mean(scores.argmax(axis=1) == digits.y_eval) >= 0.9


@pytest.mark.parametrize(("quantization", "ratio"), [("none", 0.7), ("int8", 0.95)])
def test_a_clustered_file_compresses_better(
    quantization: str,
    ratio: float,
    clustered: ClusteredModel,
    digits_model: Path,
    digits_npz: Path,
    tmp_path: Path,
) -> None:
    def gzip_bytes(model: Path, out: Path) -> int:
        inputs = {"model": model, "examples": digits_npz}
        call = Call(inputs, {"converted": out}, {"quantization": quantization})
        made = execute(convert_tflite, call)["converted"]
        assert isinstance(made, TFLiteModel)
        return made.gzip_bytes

    plain = gzip_bytes(digits_model, tmp_path / "plain")
    assert gzip_bytes(clustered.path, tmp_path / "lite") < ratio * plain


def test_zeros_of_a_pruned_model_stay_where_they_are(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    inputs = {"model": digits_model, "examples": digits_npz}
    execute(prune, Call(inputs, {"pruned": tmp_path / "pruned"}, {"epochs": 1}))
    made = _cluster(
        tmp_path / "pruned", digits_npz, tmp_path / "out", epochs=1, preserve_sparsity=True
    )
    assert made.sparsity == pytest.approx(0.5, abs=0.02)
    assert made.distinct_weights is not None
    assert made.distinct_weights <= 16


def test_the_same_seed_gives_the_same_weights(
    clustered: ClusteredModel, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    again = _cluster(digits_model, digits_npz, tmp_path / "out", epochs=1)
    pairs = zip(load_keras(clustered).weights, load_keras(again).weights, strict=True)
    assert all(np.array_equal(item, other) for item, other in pairs)


def test_a_model_without_a_layer_to_cluster_is_unsupported(
    digits_npz: Path, tmp_path: Path
) -> None:
    import tf_keras

    layers = tf_keras.layers
    tf_keras.Sequential(
        [
            tf_keras.Input((32, 32, 1), name="image"),
            layers.DepthwiseConv2D(3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, name="digit"),
        ]
    ).save(tmp_path / "model.keras")
    with pytest.raises(UnsupportedError, match="no layer whose weights can be clustered"):
        _cluster(tmp_path / "model.keras", digits_npz, tmp_path / "out")


@pytest.mark.parametrize(
    ("preserve_sparsity", "left_out"),
    [(False, []), (True, ["sparse (Dense: no more weights than clusters)"])],
)
def test_a_kernel_with_few_weights_beside_its_zeros_is_left_as_it_is(
    preserve_sparsity: bool, left_out: list[str]
) -> None:
    import tf_keras

    from paring.training.quantization.clustering import Clustering

    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    network = tf_keras.Sequential(
        [tf_keras.Input((8,)), layers.Dense(20, name="sparse"), layers.Dense(20, name="dense")]
    )
    kernel = network.get_layer("sparse").kernel
    kernel.assign(np.where(np.arange(160).reshape(8, 20) < 12, kernel, 0))
    clustering = Clustering(network, clusters=16, preserve_sparsity=preserve_sparsity)
    assert clustering.left_out == left_out


@pytest.mark.parametrize("clusters", [1, 257, 2.5])
def test_clusters_out_of_bounds_are_refused(
    clusters: float, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match="clusters"):
        _cluster(digits_model, digits_npz, tmp_path / "out", clusters=clusters)
