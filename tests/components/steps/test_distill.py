"""`distill`: a lighter network under the source's signature that has learned from it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras

from paring.artifacts import DistilledModel
from paring.errors import ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.steps.distill import distill
from paring_pipelines.demo import Digits

FUNCTIONS = """
import tf_keras
from tf_keras import layers

def small(shape, classes):
    return tf_keras.Sequential([
        tf_keras.Input(shape),
        layers.AveragePooling2D(4),
        layers.Flatten(),
        layers.Dense(32, activation="relu"),
        layers.Dense(classes),
    ])

def large(shape, classes):
    return tf_keras.Sequential([
        tf_keras.Input(shape), layers.Flatten(), layers.Dense(64), layers.Dense(classes)
    ])

def of_rows(shape, classes):
    return tf_keras.Sequential([
        tf_keras.Input(shape), layers.Dense(8, activation="relu"), layers.Dense(classes)
    ])
"""
SMALL = "functions_that_make_students:small"


@pytest.fixture(scope="module", autouse=True)
def _functions(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The working directory holds a module of functions that make students."""
    folder = tmp_path_factory.mktemp("working")
    (folder / "functions_that_make_students.py").write_text(FUNCTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def _distill(model: Path, examples: Path, out: Path, **parameters: object) -> DistilledModel:
    given = {"student": SMALL, "epochs": 2, **parameters}
    call = Call({"model": model, "examples": examples}, {"distilled": out}, given)
    artifact = execute(distill, call)["distilled"]
    assert isinstance(artifact, DistilledModel)
    return artifact


@pytest.fixture(scope="module")
def distilled(
    digits_model: Path, digits_npz: Path, tmp_path_factory: pytest.TempPathFactory
) -> DistilledModel:
    """A small student of the digits model after 25 epochs."""
    return _distill(digits_model, digits_npz, tmp_path_factory.mktemp("out") / "out", epochs=25)


def _scores(folder: Path, images: Any) -> Any:
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return serve(image=tf.constant(images))["digit"].numpy()


def _accuracy(model: DistilledModel, digits: Digits) -> float:
    scores = _scores(model.serving_dir, digits.x_eval)
    return float(np.mean(scores.argmax(axis=1) == digits.y_eval))


def test_the_student_has_learned_from_its_teacher(
    distilled: DistilledModel, digits: Digits
) -> None:
    assert _accuracy(distilled, digits) >= 0.93
    assert distilled.agreement is not None
    assert distilled.agreement >= 0.88


def test_the_signature_is_that_of_the_source(
    distilled: DistilledModel, digits_model: Path, digits: Digits
) -> None:
    assert SavedModel(distilled.serving_dir).signature() == SavedModel(digits_model).signature()
    scores = _scores(distilled.serving_dir, digits.x_eval)
    assert scores.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_the_facts_say_which_student_and_how_small(
    distilled: DistilledModel, digits_keras: Path
) -> None:
    source = tf_keras.models.load_model(digits_keras, compile=False)
    student = tf_keras.models.load_model(distilled.keras_file, compile=False)
    assert distilled.student == SMALL
    assert distilled.source_parameters == source.count_params()
    assert distilled.parameters == student.count_params() < source.count_params()


@pytest.fixture
def few_npz(tmp_path: Path, digits: Digits) -> Path:
    """200 digits in both splits, where no accuracy is looked at."""
    file = tmp_path / "few.npz"
    images, labels = digits.x_train[:200], digits.y_train[:200]
    np.savez(file, x_train=images, y_train=labels, x_eval=images, y_eval=labels)
    return file


def test_the_same_seed_gives_the_same_student_and_every_parameter_acts(
    digits_model: Path, few_npz: Path, digits: Digits, tmp_path: Path
) -> None:
    def scores(**changes: object) -> Any:
        made = _distill(digits_model, few_npz, tmp_path / "out", **changes)
        return _scores(made.serving_dir, digits.x_eval[:20])

    first = scores()
    np.testing.assert_array_equal(scores(), first)
    for change in (
        {"seed": 1},
        {"temperature": 1.0},
        {"soft_weight": 0.5},
        {"feature_weight": 1.0},
        {"epochs": 1},
        {"batch_size": 16},
        {"learning_rate": 1e-3},
    ):
        assert not np.allclose(scores(**change), first, atol=1e-6), change


def test_the_same_seed_gives_the_same_bytes_after_conversion(
    digits_model: Path, few_npz: Path, tmp_path: Path
) -> None:
    from paring.steps.convert_tflite import convert_tflite

    def digest(name: str) -> str:
        made = _distill(digits_model, few_npz, tmp_path / name, epochs=1)
        call = Call({"model": made.path}, {"converted": tmp_path / f"lite-{name}"})
        return execute(convert_tflite, call)["converted"].digest

    assert digest("first") == digest("second")


def test_the_regressor_of_the_features_is_dropped(
    distilled: DistilledModel, digits_model: Path, few_npz: Path, tmp_path: Path
) -> None:
    made = _distill(digits_model, few_npz, tmp_path / "out", feature_weight=1.0)
    assert made.parameters == distilled.parameters
    student = tf_keras.models.load_model(made.keras_file, compile=False)
    assert "regressor" not in {layer.name for layer in student.layers}


def test_without_labels_the_sources_scores_suffice(
    digits_model: Path, digits: Digits, tmp_path: Path
) -> None:
    unlabelled = tmp_path / "unlabelled.npz"
    np.savez(unlabelled, x_train=digits.x_train, x_eval=digits.x_eval)
    with pytest.raises(UnsupportedError, match="soft_weight = 1"):
        _distill(digits_model, unlabelled, tmp_path / "out")
    made = _distill(digits_model, unlabelled, tmp_path / "out", soft_weight=1.0, epochs=12)
    assert _accuracy(made, digits) >= 0.87


def test_a_bare_saved_model_can_be_the_teacher(
    digits_keras: Path, digits_npz: Path, digits: Digits, tmp_path: Path
) -> None:
    network = tf_keras.models.load_model(digits_keras, compile=False)
    network.export(str(tmp_path / "bare"))
    (name,) = SavedModel(tmp_path / "bare").signature().outputs
    made = _distill(tmp_path / "bare", digits_npz, tmp_path / "out", epochs=12)
    assert SavedModel(made.serving_dir).signature() == SavedModel(tmp_path / "bare").signature()
    assert made.source_parameters == network.count_params()
    import tensorflow as tf

    serve = tf.saved_model.load(str(made.serving_dir)).signatures["serving_default"]
    (input_name,) = SavedModel(tmp_path / "bare").signature().inputs
    scores = serve(**{input_name: tf.constant(digits.x_eval)})[name].numpy()
    assert np.mean(scores.argmax(axis=1) == digits.y_eval) >= 0.87


def test_a_single_unit_learns_two_classes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(300, 6)).astype(np.float32)
    labels = (rows[:, 0] > rows[:, 1]).astype(np.int64)
    np.savez(tmp_path / "rows.npz", x_train=rows, y_train=labels, x_eval=rows, y_eval=labels)
    values = tf_keras.Input((6,), name="values")
    ending = tf_keras.layers.Dense(1, activation="sigmoid", name="first_is_greater")
    teacher = tf_keras.Model(values, ending(values))
    ending.set_weights([np.array([[9.0], [-9.0], [0], [0], [0], [0]]), np.zeros(1)])
    teacher.save(tmp_path / "teacher.keras")

    student = "functions_that_make_students:of_rows"
    settings = {"student": student, "epochs": 30, "learning_rate": 0.02}
    made = _distill(tmp_path / "teacher.keras", tmp_path / "rows.npz", tmp_path / "out", **settings)
    assert list(SavedModel(made.serving_dir).signature().outputs) == ["first_is_greater"]
    assert made.agreement is not None
    assert made.agreement >= 0.8


