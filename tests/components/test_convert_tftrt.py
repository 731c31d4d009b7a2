"""What can be tried of TF-TRT without a TensorFlow that was built with it."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Servable, TFTRTModel
from paring.convert_tftrt import convert_tftrt
from paring.engines.driver import find_gpu
from paring.errors import MissingDependencyError, ParameterError
from paring.execution import Call, execute
from paring.runtimes import open_runtime
from paring.tf import tftrt


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
    source, runtime = open_runtime(Servable(digits_model)), open_runtime(made)
    for images in (digits[2][:1], digits[2][:64]):
        (found,) = runtime.run({"image": images}).values()
        (expected,) = source.run({"image": images}).values()
        assert np.mean(found.argmax(1) == expected.argmax(1)) > 0.95
