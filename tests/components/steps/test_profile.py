import json
from pathlib import Path
from typing import Any

import pytest

from paring.artifacts import Model, ModelProfile, content_digest
from paring.errors import ModelError
from paring.execution import Call, execute
from paring.steps.import_model import import_model
from paring.steps.profile import profile

CONV = 2 * (6 * 6 * 4) * (3 * 3 * 1) + 2 * (6 * 6 * 4)  # products and sums; bias and ReLU
DEPTHWISE = 2 * (4 * 4 * 4) * (3 * 3)
POOL = 4 * 4 * 4
DENSE = 2 * (4 * 3) + 3


@pytest.fixture(scope="module")
def network() -> Any:
    import tf_keras

    layers = tf_keras.layers
    return tf_keras.Sequential(
        [
            tf_keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(4, 3, activation="relu", name="stem"),
            layers.DepthwiseConv2D(3, use_bias=False, name="depthwise"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="scores"),
        ]
    )


def profiled(model: Path, out: Path) -> tuple[ModelProfile, dict[str, Any]]:
    made = execute(profile, Call({"model": model}, {"profile": out}))["profile"]
    assert isinstance(made, ModelProfile)
    return made, json.loads((out / "profile.json").read_text())


@pytest.fixture(scope="module")
def folder(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "saved_model"
    network.export(folder)
    return folder


def test_weights_and_operations_match_a_count_by_hand(
    network: Any, folder: Path, tmp_path: Path
) -> None:
    made, content = profiled(folder, tmp_path / "out")
    assert made.parameters == content["parameters"] == network.count_params()
    assert content["weight_bytes"] == 4 * network.count_params()
    assert made.flops == content["flops"] == CONV + DEPTHWISE + POOL + DENSE
    assert content["uncounted"] == []
    assert content["operators"] == {
        "BiasAdd": 2,
        "Conv2D": 1,
        "DepthwiseConv2dNative": 1,
        "MatMul": 1,
        "Mean": 1,
        "Relu": 1,
    }


def test_activations_peak_where_most_tensors_are_live(folder: Path, tmp_path: Path) -> None:
    made, _ = profiled(folder, tmp_path / "out")
    # Two tensors of the stem's size, as an operator does not work in place.
    assert made.activation_bytes == 4 * (2 * 6 * 6 * 4)


def test_largest_weights_come_first_with_shape_and_bytes(folder: Path, tmp_path: Path) -> None:
    _, content = profiled(folder, tmp_path / "out")
    largest = content["largest_weights"]
    assert largest[0] == {
        "name": "depthwise/depthwise_kernel:0",
        "shape": [3, 3, 4, 1],
        "dtype": "float32",
        "size_bytes": 144,
    }
    sizes = [item["size_bytes"] for item in largest]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == 5


def test_source_and_signature_are_named(folder: Path, tmp_path: Path) -> None:
    _, content = profiled(folder, tmp_path / "out")
    assert content["source"] == content_digest(folder)
    assert content["signature"]["inputs"] == {
        "image": {"shape": [None, 8, 8, 1], "dtype": "float32"}
    }


def test_figures_are_for_one_example_of_a_fixed_batch(
    network: Any, folder: Path, tmp_path: Path
) -> None:
    import tensorflow as tf

    serve = tf.function(
        lambda image: {"scores": network(image)},
        input_signature=[tf.TensorSpec((5, 8, 8, 1), tf.float32, name="image")],
    )
    module = tf.Module()
    module.network = network
    tf.saved_model.save(module, str(tmp_path / "fixed"), signatures=serve)
    made, content = profiled(tmp_path / "fixed", tmp_path / "out")
    single, _ = profiled(folder, tmp_path / "single")
    assert content["batch_size"] == 5
    assert (made.flops, made.activation_bytes) == (single.flops, single.activation_bytes)


def test_grouped_convolutions_are_counted(tmp_path: Path) -> None:
    """Keras has XLA compile each of them, in a function of its own."""
    import tf_keras

    layers = tf_keras.layers
    grouped = layers.Conv2D(8, 3, groups=2, use_bias=False)
    network = tf_keras.Sequential([tf_keras.Input((8, 8, 4)), grouped, layers.ReLU()])
    network.save(tmp_path / "grouped.keras")
    imported = execute(
        import_model, Call({"original": tmp_path / "grouped.keras"}, {"model": tmp_path / "model"})
    )["model"]
    made, content = profiled(imported.path, tmp_path / "out")
    # Each of 6 x 6 x 8 results meets 3 x 3 x 2 inputs, and is then cut off at 0.
    assert made.flops == 6 * 6 * 8 * (2 * 3 * 3 * 2 + 1)
    assert content["operators"] == {"Conv2D": 1, "Relu": 1}


def test_matrix_products_of_every_kind_count_two_for_a_multiply_add(tmp_path: Path) -> None:
    import tensorflow as tf

    left, right = tf.ones((4, 5, 6)), tf.ones((1, 3, 3, 2, 3))

    class Products(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 4, 7, 5), tf.float32, name="x")])
        def __call__(self, x: Any) -> dict[str, Any]:
            return {
                "batched": tf.matmul(x, left),  # 1*4*7 rows of 6, each from 5
                "einsum": tf.einsum("...ik,jk->...ij", x, tf.ones((9, 5))),  # 4*7*9 from 5
                "deconvolved": tf.nn.conv2d_transpose(
                    tf.ones((1, 2, 2, 3)) + x[0, 0, 0, 0], right[0], (1, 4, 4, 2), 2
                ),  # 2*2*3 elements meet 3*3*2; and 12 additions before
            }

    module = Products()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.__call__)
    made, _ = profiled(tmp_path / "model", tmp_path / "out")
    assert made.flops == 2 * (4 * 7 * 6 * 5 + 4 * 7 * 9 * 5 + 2 * 2 * 3 * 3 * 3 * 2) + 12
    # It has no variables: the constants are its weights.
    assert made.parameters >= 4 * 5 * 6 + 9 * 5


