"""Models are optimized, compared and measured by the signature that the user names."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tests.helpers.signatures import (
    expected,
    save_estimator,
    save_examples,
    save_module,
    serialized,
)

import paring
from paring.errors import ModelError, ParameterError, UnsupportedError
from paring.models.saved_model import SavedModel

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model without serving_default, imported for `predict`, and examples."""
    folder = tmp_path_factory.mktemp("signatures")
    save_module(folder / "model")
    save_examples(folder / "examples.npz")
    imported = paring.import_model(folder / "model", signature="predict", out=folder / "imported")
    paring.import_examples(folder / "examples.npz", imported, out=folder / "examples")
    return folder


def _call(folder: Path, key: str, **tensors: Any) -> dict[str, np.ndarray[Any, Any]]:
    loaded = tf.saved_model.load(str(folder))
    made = loaded.signatures[key](**{name: tf.constant(item) for name, item in tensors.items()})
    return {name: tensor.numpy() for name, tensor in made.items()}


def _assert_same(source: Path, made: Path, keys: list[str], x: np.ndarray[Any, Any]) -> None:
    """Check that signatures give the same, bit for bit."""
    for key in keys:
        (name,) = SavedModel(source).signature(key).inputs
        given = {name: x if name == "x" else serialized(x)}
        before, after = _call(source, key, **given), _call(made, key, **given)
        assert before.keys() == after.keys()
        for output, array in before.items():
            np.testing.assert_array_equal(array, after[output], err_msg=f"{key} {output}")


def test_without_a_default_the_error_lists_all_signatures(module: Path) -> None:
    with pytest.raises(ModelError) as caught:
        paring.import_model(module / "model")
    text = str(caught.value)
    assert "no signature 'serving_default'" in text
    assert "parse(examples: string [?]) -> (scores: float32 [?, 3])" in text
    assert "embed(x: float32 [?, 8]) -> (vector: float32 [?, 6])" in text
    assert "--signature predict" in text
    assert "--signature parse" not in text


def test_a_misspelt_name_is_answered_with_the_list(module: Path) -> None:
    with pytest.raises(ModelError, match=r"predict\(x[\s\S]*did you mean 'predict'"):
        paring.import_model(module / "model", signature="predct")


def test_a_default_of_serialized_examples_is_answered_with_the_list(tmp_path: Path) -> None:
    save_estimator(tmp_path / "model")
    save_examples(tmp_path / "examples.npz")
    with pytest.raises(UnsupportedError) as caught:
        paring.import_examples(tmp_path / "examples.npz", tmp_path / "model")
    assert "regression(inputs: string [?]) -> (outputs: float32 [?])" in str(caught.value)
    assert "give --signature predict, where" in str(caught.value)


def test_a_name_with_a_space_is_quoted_in_the_remedy(tmp_path: Path) -> None:
    holder = tf.Module()
    serve = tf.function(
        lambda x: {"y": x + 1}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")]
    )
    tf.saved_model.save(holder, str(tmp_path), signatures={"my head": serve})
    with pytest.raises(ModelError, match="--signature 'my head'"):
        SavedModel(tmp_path).signature()


def test_the_name_is_a_fact_that_later_artifacts_carry(module: Path) -> None:
    record = json.loads((module / "imported" / "paring.json").read_text())
    assert record["facts"]["signature"] == "predict"
    profile = paring.profile(module / "imported")
    # The inner width and the head's.
    assert profile.parameters == 8 * 6 + 6 * 3
    embed = paring.profile(module / "model", signature="embed")
    assert embed.parameters == 8 * 6


def test_a_recorded_signature_is_not_replaced(module: Path) -> None:
    with pytest.raises(ParameterError, match="was made for another signature"):
        paring.profile(module / "imported", signature="embed")
    assert paring.profile(module / "imported", signature="predict").parameters == 66


def test_a_keras_file_has_no_signature_to_choose(digits_file: Path) -> None:
    with pytest.raises(ParameterError, match="a Keras file, which has no signatures"):
        paring.profile(digits_file, signature="predict")
    assert paring.profile(digits_file, signature="serving_default").parameters


