"""Checks of TF-TRT that need no TensorFlow that was built with it."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Servable, TFTRTModel
from paring.converters import tftrt
from paring.errors import MissingDependencyError, ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.runtimes import open_runtime
from paring.steps.convert_tftrt import convert_tftrt
from paring.tensorrt.driver import find_gpu


def converted(inputs: dict[str, Path], out: Path, **parameters: Any) -> TFTRTModel:
    made = execute(convert_tftrt, Call(inputs, {"converted": out}, parameters))["converted"]
    assert isinstance(made, TFTRTModel)
    return made


def test_without_a_gpu_it_fails_at_once(digits_model: Path, tmp_path: Path) -> None:
    try:
        gpu = find_gpu()
    except MissingDependencyError:
        start = time.monotonic()
        with pytest.raises(MissingDependencyError, match="there is no NVIDIA GPU"):
            converted({"model": digits_model}, tmp_path / "out")
        # A bound that hanging would break, and not a measurement.
        assert time.monotonic() - start < 5
    else:
        pytest.skip(f"this machine has a GPU, {gpu.name}")


def test_int8_needs_examples(digits_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="calibrated on examples"):
        converted({"model": digits_model}, tmp_path / "out", precision="int8")


def test_what_the_build_says_decides() -> None:
    import tensorflow as tf

    # The converter's module is there in any case.
    from tensorflow.python.compiler.tensorrt import trt_convert

    assert trt_convert.TrtGraphConverterV2 is not None
    assert tftrt.built_with_tensorrt({"is_tensorrt_build": True})
    assert not tftrt.built_with_tensorrt({})
    packages = tf.sysconfig.get_build_info()
    assert tftrt.built_with_tensorrt(packages) == packages["is_tensorrt_build"]


def test_a_model_without_engines_has_none(digits_model: Path) -> None:
    assert tftrt.count_engines(digits_model) == 0


def test_a_result_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    kernel = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)

    def save(name: str, kernel: np.ndarray) -> None:
        module = tf.Module()
        module.kernel = tf.Variable(kernel)
        spec = tf.TensorSpec([None, 4], tf.float32, "x")
        module.serve = tf.function(lambda x: {"y": x @ module.kernel}, input_signature=[spec])
        signatures = {"serving_default": module.serve}
        tf.saved_model.save(module, str(tmp_path / name), signatures=signatures)

    for name, sign in (("source", 1), ("same", 1), ("other", -1)):
        save(name, sign * kernel)
    x = np.random.default_rng(1).normal(size=(32, 1, 4)).astype(np.float32)
    batches = [{"x": item} for item in x]
    for precision in tftrt.PRECISIONS:
        source, same, other = (SavedModel(tmp_path / name) for name in ("source", "same", "other"))
        made = tftrt.check_outputs(source, same, batches, precision=precision, drawn=True)
        assert (made.on, made.difference) == ("32 examples", 0.0)
        if precision == "int8":
            # What rounding costs is for the gate to judge.
            result = tftrt.check_outputs(source, other, batches, precision=precision, drawn=True)
            assert result.difference is not None
            assert result.difference > 0.5
            continue
        with pytest.raises(UnsupportedError, match="SavedModel with engines does not compute"):
            tftrt.check_outputs(source, other, batches, precision=precision, drawn=True)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_model_with_engines_predicts_as_its_source_does(
    precision: str, digits: Any, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    try:
        tftrt.require()
    except MissingDependencyError as error:
        pytest.skip(error.what)
    inputs = {"model": digits_model, "examples": digits_npz}
    made = converted(inputs, tmp_path / "out", precision=precision)
    assert made.engines is not None
    assert made.engines > 0
    assert made.compared == "32 examples"
    source, runtime = open_runtime(Servable(digits_model)), open_runtime(made)
    for images in (digits[2][:1], digits[2][:64]):
        (result,) = runtime.run({"image": images}).values()
        (expected,) = source.run({"image": images}).values()
        assert np.mean(result.argmax(1) == expected.argmax(1)) > 0.95
