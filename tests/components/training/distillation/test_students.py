"""Students: what they take and give, whatever the images, and the user's own functions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tf_keras

from paring.data.examples import Split
from paring.errors import ParameterError, UnsupportedError
from paring.models.signature import TensorSpec
from paring.training.distillation.students import (
    StudentSpec,
    build_student,
    check_student,
    count_parameters,
)


def _split(shape: tuple[int, ...], dtype: str = "float32", high: float = 1.0) -> Split:
    generator = np.random.default_rng(0)
    images = (high * generator.random((16, *shape))).astype(dtype)
    return Split({"image": images}, np.arange(16) % 4, 16)


def _build(
    student: str,
    split: Split,
    shape: tuple[int | None, ...] | None = None,
    *,
    units: int = 4,
    activation: str = "softmax",
    width: float = 1.0,
    compound: float = 0.0,
) -> Any:
    images = split.features["image"]
    spec = TensorSpec("image", shape or (None, *images.shape[1:]), images.dtype.name)
    wanted = StudentSpec(spec, units, activation)
    rows = np.arange(split.count)
    return build_student(student, wanted, split=split, rows=rows, width=width, compound=compound)


def _seen(model: Any, layer: str, split: Split) -> Any:
    return tf_keras.Model(model.input, model.get_layer(layer).output)(
        split.features["image"], training=False
    ).numpy()


@pytest.mark.parametrize(
    ("dtype", "channels", "high"), [("float32", 1, 1.0), ("uint8", 3, 256.0), ("float32", 2, 1e4)]
)
def test_pixels_of_any_range_and_channels_are_standardized(
    dtype: str, channels: int, high: float
) -> None:
    split = _split((32, 32, channels), dtype, high)
    model = _build("mobilenet_v2", split, width=0.05)
    assert model.inputs[0].dtype.name == dtype
    values = _seen(model, "standardize", split).reshape(-1, channels)
    assert values.mean(axis=0) == pytest.approx(0, abs=1e-3)
    assert values.std(axis=0) == pytest.approx(1, abs=1e-3)
    assert model.output_shape == (None, 4)


def test_a_channel_that_never_varies_does_no_harm() -> None:
    split = _split((32, 32, 2))
    split.features["image"][..., 1] = 7.0
    model = _build("efficientnet", split, compound=-20)
    assert np.isfinite(model(split.features["image"], training=False)).all()


@pytest.mark.parametrize(
    ("shape", "compound", "size"),
    [
        ((32, 32, 1), 0.0, None),
        ((8, 8, 1), 0.0, (32, 32)),
        ((8, 16, 1), 0.0, (32, 64)),
        ((64, 64, 3), -2.0, (48, 48)),
        ((64, 64, 3), -10.0, (32, 32)),
        ((32, 32, 1), 1.0, (37, 37)),
    ],
)
def test_the_resolution_is_scaled_and_never_below_what_the_network_halves(
    shape: tuple[int, ...], compound: float, size: tuple[int, int] | None
) -> None:
    model = _build("efficientnet", _split(shape), compound=compound)
    assert model.input_shape == (None, *shape)
    resizing = [layer for layer in model.layers if isinstance(layer, tf_keras.layers.Resizing)]
    assert [(item.height, item.width) for item in resizing] == ([] if size is None else [size])


def test_images_of_any_size_are_brought_to_that_of_the_examples() -> None:
    model = _build("mobilenet_v3_small", _split((40, 40, 3)), (None, None, None, 3), width=0.1)
    assert model.input_shape == (None, None, None, 3)
    assert model(np.zeros((1, 50, 70, 3), np.float32)).shape == (1, 4)


@pytest.mark.parametrize(
    ("units", "activation"), [(4, "softmax"), (4, "linear"), (1, "sigmoid"), (1, "linear")]
)
def test_the_last_activation_is_the_wanted_one(units: int, activation: str) -> None:
    split = _split((32, 32, 1))
    model = _build("efficientnet", split, units=units, activation=activation, compound=-20)
    assert model.output_shape == (None, units)
    assert model.layers[-1].activation.__name__ == activation


@pytest.mark.parametrize(
    ("student", "scale"), [("mobilenet_v2", {"width": 0.1}), ("efficientnet", {"compound": -12.0})]
)
def test_parameters_can_be_counted_before_it_is_built(
    student: str, scale: dict[str, float]
) -> None:
    made = _build(student, _split((40, 40, 3)), **scale)  # type: ignore[arg-type]
    assert count_parameters(student, 3, 4, **scale) == made.count_params()


@pytest.mark.parametrize("shape", [(20,), (20, 3), (3, 32, 32)])
def test_what_is_no_image_needs_a_function(shape: tuple[int, ...]) -> None:
    with pytest.raises(UnsupportedError, match="MODULE:FUNCTION"):
        _build("mobilenet_v2", _split(shape))


@pytest.mark.parametrize(
    ("student", "scale", "words"),
    [
        ("mobilenet_v1", {}, "did you mean 'mobilenet_v2'"),
        ("efficientnet", {"width": 0.5}, "give compound"),
        ("mobilenet_v2", {"compound": 1.0}, "give width"),
        ("mobilenets:small", {"width": 0.5}, "its own width"),
        ("mobilenets:small", {"compound": 0.5}, "its own size"),
    ],
)
def test_a_student_that_is_none_or_a_scale_without_use_is_refused(
    student: str, scale: dict[str, float], words: str
) -> None:
    with pytest.raises(ParameterError, match=words):
        check_student(student, **{"width": 1.0, "compound": 0.0, **scale})


FUNCTIONS = """
import keras
import numpy as np
import tf_keras
from tf_keras import layers

