"""Serving signatures become frozen graphs that compute the same, and nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tests.helpers.saved_models import save_signature

from paring.errors import UnsupportedError
from paring.graphs.graph import load_function
from paring.graphs.serving_graph import export, fixed_key, inference_graph
from paring.models.saved_model import SavedModel
from paring.runtimes.savedmodel import SavedModelRuntime

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves a function on `x` as a SavedModel without Keras; keywords are kept by it."""

    def saved(function: Callable[..., Any], spec: Any, **attributes: Any) -> Path:
        module = tf.Module()
        for name, value in attributes.items():
            setattr(module, name, value)
        module.serve = tf.function(function, input_signature=[spec])
        folder = tmp_path / "source"
        tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
        return folder

    return saved


ROW = tf.TensorSpec([None, 4], tf.float32, "x")


@pytest.fixture(scope="module")
def normalized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a batch normalization, with statistics, after every kind of layer."""
    tf_keras.utils.set_random_seed(0)
    layers = tf_keras.layers
    image = x = tf_keras.Input((12, 12, 3), name="image")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(x)))
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3, depth_multiplier=2)(x))
    x = layers.ReLU(6.0)(x)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 1, groups=4)(x)))
    x = layers.BatchNormalization()(layers.Conv2DTranspose(6, 3)(x))
    x = layers.Reshape((-1, 6))(layers.Dropout(0.5)(x))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(4, 3)(x)))
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dropout(0.5)(layers.ReLU()(layers.BatchNormalization()(layers.Dense(12)(x))))
    network = tf_keras.Model(image, layers.Dense(5, activation="softmax", name="scores")(x))
    generator = np.random.default_rng(0)
    for variable in network.variables:
        if len(variable.shape) == 1:
            variable.assign(generator.uniform(0.5, 2, variable.shape))
    folder = tmp_path_factory.mktemp("normalized") / "model"
    save_signature(network, folder)
    return folder


def run(folder: Path, features: Any, signature: str = "serving_default") -> dict[str, np.ndarray]:
    return SavedModelRuntime(SavedModel(folder, signature)).run(features)


def operators(graph_def: Any) -> set[str]:
    """The kinds of operators in a GraphDef and its functions."""
    functions = (node for function in graph_def.library.function for node in function.node_def)
    return {node.op for nodes in (graph_def.node, functions) for node in nodes}


def images(count: int) -> dict[str, np.ndarray]:
    return {"image": np.random.default_rng(1).random((count, 12, 12, 3), np.float32)}


def test_only_inference_is_left_and_batch_normalization_is_folded(
    normalized: Path, tmp_path: Path
) -> None:
    graph = inference_graph(load_function(SavedModel(normalized)))
    export(graph, tmp_path / "made", SavedModel(normalized))
    left = operators(SavedModel(tmp_path / "made").meta_graph.graph_def)
    for gone in ("BatchNorm", "Random", "Variable", "Rsqrt", "Assign", "Assert"):
        assert not [item for item in left if gone in item and item != "NoOp"], gone
    assert "Mul" not in left
    assert graph.operators < graph.source_operators / 3
    assert SavedModel(tmp_path / "made").signature() == SavedModel(normalized).signature()
    for count in (1, 5):
        expected, result = (
            run(folder, images(count))["scores"] for folder in (normalized, tmp_path / "made")
        )
        np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("fixed_batch", [0, 4])
def test_constants_are_stored_once(normalized: Path, tmp_path: Path, fixed_batch: int) -> None:
    graph = inference_graph(load_function(SavedModel(normalized)))
    export(graph, tmp_path / "made", SavedModel(normalized), fixed_batch=fixed_batch)

    def elements(nodes: Any) -> int:
        constants = (node.attr["value"].tensor for node in nodes if node.op == "Const")
        return sum(tf.make_ndarray(constant).size for constant in constants)

    stored = SavedModel(tmp_path / "made").meta_graph.graph_def
    functions = [node for item in stored.library.function for node in item.node_def]
    weights = elements(graph.graph_def.node)
    assert weights > 500
    # The file's name and the like besides, which saving needs.
    assert weights <= elements([*stored.node, *functions]) < weights + 50


def test_gradients_that_a_model_defines_are_left_behind(save: Save, tmp_path: Path) -> None:
    def serve(x: Any) -> dict[str, Any]:
        # silu defines its own, by functions that are not among those that a graph calls.
        loop = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.nn.silu(y)), (0, x))
        return {"y": loop[1]}

    source = save(serve, ROW)
    export(
        inference_graph(load_function(SavedModel(source))), tmp_path / "made", SavedModel(source)
    )
    features = {"x": np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)}
    result, expected = run(tmp_path / "made", features), run(source, features)
    np.testing.assert_allclose(result["y"], expected["y"], atol=1e-6)


def test_weights_stay_variables_on_request(normalized: Path, tmp_path: Path) -> None:
    graph = inference_graph(load_function(SavedModel(normalized)))
    export(graph, tmp_path / "made", SavedModel(normalized), variables="kept")
    loaded = tf.saved_model.load(str(tmp_path / "made"))
    assert sum(int(tf.size(weight)) for weight in loaded.weights.values()) > 500
    features = images(3)
    before = run(tmp_path / "made", features)["scores"]
    np.testing.assert_allclose(before, run(normalized, features)["scores"], atol=1e-5)
    for variable in loaded.weights.values():
        variable.assign(tf.zeros_like(variable))
    after = loaded.signatures["serving_default"](image=tf.constant(features["image"]))
    assert np.abs(after["scores"].numpy() - before).max() > 0.01


@pytest.mark.parametrize("compiled", [False, True])
def test_a_second_signature_takes_one_batch_size(
    normalized: Path, tmp_path: Path, compiled: bool
) -> None:
    graph = inference_graph(load_function(SavedModel(normalized)))
    export(graph, tmp_path / "made", SavedModel(normalized), fixed_batch=4, compiled=compiled)
    own = SavedModel(tmp_path / "made").signature(fixed_key(4))
    assert own.inputs["image"].shape == (4, 12, 12, 3)
    assert own.outputs["scores"].shape == (4, 5)
    result = run(tmp_path / "made", images(4), fixed_key(4))["scores"]
    np.testing.assert_allclose(result, run(normalized, images(4))["scores"], atol=1e-5)
    with pytest.raises(UnsupportedError, match="batches of 4 only"):
        run(tmp_path / "made", images(3), fixed_key(4))
    # The flexible one is there as well.
    assert run(tmp_path / "made", images(3))["scores"].shape == (3, 5)


def test_a_compiled_signature_is_compiled_when_it_is_loaded_again(
    normalized: Path, tmp_path: Path
) -> None:
    graph = inference_graph(load_function(SavedModel(normalized)))
    export(graph, tmp_path / "plain", SavedModel(normalized))
    export(graph, tmp_path / "made", SavedModel(normalized), compiled=True)

    def asked(folder: Path) -> bool:
        library = SavedModel(folder).meta_graph.graph_def.library
        return any(
            item.attr["_XlaMustCompile"].b
            for item in library.function
            if "_XlaMustCompile" in item.attr
        )

    assert asked(tmp_path / "made")
    assert not asked(tmp_path / "plain")
    expected = run(normalized, images(2))["scores"]
    np.testing.assert_allclose(run(tmp_path / "made", images(2))["scores"], expected, atol=1e-4)


def test_two_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    layers = tf_keras.layers
    left, right = tf_keras.Input((5,), name="left"), tf_keras.Input((5,), name="right")
    outputs = [layers.Dense(2, name="z")(left - right), layers.Dense(3, name="a")(left)]
    save_signature(tf_keras.Model([right, left], outputs), tmp_path / "source")
    export(
        inference_graph(load_function(SavedModel(tmp_path / "source"))),
        tmp_path / "made",
        SavedModel(tmp_path / "source"),
    )
    generator = np.random.default_rng(0)
    features = {name: generator.random((3, 5), np.float32) for name in ("left", "right")}
    expected, result = (run(tmp_path / name, features) for name in ("source", "made"))
    assert result.keys() == {"z", "a"}
    for name, values in expected.items():
        np.testing.assert_allclose(result[name], values, atol=1e-6)


def test_loops_of_recurrent_layers_stay_loops(tmp_path: Path) -> None:
    layers = tf_keras.layers
    ids = tf_keras.Input((None,), dtype="int64", name="ids")
    x = layers.Embedding(50, 8)(ids)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True))(x)
    x = layers.GRU(4)(x)
    network = tf_keras.Model(ids, layers.Dense(3, name="scores")(x))
    save_signature(network, tmp_path / "source")
    graph = inference_graph(load_function(SavedModel(tmp_path / "source")))
    export(graph, tmp_path / "made", SavedModel(tmp_path / "source"))
    assert {operator for operator in operators(graph.graph_def) if "While" in operator} == {
        "StatelessWhile"
    }
    features = {"ids": np.random.default_rng(0).integers(0, 50, (3, 7))}
    np.testing.assert_allclose(
        run(tmp_path / "made", features)["scores"],
        run(tmp_path / "source", features)["scores"],
        atol=1e-6,
    )


def test_what_is_done_for_its_side_effect_is_gone(save: Save, tmp_path: Path) -> None:
    weight, calls = tf.Variable(tf.random.normal((4, 3), seed=1)), tf.Variable(0.0)

    def serve(x: Any) -> dict[str, Any]:
        calls.assign_add(1.0)
        tf.debugging.assert_greater(tf.reduce_sum(x), -1e9)
        tf.print("called", output_stream="file:///dev/null")
        product = tf.debugging.check_numerics(x @ weight, "product")
        return {"product": product, "same": x, "constant": tf.ones(100)}

    source = save(serve, ROW, weight=weight, calls=calls)
    graph = inference_graph(load_function(SavedModel(source)))
    assert operators(graph.graph_def) == {"Const", "Placeholder", "MatMul", "Identity"}
    export(graph, tmp_path / "made", SavedModel(source), fixed_batch=2, variables="kept")
    features = {"x": np.random.default_rng(0).random((2, 4), np.float32)}
    expected, result = run(source, features), run(tmp_path / "made", features)
    assert result.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(result[name], values, atol=1e-6)


def test_conditions_stay(save: Save, tmp_path: Path) -> None:
    weight = tf.Variable(tf.ones((4, 4)))
    source = save(
        lambda x: {"y": tf.cond(tf.reduce_sum(x) > 4.0, lambda: x @ weight, lambda: x - 1.0)},
        ROW,
        weight=weight,
    )
    export(
        inference_graph(load_function(SavedModel(source))), tmp_path / "made", SavedModel(source)
    )
    for value in (0.1, 3.0):
        features = {"x": np.full((1, 4), value, np.float32)}
        np.testing.assert_array_equal(
            run(tmp_path / "made", features)["y"], run(source, features)["y"]
        )


def test_variables_that_the_outputs_depend_on_are_not_frozen(save: Save) -> None:
    total = tf.Variable(0.0)
    source = save(lambda x: {"y": x + total.assign_add(1.0)}, ROW, total=total)
    with pytest.raises(UnsupportedError, match="AssignAddVariableOp"):
        inference_graph(load_function(SavedModel(source)))


def test_lookup_tables_are_not_frozen(lookup: Path) -> None:
    with pytest.raises(UnsupportedError, match="lookup table"):
        inference_graph(load_function(SavedModel(lookup)))
