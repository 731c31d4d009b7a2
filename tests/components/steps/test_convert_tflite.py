import gzip
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.saved_models import save_signature

from paring.artifacts import Examples, QuantizedModel, TFLiteModel
from paring.converters.tflite.calibration import calibration_calls
from paring.converters.tflite.conversion import random_features, reason
from paring.converters.tflite.tflite_weights import stored_weights
from paring.data.examples import draw_rows, open_split
from paring.errors import ModelError, ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.models.loading import save_model
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature, TensorSpec
from paring.runtimes import open_runtime
from paring.steps.convert_tflite import convert_tflite
from paring.steps.import_model import import_model


def converted(
    model: Path, out: Path, examples: Path | None = None, **parameters: object
) -> TFLiteModel:
    inputs = {"model": model} | ({"examples": examples} if examples else {})
    made = execute(convert_tflite, Call(inputs, {"converted": out}, parameters))["converted"]
    assert isinstance(made, TFLiteModel)
    return made


def interpreter(model: TFLiteModel) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(model_content=model.file.read_bytes())


def run(model: TFLiteModel, features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    outputs = interpreter(model).get_signature_runner("serving_default")(**features)
    return {name: np.array(value) for name, value in outputs.items()}


def weight_types(model: TFLiteModel) -> set[str]:
    loaded = interpreter(model)
    loaded.allocate_tensors()
    details = loaded.get_tensor_details()
    return {np.dtype(detail["dtype"]).name for detail in details if len(detail["shape"]) == 4}


@pytest.fixture(scope="module")
def float_classes(digits: Any, digits_model: Path, tmp_path_factory: Any) -> np.ndarray:
    made = converted(digits_model, tmp_path_factory.mktemp("float") / "out")
    (scores,) = run(made, {"image": digits[2]}).values()
    return scores.argmax(1)


@pytest.mark.parametrize(
    ("quantization", "weights"),
    [
        ("none", "float32"),
        ("fp16", "float16"),
        ("dynamic", "int8"),
        ("int8", "int8"),
        ("int16x8", "int16"),
    ],
)
def test_every_quantization_predicts_as_the_float_model_does(
    digits: Any,
    digits_model: Path,
    digits_npz: Path,
    float_classes: np.ndarray,
    tmp_path: Path,
    quantization: str,
    weights: str,
) -> None:
    made = converted(digits_model, tmp_path / "out", digits_npz, quantization=quantization)
    assert weights in weight_types(made)
    (scores,) = run(made, {"image": digits[2]}).values()
    assert scores.dtype == np.float32
    assert np.mean(scores.argmax(1) == float_classes) > 0.9
    content = made.file.read_bytes()
    stored = stored_weights(content)
    assert made.facts() == {
        "signature": "serving_default",
        "dropped_signatures": (),
        "quantization": quantization,
        "size_bytes": len(content),
        "gzip_bytes": len(gzip.compress(content, 9)),
        # As many as the kernels of the network have.
        "weight_count": 6016,
        "sparsity": stored.sparsity,
        "distinct_weights": stored.distinct,
        "compared": "32 examples",
        "difference": made.difference,
        "holds_state": False,
    }
    assert made.difference is not None
    assert made.difference <= 1 / 32


@pytest.mark.parametrize(("quantization", "dtype"), [("int8", np.int8), ("int16x8", np.int16)])
def test_integers_go_in_and_out_on_request(
    digits: Any,
    digits_model: Path,
    digits_npz: Path,
    float_classes: np.ndarray,
    tmp_path: Path,
    quantization: str,
    dtype: type,
) -> None:
    made = converted(
        digits_model, tmp_path / "out", digits_npz, quantization=quantization, integer_io=True
    )
    runner = interpreter(made).get_signature_runner("serving_default")
    assert runner.get_input_details()["image"]["dtype"] == dtype
    assert runner.get_output_details()["digit"]["dtype"] == dtype
    # The runtime stands between them and whoever compares models on floats.
    scores = open_runtime(made).run({"image": digits.x_eval})["digit"]
    assert np.mean(scores.argmax(1) == float_classes) > 0.9
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=0.1)


