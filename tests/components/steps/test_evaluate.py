"""Candidates are judged as their predictions say, through a real Beam run."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.saved_models import save_signature

from paring.artifacts import EvaluationMetrics, Servable, content_digest
from paring.errors import ExamplesError, ModelError, UnsupportedError
from paring.execution import Call, execute
from paring.runtimes import open_runtime
from paring.steps.convert_tflite import convert_tflite
from paring.steps.evaluate import evaluate
from paring.steps.export_onnx import export_onnx
from paring_pipelines.demo import Digits


def judge(
    source: Path, candidate: Path | None, examples: Path, out: Path, **parameters: object
) -> tuple[EvaluationMetrics, dict[str, Any]]:
    inputs = {"source": source, "examples": examples}
    if candidate is not None:
        inputs["candidate"] = candidate
    call = Call(inputs, {"evaluation": out}, parameters)
    result = execute(evaluate, call)["evaluation"]
    assert isinstance(result, EvaluationMetrics)
    return result, json.loads(result.file.read_text())


@pytest.fixture(scope="module")
def worse_model(tmp_path_factory: pytest.TempPathFactory, digits_keras: Path) -> Path:
    """The digits model with noise on its last layer's weights."""
    import tf_keras

    network = tf_keras.models.load_model(digits_keras, compile=False)
    layer = [item for item in network.layers if item.get_weights()][-1]
    noise = np.random.default_rng(0)
    layer.set_weights([w + noise.normal(0, w.std(), w.shape) for w in layer.get_weights()])
    folder = tmp_path_factory.mktemp("worse") / "model"
    save_signature(network, folder)
    return folder


@pytest.mark.parametrize("left_out", [True, False])
def test_the_same_model_agrees_with_itself(
    left_out: bool,
    tmp_path: Path,
    digits: Digits,
    digits_npz: Path,
    digits_model: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        candidate = None if left_out else digits_model
        result, written = judge(digits_model, candidate, digits_npz, tmp_path / "evaluation")
    assert result.agreement == 1
    assert result.accuracy == result.source_accuracy
    assert result.count == len(digits.y_eval)
    assert written["accuracy_drop_low"] < 0 < written["accuracy_drop_high"]
    assert written["examples_digest"] == content_digest(digits_npz)
    assert [record for record in caplog.records if "beam" in record.pathname] == []


def test_the_figures_are_those_of_the_predictions(
    tmp_path: Path, digits: Digits, digits_npz: Path, digits_model: Path, worse_model: Path
) -> None:
    tops = {}
    for name, path in (("source", digits_model), ("worse", worse_model)):
        runtime = open_runtime(Servable(path))
        (scores,) = runtime.run({"image": digits.x_eval}).values()
        runtime.close()
        tops[name] = scores.argmax(axis=1)
    # 360 rows in batches of 77 leave a smaller last one.
    result, written = judge(
        digits_model, worse_model, digits_npz, tmp_path / "evaluation", batch_size=77
    )
    assert result.accuracy == np.mean(tops["worse"] == digits.y_eval)
    assert result.source_accuracy == np.mean(tops["source"] == digits.y_eval)
    assert result.agreement == np.mean(tops["worse"] == tops["source"])
    assert result.accuracy < result.source_accuracy
    drop = result.source_accuracy - result.accuracy
    assert written["accuracy_drop"] == pytest.approx(drop)
    assert written["accuracy_drop_low"] < drop < written["accuracy_drop_high"]
    assert [row["count"] for row in written["classes"]] == np.bincount(digits.y_eval).tolist()


def test_a_tflite_file_of_fixed_batch_is_judged_on_every_row(
    tmp_path: Path, digits_npz: Path, digits_model: Path, digits: Digits
) -> None:
    import tensorflow as tf

    model = tf.saved_model.load(str(digits_model))
    call = model.signatures["serving_default"]

    @tf.function(input_signature=[tf.TensorSpec((7, 32, 32, 1), tf.float32, name="image")])
    def serve(image: Any) -> Any:
        return call(image=image)

    module = tf.Module()
    module.model, module.serve = model, serve
    tf.saved_model.save(module, str(tmp_path / "fixed"), {"serving_default": serve})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "fixed"))
    file = tmp_path / "fixed.tflite"
    file.write_bytes(converter.convert())
    assert open_runtime(Servable(file)).batch_size == 7
    result, _ = judge(digits_model, file, digits_npz, tmp_path / "evaluation")
    assert result.count == len(digits.y_eval)
    # Float kernels of another library may tip a near tie.
    assert result.agreement is not None
    assert result.agreement > 0.99