def test_a_loop_is_named_as_not_counted(tmp_path: Path) -> None:
    import tf_keras

    layers = [tf_keras.Input((20, 3)), tf_keras.layers.LSTM(4)]
    tf_keras.Sequential(layers).export(tmp_path / "model")
    made, content = profiled(tmp_path / "model", tmp_path / "out")
    assert "StatelessWhile" in content["uncounted"]
    assert made.parameters == 4 * 4 * (3 + 4 + 1)


def test_a_sound_network_has_no_findings(folder: Path, tmp_path: Path) -> None:
    made, content = profiled(folder, tmp_path / "out")
    assert (made.findings, content["findings"]) == (0, [])


def test_what_training_left_behind_is_found_the_most_severe_first(
    network: Any, tmp_path: Path
) -> None:
    import tensorflow as tf
    import tf_keras

    layers = [tf_keras.Input((8, 8, 1)), tf_keras.layers.BatchNormalization()]
    noisy = tf_keras.Sequential([*layers, tf_keras.layers.Dropout(0.5)])

    class Training(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((4, 8, 8, 1), tf.float32, name="image")])
        def __call__(self, image: Any) -> dict[str, Any]:
            return {"scores": network(noisy(image, training=True))}

    module = Training()
    module.layers = [network, noisy]
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.__call__)
    made, content = profiled(tmp_path / "model", tmp_path / "out")
    rules = [(finding["severity"], finding["rule"]) for finding in content["findings"]]
    assert ("high", "dropout_in_serving") in rules
    assert ("high", "batch_statistics_in_serving") in rules
    assert rules[-1] == ("low", "fixed_batch")
    assert made.findings == len(rules)
    assert all(
        finding["place"] and finding["cost"] and finding["fix"] for finding in content["findings"]
    )


def test_a_model_without_weights_on_disk_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "broken")
    data = tmp_path / "broken" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:50])
    with pytest.raises(ModelError, match="can't be loaded as a SavedModel"):
        profiled(Model(tmp_path / "broken").path, tmp_path / "out")