def test_integers_go_in_and_out_of_integer_models_alone(digits_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="integer_io"):
        converted(digits_model, tmp_path / "out", quantization="dynamic", integer_io=True)


def test_the_float_file_gives_the_numbers_of_the_saved_model(
    digits: Any, digits_model: Path, tmp_path: Path
) -> None:
    import tensorflow as tf

    made = converted(digits_model, tmp_path / "out")
    serve = tf.saved_model.load(str(digits_model)).signatures["serving_default"]
    expected = serve(tf.constant(digits[2][:50]))
    given = run(made, {"image": digits[2][:50]})
    assert given.keys() == expected.keys()
    for name, values in given.items():
        np.testing.assert_allclose(values, expected[name], atol=1e-5)


AGAIN = """
import sys
from pathlib import Path
from paring.steps.convert_tflite import convert_tflite
from paring.execution import Call, execute
from paring.steps.import_model import import_model
from paring.runtimes import open_runtime
model, examples, out = map(Path, sys.argv[1:])
call = Call({"model": model, "examples": examples}, {"converted": out}, {"quantization": "int8"})
execute(convert_tflite, call)
"""


def test_the_same_source_gives_the_same_bytes_in_this_process_and_another(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    first, second = (
        converted(digits_model, tmp_path / name, digits_npz, quantization="int8")
        for name in ("first", "second")
    )
    assert first.file.read_bytes() == second.file.read_bytes()
    arguments = [sys.executable, "-c", AGAIN, digits_model, digits_npz, tmp_path / "third"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    third = tmp_path / "third" / "Format-Serving" / "model.tflite"
    assert third.read_bytes() == first.file.read_bytes()
    assert (done.stdout, done.stderr) == ("", "")


def test_another_seed_calibrates_on_other_examples(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    files = [
        converted(
            digits_model,
            tmp_path / str(seed),
            digits_npz,
            quantization="int8",
            calibration_size=5,
            seed=seed,
        ).file.read_bytes()
        for seed in (0, 1)
    ]
    assert files[0] != files[1]


def test_calibration_takes_each_class_in_its_share() -> None:
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    chosen = draw_rows(labels, np.arange(1000), limit=50, seed=3)
    assert np.bincount(labels[chosen]).tolist() == [30, 15, 5]
    assert draw_rows(labels, np.arange(1000), limit=50, seed=3).tolist() == chosen.tolist()
    assert draw_rows(labels, np.arange(1000), limit=2000, seed=3).tolist() == list(range(1000))


def test_a_fixed_batch_is_filled(digits_model: Path, digits_npz: Path) -> None:
    split = open_split(Examples(digits_npz), "train", SavedModel(digits_model).signature())
    fixed = Signature({"image": TensorSpec("image", (4, 32, 32, 1), "float32")}, {})
    calls = list(calibration_calls(split, fixed, size=6, seed=0)())
    assert [call["image"].shape for call in calls] == [(4, 32, 32, 1)] * 2
    np.testing.assert_array_equal(calls[1]["image"][2:], calls[0]["image"][:2])


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    import tf_keras

    image, extra = tf_keras.Input((6, 6, 1), name="image"), tf_keras.Input((3,), name="extra")
    x = tf_keras.layers.Flatten()(tf_keras.layers.Conv2D(4, 3)(image))
    x = tf_keras.layers.Concatenate()([x, extra])
    folder = tmp_path_factory.mktemp("two")
    network = tf_keras.Model([image, extra], tf_keras.layers.Dense(5, name="scores")(x))
    save_signature(network, folder / "model")
    generator = np.random.default_rng(0)
    np.savez(
        folder / "examples.npz",
        image=generator.random((40, 6, 6, 1), np.float32),
        # Far from the other's range, so that mixed-up inputs show.
        extra=generator.random((40, 3), np.float32) * 100,
        label=generator.integers(0, 5, 40),
    )
    return folder / "model", folder / "examples.npz"


def test_several_inputs_are_calibrated_by_name(
    two_inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    model, examples = two_inputs
    made = converted(model, tmp_path / "int8", examples, quantization="int8")
    plain = converted(model, tmp_path / "none")
    with np.load(examples) as arrays:
        features = {"image": arrays["image"][:1], "extra": arrays["extra"][:1]}
    scale = np.abs(run(plain, features)["scores"]).max()
    np.testing.assert_allclose(
        run(made, features)["scores"], run(plain, features)["scores"], atol=0.05 * scale
    )


@pytest.mark.parametrize("quantization", ["int8", "int16x8"])
def test_calibration_needs_examples(digits_model: Path, tmp_path: Path, quantization: str) -> None:
    with pytest.raises(ParameterError, match="--examples"):
        converted(digits_model, tmp_path / "out", quantization=quantization)


@pytest.fixture(scope="module")
def aware(tmp_path_factory: pytest.TempPathFactory) -> QuantizedModel:
    import tensorflow_model_optimization as tfmot
    import tf_keras

    layers = [tf_keras.Input((6, 6, 1)), tf_keras.layers.Conv2D(4, 3, activation="relu")]
    network = tfmot.quantization.keras.quantize_model(tf_keras.Sequential(layers))
    network.compile("sgd", "mse")
    values = np.random.default_rng(0).random((32, 6, 6, 1), np.float32)
    network.fit(values, np.zeros((32, 4, 4, 4)), verbose=0)
    model = QuantizedModel(tmp_path_factory.mktemp("aware"))
    save_model(network, model)
    model.save()
    return model


def test_a_quantization_aware_model_becomes_int8_by_its_own_ranges(
    aware: QuantizedModel, tmp_path: Path
) -> None:
    made = converted(aware.path, tmp_path / "out", quantization="int8")
    assert "int8" in weight_types(made)
    bare = converted(aware.serving_dir, tmp_path / "bare", quantization="int8")
    assert bare.file.read_bytes() == made.file.read_bytes()


def test_a_quantization_aware_model_becomes_nothing_else(
    aware: QuantizedModel, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="quantization int8, for which it was trained"):
        converted(aware.path, tmp_path / "out", quantization="fp16")


def test_operators_that_tflite_lacks_are_named_in_short(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import tensorflow as tf

    class Determinant(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 3, 3), tf.float32, name="x")])
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"det": tf.linalg.det(x), "log": tf.math.lgamma(x)}

    module = Determinant()
    tf.saved_model.save(module, str(tmp_path / "model"), signatures=module.__call__)
    capfd.readouterr()
    with pytest.raises(UnsupportedError, match=r"TFLite lacks: .*MatrixDeterminant") as caught:
        converted(tmp_path / "model", tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 3
    assert capfd.readouterr() == ("", "")


def test_a_model_with_broken_weights_is_no_unsupported_model(
    two_inputs: tuple[Path, Path], tmp_path: Path
) -> None:
    import shutil

    shutil.copytree(two_inputs[0], tmp_path / "broken")
    (tmp_path / "broken" / "variables" / "variables.index").unlink()
    with pytest.raises(ModelError, match="can't be loaded"):
        converted(tmp_path / "broken", tmp_path / "out")


def test_random_features_fit_the_signature() -> None:
    inputs = {
        "image": TensorSpec("image", (None, None, 3), "float32"),
        "ids": TensorSpec("ids", (None, 7), "int64"),
    }
    features = random_features(Signature(inputs, {}), seed=0)
    assert (features["image"].shape, features["image"].dtype.name) == ((1, 32, 3), "float32")
    assert (features["ids"].shape, features["ids"].max()) == ((1, 7), 0)


def _recurrent(folder: Path, kind: str) -> Path:
    """An imported Keras 3 model with a recurrent layer in both directions."""
    import keras

    layer = getattr(keras.layers, kind)
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    values = keras.layers.Embedding(20, 8)(tokens)
    values = keras.layers.Bidirectional(layer(4))(values)
    scores = keras.layers.Dense(3, name="scores")(values)
    keras.Model(tokens, scores).save(folder / "model.keras")
    call = Call({"original": folder / "model.keras"}, {"model": folder / "model"})
    return execute(import_model, call)["model"].path


def test_lstm_is_converted_for_one_example_at_a_time(tmp_path: Path) -> None:
    import tensorflow as tf

    model = _recurrent(tmp_path, "LSTM")
    made = converted(model, tmp_path / "lite")
    assert made.batch_size == 1
    tokens = np.arange(6, dtype=np.int32).reshape(1, 6)
    serve = tf.saved_model.load(str(model / "Format-Serving")).signatures["serving_default"]
    expected = serve(tokens=tf.constant(tokens))["scores"].numpy()
    np.testing.assert_allclose(run(made, {"tokens": tokens})["scores"], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "masked", "stacked"])
def test_recurrent_layers_that_stay_loops_answer_as_their_source(kind: str, tmp_path: Path) -> None:
    import tensorflow as tf
    import tf_keras as keras

    layers = keras.layers
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    values = layers.Embedding(20, 8, mask_zero=kind != "gru")(tokens)
    if kind == "stacked":
        values = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(values)
    values = (layers.LSTM if kind == "masked" else layers.GRU)(7)(values)
    network = keras.Model(tokens, layers.Dense(3, name="scores")(values))
    save_signature(network, tmp_path / "model")
    made = converted(tmp_path / "model", tmp_path / "lite")
    assert made.batch_size == 1
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    for length in (6, 3, 1):
        row = np.zeros((1, 6), np.int32)
        row[0, :length] = np.arange(1, length + 1)
        expected = serve(tokens=tf.constant(row))["scores"].numpy()
        np.testing.assert_allclose(run(made, {"tokens": row})["scores"], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["gru", "masked"])
def test_recurrent_layers_that_stay_loops_are_calibrated(kind: str, tmp_path: Path) -> None:
    # TensorFlow's calibrator ends the process on such loops, by SIGSEGV.
    import tf_keras as keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    frames = keras.Input((6, 4), name="frames")
    values = layers.Masking()(frames) if kind == "masked" else frames
    values = (layers.LSTM if kind == "masked" else layers.GRU)(8)(values)
    model = keras.Model(frames, layers.Dense(3, name="scores")(values))
    model.save(tmp_path / "model.keras")
    rows = np.random.default_rng(0).normal(size=(60, 6, 4)).astype(np.float32)
    rows[::3, 4:] = 0
    np.savez(tmp_path / "examples.npz", x=rows)
    made = converted(
        tmp_path / "model.keras", tmp_path / "lite", tmp_path / "examples.npz", quantization="int8"
    )
    expected = model.predict(rows, verbose=0)
    scores = np.concatenate([run(made, {"frames": row[None]})["scores"] for row in rows])
    # 5% of the standard deviation is several times what rounding to 255 steps costs here.
    assert np.sqrt(np.mean(np.square(scores - expected))) < 0.05 * expected.std()
    assert np.int8 in {detail["dtype"] for detail in interpreter(made).get_tensor_details()}


def test_a_loop_that_tflite_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="a loop whose state has no fixed shape"):
        converted(_scalar_loop(tmp_path / "model"), tmp_path / "lite")


def test_ranges_that_a_loop_lacks_are_told_without_the_converters_names() -> None:
    # What TensorFlow 2.21 says of int16x8 of a GRU.
    error = RuntimeError(
        "Max and min for dynamic tensors should be recorded during calibration: Failed for"
        " tensor serve/StatefulPartitionedCall/model/gru/PartitionedCall/while_cond_arg1"
    )
    result = reason(error)
    assert result == "a loop or a branch, in which calibration records no range of some tensors"


def _scalar_loop(folder: Path) -> Path:
    """A loop over a list of open shape in a model whose input has no batch to fix."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "count")])
    def serve(count: tf.Tensor) -> dict[str, tf.Tensor]:
        steps = tf.TensorArray(tf.float32, count, element_shape=[None], infer_shape=False)
        for step in tf.range(count):
            steps = steps.write(step, tf.ones([count]))
        return {"sums": tf.reduce_sum(steps.stack(), axis=1)}

    module = tf.Module()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serve})
    return folder