def test_a_student_larger_than_its_source_is_told(
    digits_model: Path, few_npz: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student = "functions_that_make_students:large"
    made = _distill(digits_model, few_npz, tmp_path / "out", student=student, epochs=1)
    assert made.parameters > made.source_parameters
    assert f"{made.parameters} parameters, more than the source's" in caplog.text


@pytest.mark.slow
def test_a_mobile_student_learns_and_becomes_int8(
    digits_model: Path, digits_npz: Path, digits: Digits, tmp_path: Path
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    from paring.steps.convert_tflite import convert_tflite

    made = _distill(
        digits_model, digits_npz, tmp_path / "out", student="efficientnet", compound=-20, epochs=6
    )
    assert SavedModel(made.serving_dir).signature() == SavedModel(digits_model).signature()
    inputs = {"model": made.path, "examples": digits_npz}
    execute(
        convert_tflite,
        Call(inputs, {"converted": tmp_path / "lite"}, {"quantization": "int8"}),
    )
    interpreter = Interpreter(str(tmp_path / "lite" / "Format-Serving" / "model.tflite"))
    interpreter.resize_tensor_input(0, digits.x_eval.shape)
    scores = interpreter.get_signature_runner("serving_default")(image=digits.x_eval)["digit"]
    assert np.mean(scores.argmax(axis=1) == digits.y_eval) >= 0.8


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("student", "mobilenet"),
        ("width", 0.0),
        ("width", 0.5),
        ("compound", 1.0),
        ("temperature", 0.0),
        ("soft_weight", 1.1),
        ("feature_weight", -1.0),
        ("epochs", 0),
    ],
)
def test_parameters_that_cannot_be_taken_are_refused(
    digits_model: Path, digits_npz: Path, tmp_path: Path, name: str, value: object
) -> None:
    with pytest.raises(ParameterError, match=name):
        _distill(digits_model, digits_npz, tmp_path / "out", **{name: value})
