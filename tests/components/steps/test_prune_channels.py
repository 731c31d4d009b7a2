"""`prune_channels`: a smaller network, accuracy kept, and clear refusals."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import ChannelPrunedModel, ModelProfile, TFLiteModel
from paring.errors import ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.steps.convert_tflite import convert_tflite
from paring.steps.profile import profile
from paring.steps.prune_channels import prune_channels
from paring_pipelines.demo import Digits


@pytest.fixture(scope="module")
def pruned(
    digits_model: Path, digits_npz: Path, tmp_path_factory: pytest.TempPathFactory
) -> ChannelPrunedModel:
    """The digits model without 30% of its channels."""
    return _prune(digits_model, digits_npz, tmp_path_factory.mktemp("pruned") / "out")


def _prune(model: Path, examples: Path, out: Path, **parameters: object) -> ChannelPrunedModel:
    call = Call({"model": model, "examples": examples}, {"pruned": out}, parameters)
    artifact = execute(prune_channels, call)["pruned"]
    assert isinstance(artifact, ChannelPrunedModel)
    return artifact


def _scores(folder: Path, images: Any) -> Any:
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return serve(image=tf.constant(images))["digit"].numpy()


def _profile(model: Path, out: Path) -> ModelProfile:
    artifact = execute(profile, Call({"model": model}, {"profile": out}))["profile"]
    assert isinstance(artifact, ModelProfile)
    return artifact


def _tflite_bytes(model: Path, out: Path) -> int:
    call = Call({"model": model}, {"converted": out}, {"quantization": "none"})
    artifact = execute(convert_tflite, call)["converted"]
    assert isinstance(artifact, TFLiteModel)
    return artifact.size_bytes


def test_every_layer_but_the_last_has_the_asked_share_of_channels_less(
    pruned: ChannelPrunedModel, digits_keras: Path
) -> None:
    import tf_keras

    before, after = (
        tf_keras.models.load_model(file, compile=False)
        for file in (digits_keras, pruned.keras_file)
    )
    assert [layer.name for layer in after.layers] == [layer.name for layer in before.layers]
    widths = [
        (item.output_shape[-1], other.output_shape[-1])
        for item, other in zip(before.layers[1:-1], after.layers[1:-1], strict=True)
    ]
    assert all(now == was - int(0.3 * was) for was, now in widths)
    assert pruned.channels_removed == sum(int(0.3 * was) for was in (12, 24, 48, 64))


def test_the_facts_are_what_profile_counts(
    pruned: ChannelPrunedModel, digits_model: Path, tmp_path: Path
) -> None:
    source = _profile(digits_model, tmp_path / "source")
    result = _profile(pruned.path, tmp_path / "result")
    assert (pruned.source_parameters, pruned.source_flops) == (source.parameters, source.flops)
    assert (pruned.parameters, pruned.flops) == (result.parameters, result.flops)
    # Pointwise convolutions, most of the work, shrink to about 0.7 x 0.7.
    assert result.parameters / source.parameters == pytest.approx(0.7**2, abs=0.1)
    assert result.flops / source.flops == pytest.approx(0.7**2, abs=0.1)
    assert pruned.unprunable_groups == ("digit: digit (Dense) gives the model's output",)


def test_accuracy_is_kept_on_unseen_digits(pruned: ChannelPrunedModel, digits: Digits) -> None:
    scores = _scores(pruned.serving_dir, digits.x_eval)
    assert np.mean(scores.argmax(axis=1) == digits.y_eval) >= 0.93


def test_the_signature_is_the_sources(pruned: ChannelPrunedModel, digits_model: Path) -> None:
    assert SavedModel(pruned.serving_dir).signature() == SavedModel(digits_model).signature()


def test_the_tflite_file_is_smaller(
    pruned: ChannelPrunedModel, digits_model: Path, tmp_path: Path
) -> None:
    before = _tflite_bytes(digits_model, tmp_path / "before")
    assert _tflite_bytes(pruned.path, tmp_path / "after") < 0.8 * before


@pytest.fixture
def small_npz(tmp_path: Path, digits: Digits) -> Path:
    """320 digits of 8x8, in both splits alike: enough where no accuracy is looked at."""
    images, labels = digits.x_train[:320, ::4, ::4], digits.y_train[:320]
    file = tmp_path / "small.npz"
    np.savez(file, x_train=images, y_train=labels, x_eval=images, y_eval=labels)
    return file


def _save(layers: list[Any], file: Path) -> Path:
    import tf_keras

    network = tf_keras.Sequential([tf_keras.Input((8, 8, 1), name="image"), *layers])
    network.save(file)
    return file


def test_a_sequential_keras_3_model_loses_channels_before_and_after_flattening(
    tmp_path: Path, small_npz: Path
) -> None:
    import keras
    import tf_keras

    keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(10, 3, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(20, activation="silu", name="hidden"),
            keras.layers.Dense(10, name="digit"),
        ]
    ).save(tmp_path / "model.keras")
    artifact = _prune(
        tmp_path / "model.keras", small_npz, tmp_path / "out", ratio=0.5, importance="l1"
    )
    network = tf_keras.models.load_model(artifact.keras_file, compile=False)
    shapes = [network.get_layer(item).kernel.shape for item in ("conv", "hidden", "digit")]
    assert shapes == [(3, 3, 1, 5), (6 * 6 * 5, 10), (10, 10)]


def test_channels_without_a_batch_normalization_stay_where_it_decides(
    tmp_path: Path, small_npz: Path
) -> None:
    import tf_keras

    layers = tf_keras.layers

    def head() -> list[Any]:
        return [layers.Flatten(), layers.Dense(12, name="hidden"), layers.Dense(10, name="digit")]

    normalized = [layers.Conv2D(8, 3, name="conv"), layers.BatchNormalization()]
    model = _save([*normalized, *head()], tmp_path / "model.keras")
    plain = _save(head(), tmp_path / "plain.keras")
    reason = "hidden: no batch normalization with a scale comes after"
    artifact = _prune(model, small_npz, tmp_path / "out", importance="batch_norm", epochs=1)
    assert artifact.unprunable_groups[0] == reason
    assert artifact.channels_removed == 2
    with pytest.raises(UnsupportedError, match=reason):
        _prune(plain, small_npz, tmp_path / "none", importance="batch_norm")


def test_the_same_seed_gives_the_same_model(tmp_path: Path, small_npz: Path) -> None:
    import tf_keras

    layers = tf_keras.layers
    normalized = [layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()]
    head = [layers.Flatten(), layers.Dropout(0.3), layers.Dense(10, name="digit")]
    model = _save([*normalized, *head], tmp_path / "model.keras")
    first, second = (
        tf_keras.models.load_model(
            _prune(model, small_npz, tmp_path / name, epochs=1, seed=3).keras_file, compile=False
        ).get_weights()
        for name in ("first", "second")
    )
    for item, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(item, other)


def test_a_model_in_which_nothing_can_go_is_unsupported_by_what_couples_it(
    tmp_path: Path, small_npz: Path
) -> None:
    import tf_keras

    layers = tf_keras.layers
    model = _save(
        [
            layers.Reshape((8, 8)),
            layers.Dense(12, name="steps"),
            layers.LSTM(4, name="memory"),
            layers.Dense(10, name="digit"),
        ],
        tmp_path / "model.keras",
    )
    reason = "steps: memory (LSTM) is of a kind whose channels can't be followed"
    with pytest.raises(UnsupportedError, match=re.escape(reason)):
        _prune(model, small_npz, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("ratio", 0.0), ("ratio", 1.0), ("importance", "random"), ("multiple_of", 0), ("epochs", 0)],
)
def test_parameters_out_of_bounds_are_refused(
    digits_model: Path, digits_npz: Path, tmp_path: Path, name: str, value: object
) -> None:
    with pytest.raises(ParameterError, match=f"prune_channels: {name}"):
        _prune(digits_model, digits_npz, tmp_path / "out", **{name: value})
