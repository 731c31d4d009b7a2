"""Models that are no classifiers of one output, from their labels to the gate."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.metrics import roc_auc_score
from tests.helpers.saved_models import save_signature

from paring.artifacts import Artifact, EvaluationMetrics, Servable
from paring.catalog import STEPS
from paring.errors import ParameterError
from paring.evaluation.metrics import function_digest
from paring.execution import Call, execute
from paring.runtimes import open_runtime


class Given(NamedTuple):
    """A model in Paring's form, its examples likewise, and their arrays."""

    model: Path
    examples: Path
    arrays: dict[str, Any]


def make(step: str, out: Path, parameters: dict[str, Any] | None = None, **inputs: Path) -> Any:
    """Run a step; its only output."""
    (name,) = STEPS[step].outputs
    return execute(STEPS[step], Call(inputs, {name: out}, parameters or {}))[name]


def bring_in(folder: Path, network: Any, **arrays: Any) -> Given:
    """Import a trained network and its examples."""
    network.save(folder / "network.keras")
    np.savez(folder / "examples.npz", **arrays)
    model = make("import_model", folder / "model", original=folder / "network.keras").path
    examples = make(
        "import_examples",
        folder / "examples",
        original=folder / "examples.npz",
        model=model,
    )
    assert examples.labelled == 1
    return Given(model, examples.path, arrays)


def fit(network: Any, loss: Any, x: Any, y: Any, epochs: int) -> None:
    import tf_keras

    network.compile(tf_keras.optimizers.Adam(0.01), loss)
    network.fit(x, y, batch_size=32, epochs=epochs, verbose=0)