def test_without_labels_only_agreement_is_measured(
    tmp_path: Path, digits: Digits, digits_model: Path
) -> None:
    file = tmp_path / "bare.npz"
    np.savez(file, x_train=digits.x_train[:10], x_eval=digits.x_eval[:50])
    result, written = judge(digits_model, digits_model, file, tmp_path / "evaluation")
    assert (result.count, result.agreement) == (50, 1)
    assert result.accuracy is None
    assert result.source_accuracy is None
    assert written["accuracy_drop_low"] is None


def test_a_candidate_that_cannot_be_loaded_is_an_error_of_its_own(
    tmp_path: Path, digits_npz: Path, digits_model: Path
) -> None:
    file = tmp_path / "broken.tflite"
    file.write_bytes(b"no flatbuffer")
    with pytest.raises(ModelError, match=r"broken\.tflite"):
        judge(digits_model, file, digits_npz, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_a_candidate_with_other_classes_is_refused(
    tmp_path: Path, digits_npz: Path, digits_model: Path
) -> None:
    import tf_keras

    image = tf_keras.Input((32, 32, 1), name="image")
    digit = tf_keras.layers.Dense(3, name="digit")(tf_keras.layers.Flatten()(image))
    save_signature(tf_keras.Model(image, digit), tmp_path / "other")
    with pytest.raises(UnsupportedError, match=r"\[64, 10\], candidate \[64, 3\]"):
        judge(digits_model, tmp_path / "other", digits_npz, tmp_path / "evaluation")


def test_examples_of_another_shape_are_refused_before_anything_runs(
    tmp_path: Path, digits: Digits, digits_model: Path
) -> None:
    file = tmp_path / "small.npz"
    np.savez(file, x_train=digits.x_train[:, ::2], x_eval=digits.x_eval[:, ::2])
    with pytest.raises(ExamplesError, match="wrong shape"):
        judge(digits_model, digits_model, file, tmp_path / "evaluation")


def _export(serve: Any, folder: Path) -> Path:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(serve, input_signature=[tf.TensorSpec([None, 3], tf.float32, "x")])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def test_a_model_that_gives_class_ids_is_judged_by_them(tmp_path: Path) -> None:
    import tensorflow as tf

    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    labels = x.argmax(axis=1)
    np.savez(tmp_path / "x.npz", x=x, label=labels)
    source = _export(lambda x: {"id": tf.argmax(x, axis=1)}, tmp_path / "source")
    shift = np.array([0, 0, 0.5], np.float32)
    worse = _export(lambda x: {"id": tf.argmax(x + shift, axis=1)}, tmp_path / "worse")
    result, written = judge(source, worse, tmp_path / "x.npz", tmp_path / "out")
    assert (result.metric, result.source_accuracy) == ("top_1", 1)
    assert 0 < result.accuracy == result.agreement < 1
    assert written["accuracy_drop"] == pytest.approx(1 - result.accuracy)


@pytest.mark.parametrize("classes", [3, 2])
def test_outputs_in_bfloat16_are_judged_like_other_floats(classes: int, tmp_path: Path) -> None:
    import tensorflow as tf

    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    shift = np.array([0.3, 0, 0], np.float32)
    width = 3 if classes == 3 else 1

    def classes_of(x: Any) -> Any:
        return x.argmax(axis=1) if classes == 3 else (x[:, 0] > 0).astype(np.int64)

    def serve(shift: Any) -> Any:
        # Above what float16 holds.
        return lambda x: {"y": tf.cast((x + shift)[:, :width] * 1e6, tf.bfloat16)}

    columns = {"x": x, "label": classes_of(x)}
    splits = {
        f"{name}_{split}": item for name, item in columns.items() for split in ("train", "eval")
    }
    np.savez(tmp_path / "x.npz", **splits)
    source = _export(serve(shift * 0), tmp_path / "source")
    worse = _export(serve(shift), tmp_path / "worse")
    result, _ = judge(source, worse, tmp_path / "x.npz", tmp_path / "out")
    # Rounding to 8 bits makes ties.
    assert result.source_accuracy == pytest.approx(1, abs=0.05)
    expected = np.mean(classes_of(x + shift) == classes_of(x))
    assert result.accuracy == pytest.approx(expected, abs=0.05)
    for step in (export_onnx, convert_tflite):
        (output,) = step.outputs
        call = Call({"model": source}, {output: tmp_path / step.name}, {})
        made = execute(step, call)[output]
        assert isinstance(made, Servable)
        (scores,) = open_runtime(made).run({"x": x[:1]}).values()
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores[0], x[0, :width] * 1e6, rtol=0.01)
        result, _ = judge(source, made.path, tmp_path / "x.npz", tmp_path / f"of-{step.name}")
        assert result.agreement == pytest.approx(1, abs=0.05)