@pytest.fixture(scope="module")
def digits_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras file."""
    import tf_keras

    file = tmp_path_factory.mktemp("keras") / "model.keras"
    tf_keras.Sequential([tf_keras.Input((4,)), tf_keras.layers.Dense(3)]).save(file)
    return file


@pytest.mark.parametrize("variables", ["frozen", "kept"])
def test_an_optimized_model_has_the_other_signatures_as_they_were(
    module: Path, tmp_path: Path, variables: str
) -> None:
    made = paring.optimize_savedmodel(
        module / "imported",
        module / "examples",
        variables=variables,
        keep="accurate",
        precision="float32",
        xla=False,
        fixed_batch=4,
        out=tmp_path / "out",
    )
    assert made.applied == ("inference graph",)
    assert made.signature == "predict"
    assert made.passed_signatures == ("embed", "letter", "parse")
    assert made.dropped_signatures == ()
    saved = SavedModel(made.serving_dir, "predict")
    assert saved.keys == ("again", "embed", "letter", "parse", "predict", "serving_batch_4")
    x = np.random.default_rng(3).random((4, 8), dtype=np.float32)
    _assert_same(module / "model", made.serving_dir, ["embed", "letter", "parse"], x)
    for key in ("predict", "again", "serving_batch_4"):
        result = _call(made.serving_dir, key, x=x)["scores"]
        np.testing.assert_allclose(result, expected(x)["predict"], atol=1e-6)
    # The copy lies beside no source, and loads all the same.
    shutil.copytree(made.serving_dir, tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "out")
    assert _call(tmp_path / "elsewhere", "letter", x=x)["letter"].dtype == object


def test_an_optimized_model_of_tensorflow_1_answers_classify_and_regress(tmp_path: Path) -> None:
    save_estimator(tmp_path / "model")
    x = save_examples(tmp_path / "examples.npz")
    model = paring.import_model(tmp_path / "model", signature="predict")
    examples = paring.import_examples(tmp_path / "examples.npz", model)
    made = paring.optimize_savedmodel(
        model, examples, keep="accurate", precision="float32", xla=False
    )
    assert made.applied == ("inference graph",)
    assert made.passed_signatures == ("classification", "regression", "serving_default")
    before = SavedModel(tmp_path / "model").meta_graph.signature_def
    after = SavedModel(made.serving_dir).meta_graph.signature_def
    methods = {key: after[key].method_name for key in before}
    assert methods == {
        "serving_default": "tensorflow/serving/classify",
        "classification": "tensorflow/serving/classify",
        "regression": "tensorflow/serving/regress",
        "predict": "tensorflow/serving/predict",
    }
    others = ["serving_default", "classification", "regression"]
    _assert_same(tmp_path / "model", made.serving_dir, others, x)
    result = _call(made.serving_dir, "predict", x=x)["scores"]
    np.testing.assert_allclose(result, expected(x)["predict"], atol=1e-6)


def test_a_tflite_file_has_the_name_and_is_measured_by_it(module: Path, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    made = paring.convert_tflite(
        module / "imported", module / "examples", quantization="int8", out=tmp_path / "tflite"
    )
    assert made.dropped_signatures == ("embed", "letter", "parse")
    interpreter = Interpreter(str(made.file))
    assert list(interpreter.get_signature_list()) == ["predict"]
    evaluation = paring.evaluate(module / "imported", made, module / "examples")
    assert evaluation.agreement is not None
    assert evaluation.agreement > 0.9
    metrics = paring.benchmark(
        module / "imported", made, module / "examples", rounds=2, min_seconds=0.1
    )
    assert metrics.speedup
    # By a plain path, the name has to be given; without it, the error says so.
    shutil.copy(made.file, tmp_path / "plain.tflite")
    given = (module / "model", tmp_path / "plain.tflite", module / "examples")
    assert paring.evaluate(*given, signature="predict").agreement == evaluation.agreement
    with pytest.raises(ModelError, match="--signature predict"):
        paring.evaluate(module / "imported", tmp_path / "plain.tflite", module / "examples")


def test_onnx_and_stages_are_of_the_signature_that_was_chosen(module: Path, tmp_path: Path) -> None:
    import onnxruntime

    x = np.random.default_rng(3).random((4, 8), dtype=np.float32)
    exported = paring.export_onnx(module / "imported", module / "examples")
    assert exported.dropped_signatures == ("embed", "letter", "parse")
    (result,) = onnxruntime.InferenceSession(exported.file).run(["scores"], {"x": x})
    np.testing.assert_allclose(result, expected(x)["predict"], atol=1e-5)
    made = paring.split_model(module / "imported", module / "examples", device_type="CPU")
    assert SavedModel(made.serving_dir).keys == ("again", "predict")
    assert made.dropped_signatures == ("embed", "letter", "parse")


@pytest.fixture(scope="module")
def keras_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel of tf_keras with the signatures serving_default, scores and vectors."""
    import tf_keras

    folder = tmp_path_factory.mktemp("keras-signatures")
    x = tf_keras.Input((8,), name="x")
    vectors = tf_keras.layers.Dense(6, activation="relu", name="vectors")(x)
    outputs = tf_keras.layers.Dense(3, activation="softmax", name="scores")(vectors)
    network, inner = tf_keras.Model(x, outputs), tf_keras.Model(x, vectors)
    spec = [tf.TensorSpec([None, 8], tf.float32, name="x")]
    scores = tf.function(lambda x: {"scores": network(x)}, input_signature=spec)
    features = tf.function(lambda x: {"vectors": inner(x)}, input_signature=spec)
    network.save(
        folder / "model",
        save_format="tf",
        signatures={"serving_default": features, "scores": scores, "vectors": features},
    )
    save_examples(folder / "examples.npz")
    return folder