def _sequential(shape, *ends, dtype="float32"):
    return tf_keras.Sequential([tf_keras.Input(shape, dtype=dtype), layers.Flatten(), *ends])

def logits(shape, classes):
    return _sequential(shape, layers.Dense(classes))

def probabilities(shape, classes):
    return _sequential(shape, layers.Dense(classes, activation="softmax"))

def of_keras_3(shape, classes):
    return keras.Sequential(
        [keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(classes)]
    )

def in_sigmoids(shape, classes):
    return _sequential(shape, layers.Dense(classes, activation="sigmoid"))

def too_few(shape, classes):
    return _sequential(shape, layers.Dense(classes - 1))

def other_shape(shape, classes):
    return _sequential((5,), layers.Dense(classes))

def other_type(shape, classes):
    return _sequential(shape, layers.Rescaling(1.0), layers.Dense(classes), dtype="uint8")

def with_lambda(shape, classes):
    return _sequential(shape, layers.Lambda(lambda x: 2 * x), layers.Dense(classes))

class Own(layers.Layer):
    def call(self, values):
        return values

def with_own_layer(shape, classes):
    return _sequential(shape, Own(), layers.Dense(classes))

def two_outputs(shape, classes):
    image = tf_keras.Input(shape)
    flat = layers.Flatten()(image)
    return tf_keras.Model(image, [layers.Dense(classes)(flat), flat])

def no_model(shape, classes):
    return 3

def raising(shape, classes):
    raise KeyError("oops")

NUMBER = 3
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a module of functions that make students."""
    (tmp_path / "functions_of_mine.py").write_text(FUNCTIONS)
    (tmp_path / "broken_module_of_mine.py").write_text("import no_such_module_at_all\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("name", ["logits", "probabilities", "of_keras_3"])
def test_a_functions_student_ends_in_the_wanted_activation(name: str) -> None:
    split = _split((5, 3))
    model = _build(f"functions_of_mine:{name}", split)
    assert isinstance(model, tf_keras.Model)
    scores = model(split.features["image"]).numpy()
    assert scores.shape == (16, 4)
    assert scores.sum(axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("functions_of_mine:in_sigmoids", "ends in sigmoid, and the source's ends in softmax"),
        ("functions_of_mine:too_few", r"end it in float32 \[batch, 4\]"),
        ("functions_of_mine:other_shape", r"give it an Input of \[5, 3\], dtype 'float32'"),
        ("functions_of_mine:other_type", "uint8"),
        ("functions_of_mine:with_lambda", "a Lambda layer"),
        ("functions_of_mine:with_own_layer", "Own from module functions_of_mine"),
        ("functions_of_mine:two_outputs", "1 inputs, 2 outputs"),
        ("functions_of_mine:no_model", "received: int"),
        ("functions_of_mine:raising", r"KeyError: 'oops'"),
        ("functions_of_mine:probabilitys", "did you mean 'probabilities'"),
        ("functions_of_mine:NUMBER", "no function 'NUMBER'"),
        ("broken_module_of_mine:student", "no_such_module_at_all"),
        ("absent_module_of_mine:student", "absent_module_of_mine"),
    ],
)
def test_a_function_that_does_not_fit_is_refused_by_its_name(name: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        _build(name, _split((5, 3)))
    assert name.partition(":")[0] in caught.value.what
    assert caught.value.remedy