@pytest.fixture(scope="module")
def regressor(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """A small network on scikit-learn's diabetes data, one value an example."""
    import tf_keras

    x, y = load_diabetes(return_X_y=True)
    x = (x / x.std(axis=0)).astype(np.float32)
    tf_keras.utils.set_random_seed(0)
    measures = tf_keras.Input((10,), name="measures")
    hidden = tf_keras.layers.Dense(32, activation="relu")(measures)
    progression = tf_keras.layers.Dense(1, name="progression")(hidden)
    network = tf_keras.Model(measures, progression)
    fit(network, "mse", x[:350], y[:350], epochs=20)
    return bring_in(
        tmp_path_factory.mktemp("regressor"),
        network,
        x_train=x[:350],
        y_train=y[:350],
        x_eval=x[350:],
        y_eval=y[350:],
    )


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """A tag for each token by the token before it; half of the examples are padded."""
    import tf_keras

    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 16, (600, 8)).astype(np.int32)
    tags = np.roll(tokens, 1, axis=1) % 4
    tags[:, 0] = -1
    tags[::2, 5:] = -100
    tf_keras.utils.set_random_seed(0)
    words = tf_keras.Input((8,), dtype="int32", name="words")
    values = tf_keras.layers.Embedding(16, 12)(words)
    values = tf_keras.layers.Conv1D(24, 3, padding="same", activation="relu")(values)
    tag = tf_keras.layers.Dense(4, activation="softmax", name="tag")(values)
    network = tf_keras.Model(words, tag)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(ignore_class=-1)
    fit(network, loss, tokens[:500], np.maximum(tags, -1)[:500], epochs=6)
    return bring_in(
        tmp_path_factory.mktemp("tagger"),
        network,
        words_train=tokens[:500],
        tag_train=tags[:500],
        words_eval=tokens[500:],
        tag_eval=tags[500:],
    )


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Two heads: which quarter of an image is bright, and where its middle is."""
    import tf_keras

    generator = np.random.default_rng(0)
    places = generator.uniform(1, 7, (600, 2)).astype(np.float32)
    rows, columns = np.mgrid[:8, :8] + 0.5
    distance = np.square(rows - places[:, 0, None, None]) + np.square(
        columns - places[:, 1, None, None]
    )
    images = np.exp(-distance / 4).astype(np.float32)
    quarters = (places > 4) @ [2, 1]
    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((8, 8), name="image")
    hidden = tf_keras.layers.Flatten()(image)
    hidden = tf_keras.layers.Dense(32, activation="relu")(hidden)
    quarter = tf_keras.layers.Dense(4, activation="softmax", name="quarter")(hidden)
    middle = tf_keras.layers.Dense(2, name="middle")(hidden)
    network = tf_keras.Model(image, [quarter, middle])
    losses = ["sparse_categorical_crossentropy", "mse"]
    fit(network, losses, images[:500], [quarters[:500], places[:500]], epochs=10)
    return bring_in(
        tmp_path_factory.mktemp("detector"),
        network,
        image_train=images[:500],
        quarter_train=quarters[:500],
        middle_train=places[:500],
        image_eval=images[500:],
        quarter_eval=quarters[500:],
        middle_eval=places[500:],
    )


def to_int8(given: Given, model: Path, out: Path) -> Path:
    made: Artifact = make(
        "convert_tflite", out, {"quantization": "int8"}, model=model, examples=given.examples
    )
    return made.path


def judge(
    given: Given, candidate: Path, out: Path, **parameters: Any
) -> tuple[EvaluationMetrics, dict[str, Any]]:
    result: EvaluationMetrics = make(
        "evaluate",
        out,
        parameters,
        source=given.model,
        candidate=candidate,
        examples=given.examples,
    )
    return result, json.loads(result.file.read_text())


def predict(model: Path, **features: Any) -> dict[str, Any]:
    runtime = open_runtime(Servable(model))
    result = runtime.run(features)
    runtime.close()
    return result


def test_a_regressor_is_judged_by_its_root_mean_squared_error(
    regressor: Given, tmp_path: Path
) -> None:
    lite = to_int8(regressor, regressor.model, tmp_path / "lite")
    result, written = judge(regressor, lite, tmp_path / "evaluation")
    x, y = (regressor.arrays[f"{name}_eval"] for name in "xy")
    errors = [
        next(iter(predict(path, measures=x).values()))[:, 0] - y for path in (regressor.model, lite)
    ]
    source, score = (np.sqrt(np.square(error).mean()) for error in errors)
    assert (result.metric, result.higher_is_better, result.accuracy) == ("rmse", 0, None)
    assert result.score == pytest.approx(score, rel=1e-5)
    assert result.source_score == pytest.approx(source, rel=1e-5)
    assert result.drop == pytest.approx(score / source - 1, abs=1e-5)
    assert written["drop_low"] < written["drop"] < written["drop_high"]
    assert result.agreement is not None
    assert 0.99 < result.agreement < 1


def test_without_labels_a_regressor_is_held_against_the_source(
    regressor: Given, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "bare.npz"
    np.savez(file, x_train=regressor.arrays["x_train"], x_eval=regressor.arrays["x_eval"])
    bare = regressor._replace(examples=file)
    lite = to_int8(regressor, regressor.model, tmp_path / "lite")
    result, _ = judge(bare, lite, tmp_path / "evaluation")
    named, _ = judge(bare, lite, tmp_path / "named", metric="rmse")
    assert (named.metric, named.score) == (result.metric, result.score)
    assert "agreement stands in for rmse" in caplog.text
    labelled, _ = judge(regressor, lite, tmp_path / "labelled")
    assert result.metric == "value_agreement"
    assert result.score == result.agreement == labelled.agreement
    # A model that says the same of everybody keeps the sign, and nothing else.
    import tf_keras

    measures = tf_keras.Input((10,), name="measures")
    flat = tf_keras.layers.Dense(1, kernel_initializer="zeros", bias_initializer="ones")(measures)
    save_signature(tf_keras.Model(measures, flat), tmp_path / "flat")
    result, _ = judge(bare, tmp_path / "flat", tmp_path / "evaluation")
    assert (result.score, result.drop) == (0, 1)


@pytest.mark.parametrize("step", ["prune", "quantize", "cluster"])
def test_a_regressor_can_be_trained_into_another_form(
    regressor: Given, tmp_path: Path, step: str
) -> None:
    trained: Artifact = make(
        step,
        tmp_path / "trained",
        {"epochs": 8, "learning_rate": 0.01},
        model=regressor.model,
        examples=regressor.examples,
    )
    lite = to_int8(regressor, trained.path, tmp_path / "lite")
    result, _ = judge(regressor, lite, tmp_path / "evaluation")
    # A model that learnt nothing errs by the labels' spread, 1.3 times as much.
    assert result.drop is not None
    assert result.drop < 0.1


@pytest.mark.parametrize("step", ["prune", "quantize"])
def test_tokens_are_judged_without_their_padding(tagger: Given, tmp_path: Path, step: str) -> None:
    trained: Artifact = make(
        step, tmp_path / "trained", {"epochs": 4}, model=tagger.model, examples=tagger.examples
    )
    lite = to_int8(tagger, trained.path, tmp_path / "lite")
    result, written = judge(tagger, lite, tmp_path / "evaluation", batch_size=33)
    words, tags = (tagger.arrays[f"{name}_eval"] for name in ("words", "tag"))
    (source,) = predict(tagger.model, words=words).values()
    real = tags >= 0
    assert (result.metric, written["tokens"]) == ("token_accuracy", real.sum())
    assert result.source_score == np.mean(source.argmax(-1)[real] == tags[real])
    assert result.source_score > 0.95
    assert result.score == result.accuracy
    assert result.drop is not None
    assert result.drop < 0.05


@pytest.mark.parametrize("step", ["prune", "quantize"])
def test_several_outputs_keep_their_names_and_are_all_told(
    detector: Given, tmp_path: Path, step: str
) -> None:
    trained: Artifact = make(
        step, tmp_path / "trained", {"epochs": 3}, model=detector.model, examples=detector.examples
    )
    lite = to_int8(detector, trained.path, tmp_path / "lite")
    assert set(predict(lite, image=detector.arrays["image_eval"])) == {"quarter", "middle"}
    result, written = judge(detector, lite, tmp_path / "evaluation")
    # The first by name, as in the signature.
    assert (written["output"], result.metric) == ("middle", "rmse")
    assert written["other_outputs"]["quarter"]["metric"] == "top_1"
    assert result.gated_outputs == 2
    result, written = judge(detector, lite, tmp_path / "evaluation", output="quarter")
    assert (written["output"], result.metric, result.gated_outputs) == ("quarter", "top_1", 1)
    assert result.score is not None
    assert result.score > 0.85
    assert written["other_outputs"]["middle"]["source_score"] < 0.5


OWN = """
import numpy as np