def test_a_trained_model_keeps_the_name_and_says_what_it_lacks(
    keras_model: Path, tmp_path: Path
) -> None:
    model = paring.import_model(keras_model / "model", signature="scores")
    assert model.keras == "tf_keras"
    examples = paring.import_examples(keras_model / "examples.npz", model)
    pruned = paring.prune(model, examples, epochs=1, out=tmp_path / "pruned")
    assert SavedModel(pruned.serving_dir).keys == ("scores",)
    assert pruned.dropped_signatures == ("serving_default", "vectors")
    loaded = tf.saved_model.load(str(pruned.serving_dir))
    assert list(loaded.signatures) == ["scores"]
    made = paring.convert_tflite(pruned, examples)
    # What the step before it has lost is not forgotten.
    assert made.dropped_signatures == ("serving_default", "vectors")
    assert made.signature == "scores"


def test_a_signature_that_keras_does_not_compute_is_not_trained(keras_model: Path) -> None:
    model = paring.import_model(keras_model / "model", signature="vectors")
    assert model.keras == "none"
    assert "not the signature vectors" in (model.not_trainable or "")
    x = np.zeros((2, 8), np.float32)
    assert _call(model.serving_dir, "vectors", x=x)["vectors"].shape == (2, 6)
    examples = paring.import_examples(keras_model / "examples.npz", model)
    with pytest.raises(UnsupportedError, match="no form that can be trained"):
        paring.quantize(model, examples)
    # On its graph it can be.
    assert paring.prune(model, examples, epochs=1).signature == "vectors"


def test_a_fixed_batch_does_not_replace_a_signature_of_its_name(tmp_path: Path) -> None:
    holder = tf.Module()
    spec = [tf.TensorSpec([None, 8], tf.float32, name="x")]
    signatures = {
        "serving_default": tf.function(lambda x: {"y": x * 2}, input_signature=spec),
        "serving_batch_4": tf.function(lambda x: {"y": x * 3}, input_signature=spec),
    }
    tf.saved_model.save(holder, str(tmp_path / "model"), signatures=signatures)
    with pytest.raises(UnsupportedError, match="of the name that the one for a fixed batch gets"):
        paring.optimize_savedmodel(
            tmp_path / "model", fixed_batch=4, keep="accurate", precision="float32", xla=False
        )