def test_logits_that_lie_in_0_to_1_are_not_taken_for_probabilities(tmp_path: Path) -> None:
    import tensorflow as tf

    # The eval split's values all look like probabilities; class 1 is what lies over 0.
    x, label = np.full((20, 3), 0.1, np.float32), np.ones(20, np.int64)
    np.savez(tmp_path / "x.npz", x_train=x, label_train=label, x_eval=x, label_eval=label)
    weights = np.ones((3, 1), np.float32)
    source = _export(lambda x: {"logit": tf.matmul(x, weights)}, tmp_path / "source")
    worse = _export(lambda x: {"logit": tf.matmul(x, weights) - 0.4}, tmp_path / "worse")
    result, written = judge(source, worse, tmp_path / "x.npz", tmp_path / "out")
    assert (written["threshold"], written["threshold_origin"]) == (0, "the output's layer")
    assert (result.source_accuracy, result.accuracy, result.drop) == (1, 0, 1)


def test_weights_count_in_every_figure_and_are_named(
    tmp_path: Path, digits: Digits, digits_model: Path, worse_model: Path
) -> None:
    weights = np.arange(len(digits.y_eval)) % 4
    plain, given = tmp_path / "plain.npz", tmp_path / "weighted.npz"
    repeated = {"x_eval": digits.x_eval, "y_eval": digits.y_eval}
    train = {"x_train": digits.x_train, "y_train": digits.y_train}
    np.savez(plain, **train, **{k: np.repeat(v, weights, axis=0) for k, v in repeated.items()})
    np.savez(given, **train, **repeated, w_train=np.ones(len(digits.y_train)), w_eval=weights)
    result, written = judge(digits_model, worse_model, given, tmp_path / "a", weights="w")
    _, wanted = judge(digits_model, worse_model, plain, tmp_path / "b")
    assert result.sample_weights == written["sample_weights"] == "w"
    assert wanted["sample_weights"] is None
    for figure in ("accuracy", "source_accuracy", "agreement", "drop"):
        assert written[figure] == pytest.approx(wanted[figure], abs=1e-12)
    assert written["count"] == np.count_nonzero(weights) < wanted["count"]
    unweighted, _ = judge(digits_model, worse_model, given, tmp_path / "c")
    assert (unweighted.sample_weights, unweighted.count) == ("", len(weights))


def test_one_hot_floats_of_a_softmax_are_judged_as_class_ids(
    tmp_path: Path, digits: Digits, digits_npz: Path, digits_model: Path, worse_model: Path
) -> None:
    eye = np.eye(10, dtype=np.float32)
    one_hot = {"y_train": eye[digits.y_train], "y_eval": eye[digits.y_eval]}
    file = tmp_path / "one_hot.npz"
    np.savez(file, x_train=digits.x_train, x_eval=digits.x_eval, **one_hot)
    _, by_rows = judge(digits_model, worse_model, file, tmp_path / "rows")
    _, by_ids = judge(digits_model, worse_model, digits_npz, tmp_path / "ids")
    assert by_rows.pop("examples_digest") != by_ids.pop("examples_digest")
    assert by_rows == by_ids
    assert by_rows["metric"] == "top_1"
