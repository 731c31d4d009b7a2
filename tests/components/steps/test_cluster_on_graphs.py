"""`cluster` of SavedModels without a Keras form, of pruned ones too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.bare_models import save_frozen, save_images, save_module

from paring.artifacts import ClusteredModel
from paring.errors import UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.steps.cluster import cluster
from paring.steps.prune import prune
from paring.training.graphs.clustering import kmeans, nearest
from paring.training.graphs.graph_model import GraphModel
from paring_pipelines.demo import Digits


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> Path:
    """Examples of `save_images`."""
    file = tmp_path_factory.mktemp("images") / "images.npz"
    save_images(file, digits)
    return file


def _cluster(model: Path, examples: Path, out: Path, **parameters: object) -> ClusteredModel:
    call = Call({"model": model, "examples": examples}, {"clustered": out}, parameters)
    artifact = execute(cluster, call)["clustered"]
    assert isinstance(artifact, ClusteredModel)
    return artifact


def _kernels(folder: Path) -> dict[str, Any]:
    return {item.name: item.value for item in GraphModel.open(folder).weights.kernels}


def test_each_kernel_of_the_file_has_as_many_values_as_clusters(
    images: Path, tmp_path: Path
) -> None:
    save_module(tmp_path / "model")
    clustered = _cluster(tmp_path / "model", images, tmp_path / "out", clusters=8, epochs=1)
    source, result = _kernels(tmp_path / "model"), _kernels(clustered.serving_dir)
    assert {name: len(np.unique(kernel)) for name, kernel in result.items()} == dict.fromkeys(
        ("filters", "mixing", "dense", "size"), 8
    )
    assert clustered.distinct_weights == 8
    assert not clustered.not_reached
    assert (clustered.keras, clustered.trained_form) == ("none", "graph")
    # What is fine-tuned stays near its weights.
    for name, kernel in source.items():
        assert np.sqrt(np.mean((result[name] - kernel) ** 2)) < 0.5 * kernel.std()
    assert (
        SavedModel(clustered.serving_dir).signature() == SavedModel(tmp_path / "model").signature()
    )


@pytest.mark.parametrize("frozen", [False, True])
def test_zeros_of_a_pruned_model_stay_where_they_are(
    images: Path, tmp_path: Path, frozen: bool
) -> None:
    save_module(tmp_path / "model")
    if frozen:
        save_frozen(tmp_path / "model", tmp_path / "frozen")
    source = tmp_path / ("frozen" if frozen else "model")
    call = Call({"model": source, "examples": images}, {"pruned": tmp_path / "p"}, {"epochs": 1})
    pruned = execute(prune, call)["pruned"]
    clustered = _cluster(
        pruned.path, images, tmp_path / "out", clusters=4, preserve_sparsity=True, epochs=1
    )
    before = _kernels(tmp_path / "p" / "Format-Serving")
    after = _kernels(clustered.serving_dir)
    assert len(after) == 4
    for name, kernel in after.items():
        np.testing.assert_array_equal(kernel == 0, before[name] == 0)
        assert len(np.unique(kernel)) == 4
    assert clustered.sparsity == pytest.approx(0.5)


def test_small_kernels_are_named_and_a_model_of_none_else_is_refused(
    images: Path, tmp_path: Path
) -> None:
    save_module(tmp_path / "model")
    clustered = _cluster(tmp_path / "model", images, tmp_path / "out", clusters=16, epochs=1)
    assert "size (no more weights than clusters)" in clustered.unclustered_layers
    with pytest.raises(UnsupportedError, match="no kernel that can be clustered"):
        _cluster(tmp_path / "model", images, tmp_path / "refused", clusters=256)


def test_kmeans_finds_separate_groups_and_the_means_of_them() -> None:
    generator = np.random.default_rng(0)
    groups = [-3.0, -1.0, 0.5, 4.0]
    values = np.concatenate([generator.normal(item, 0.01, 500) for item in groups])
    centroids = kmeans(values.astype(np.float32), 4, generator)
    np.testing.assert_allclose(centroids, values.reshape(4, 500).mean(axis=1), atol=1e-5)
    distances = np.abs(values[:, None] - centroids)
    np.testing.assert_array_equal(nearest(centroids, values), distances.argmin(axis=1))


def test_kmeans_of_few_distinct_values_has_no_more_centroids() -> None:
    values = np.array([1, 1, 2, 2, 2], np.float32)
    assert kmeans(values, 4, np.random.default_rng(0)).tolist() == [1, 2]