def found(predictions, labels):
    near = np.linalg.norm(predictions["middle"] - labels["middle"], axis=1) < 0.7
    return near & (predictions["quarter"].argmax(axis=1) == labels["quarter"])

def error(predictions, labels):
    return np.abs(predictions[:, 0] - labels)

error.lower_is_better = True
"""


@pytest.fixture
def own_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Names a function of a module that is in the working directory."""
    (tmp_path / "detection_metrics.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return lambda name: f"detection_metrics:{name}"


def test_the_users_function_judges_all_outputs_together(
    detector: Given, tmp_path: Path, own_metrics: Callable[[str], str]
) -> None:
    metric = own_metrics("found")
    lite = to_int8(detector, detector.model, tmp_path / "lite")
    result, written = judge(detector, lite, tmp_path / "evaluation", metric=metric)
    predicted = predict(detector.model, image=detector.arrays["image_eval"])
    offset = predicted["middle"] - detector.arrays["middle_eval"]
    right = (np.linalg.norm(offset, axis=1) < 0.7) & (
        predicted["quarter"].argmax(axis=1) == detector.arrays["quarter_eval"]
    )
    assert (result.metric, result.higher_is_better) == (metric, 1)
    assert result.source_score == pytest.approx(right.mean())
    assert written["other_outputs"]["quarter"]["metric"] == "top_1"


def test_the_users_error_is_that_of_paring(
    regressor: Given, tmp_path: Path, own_metrics: Callable[[str], str]
) -> None:
    lite = to_int8(regressor, regressor.model, tmp_path / "lite")
    own, written = judge(
        regressor,
        lite,
        tmp_path / "own",
        metric=own_metrics("error"),
        metric_digest=function_digest(own_metrics("error")),
    )
    mae, others = judge(regressor, lite, tmp_path / "mae", metric="mae")
    assert (own.higher_is_better, mae.higher_is_better) == (0, 0)
    assert own.score == pytest.approx(mae.score)
    for end in ("drop", "drop_low", "drop_high"):
        assert written[end] == pytest.approx(others[end], abs=1e-6)


def test_another_file_of_the_users_function_is_refused(
    regressor: Given, tmp_path: Path, own_metrics: Callable[[str], str]
) -> None:
    given = {"metric": own_metrics("error"), "metric_digest": "sha256:other"}
    with pytest.raises(ParameterError, match=r"metric_digest[\s\S]*start the run again"):
        judge(regressor, regressor.model, tmp_path / "evaluation", **given)


def test_auc_of_a_model_is_that_of_scikit_learn(tmp_path: Path, regressor: Given) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    x, y = np.array(regressor.arrays["x_eval"]), regressor.arrays["y_eval"] > 140
    measures = tf_keras.Input((10,), name="measures")
    ill = tf_keras.layers.Dense(1, activation="sigmoid", name="ill")(measures)
    network = tf_keras.Model(measures, ill)
    fit(network, "binary_crossentropy", x, y, epochs=3)
    arrays = {"x_train": x, "y_train": y, "x_eval": x, "y_eval": y}
    given = bring_in(tmp_path, network, **arrays)
    result, written = judge(given, given.model, tmp_path / "evaluation", metric="auc")
    (scores,) = predict(given.model, measures=x).values()
    assert result.score == pytest.approx(roc_auc_score(y, scores[:, 0]))
    assert (result.drop, written["score_error"]) == (0, 0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"metric": "top_1"}, "top_1 does not go with these labels"),
        ({"metric": "rsme"}, "did you mean 'rmse'"),
        ({"output": "progress"}, "did you mean 'progression'"),
        ({"metric": "no_such_module:error"}, "can't be imported"),
    ],
)
def test_what_does_not_go_with_the_model_is_refused_before_it_runs(
    regressor: Given, tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        judge(regressor, regressor.model, tmp_path / "evaluation", **parameters)
    assert not (tmp_path / "evaluation").exists()
