"""Engines where there is no GPU, and, marked so, where there is one."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers import graphs

from paring.artifacts import Servable, TRTEngine
from paring.errors import (
    MissingDependencyError,
    ModelError,
    UnsupportedError,
    UntrustedModelError,
)
from paring.execution import Call, execute
from paring.runtimes import open_runtime
from paring.serving.versions import Version, publish, versions
from paring.steps.benchmark import benchmark
from paring.steps.build_tensorrt import build_tensorrt
from paring.steps.evaluate import evaluate
from paring.tensorrt.driver import find_gpu
from paring.tensorrt.library import load_library
from paring.tensorrt.rtx import CAPABILITIES


def built(model: Path, out: Path, **parameters: Any) -> TRTEngine:
    made = execute(build_tensorrt, Call({"model": model}, {"engine": out}, parameters))["engine"]
    assert isinstance(made, TRTEngine)
    return made


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    graphs.product(folder / "model.onnx", graphs.FLOAT)
    return built(folder, folder / "engine", product="rtx", compute_capability="8.9").path


@pytest.fixture
def no_gpu() -> None:
    try:
        result = find_gpu()
    except MissingDependencyError:
        return
    pytest.skip(f"this machine has a GPU, {result.name}")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_an_engine_is_refused_at_once(engine: Path, tmp_path: Path) -> None:
    shutil.copytree(engine / "Format-Serving", tmp_path / "version")
    # Also what was copied without its record, as push does.
    for path in (engine, tmp_path / "version" / "model.engine"):
        start = time.monotonic()
        with pytest.raises(MissingDependencyError, match=r"for RTX can't.*there is no NVIDIA GPU"):
            open_runtime(Servable(path, engine_trusted=True))
        # A bound that hanging would break, and not a measurement.
        assert time.monotonic() - start < 5


def test_an_engine_alone_is_refused(engine: Path, tmp_path: Path) -> None:
    shutil.copyfile(engine / "Format-Serving" / "model.engine", tmp_path / "model.engine")
    with pytest.raises(ModelError, match=r"can't be read[\s\S]*engine.json"):
        open_runtime(Servable(tmp_path / "model.engine", engine_trusted=True))


@pytest.mark.usefixtures("no_gpu")
def test_a_benchmark_says_what_is_missing(
    engine: Path, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    inputs = {"source": digits_model, "candidate": engine, "examples": digits_npz}
    call = Call(inputs, {"metrics": tmp_path / "metrics"}, {"trust_engine": True})
    with pytest.raises(MissingDependencyError, match="there is no NVIDIA GPU"):
        execute(benchmark, call)


@pytest.mark.usefixtures("no_gpu")
def test_an_engine_is_not_pushed_from_where_it_does_not_load(engine: Path, tmp_path: Path) -> None:
    destination = str(tmp_path / "serving")
    for trusted, error, match in (
        (True, MissingDependencyError, "there is no NVIDIA GPU"),
        (False, UntrustedModelError, "is a TensorRT engine"),
    ):
        with pytest.raises(error, match=match):
            publish(
                destination,
                engine / "Format-Serving",
                Version(action="push"),
                engine_trusted=trusted,
            )
        assert versions(destination) == []


@pytest.mark.parametrize("option", ["trust_model", "trust_engine"])
def test_an_engine_from_elsewhere_is_not_loaded_unless_trusted(
    option: str, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "model.engine").write_bytes(b"code")
    # A record may say what it likes.
    record = {"type": "TRTEngine", "facts": {}, "failure": None, "lineage": {"step": "build"}}
    (folder / "paring.json").write_text(json.dumps(record))
    with pytest.raises(UntrustedModelError, match=r"is code[\s\S]*--trust-model") as caught:
        open_runtime(Servable(folder))
    assert caught.value.exit_code == 11
    inputs = {"source": digits_model, "candidate": folder, "examples": digits_npz}
    outputs = {"evaluation": tmp_path / "out"}
    with pytest.raises(UntrustedModelError, match="is code"):
        execute(evaluate, Call(inputs, outputs))
    # Trusted, it is looked at further, and lacks what says what it was built for.
    with pytest.raises(ModelError, match=r"engine\.json"):
        execute(evaluate, Call(inputs, outputs, {option: True}))


# From here on, what needs a GPU: `make gpu-test`.


@pytest.fixture(params=["server", "rtx"])
def product(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    try:
        load_library(name)
    except MissingDependencyError as error:
        pytest.skip(f"{error.what}: {error.received}")
    capability = find_gpu().compute_capability
    if name == "rtx" and capability not in CAPABILITIES:
        pytest.skip(f"TensorRT for RTX is not for compute capability {capability}")
    return name


@pytest.fixture(scope="module")
def digits_onnx(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf

    call = tf.saved_model.load(str(digits_model)).signatures["serving_default"]
    file = tmp_path_factory.mktemp("onnx") / "float32.onnx"
    return graphs.export(lambda image: call(image=image)["digit"], (32, 32, 1), file)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_an_engine_predicts_as_its_source_does(
    precision: str,
    product: str,
    digits: Any,
    digits_onnx: Path,
    digits_model: Path,
    digits_npz: Path,
    tmp_path: Path,
    record_property: Any,
) -> None:
    file = digits_onnx
    if precision == "float16":
        file = graphs.halve(file, tmp_path / "model.onnx")
    elif precision == "int8":
        file = graphs.quantize(file, tmp_path / "model.onnx", digits[0][:200])
    made = built(file, tmp_path / "engine", product=product)
    assert made.inspection.exists()
    assert precision in " ".join(made.engine_layers or ())
    assert made.gpu == find_gpu().name

    runtime = open_runtime(made)
    (shape,) = (item.shape for item in runtime.inputs.values())
    assert (runtime.batch_size, shape) == (None, (None, 32, 32, 1))
    source = open_runtime(Servable(digits_model))
    same = []
    for images in (digits[2][:1], digits[2][:64], digits[2][64:67]):
        (result,) = runtime.run({"image": images}).values()
        (expected,) = source.run({"image": images}).values()
        assert result.shape == expected.shape
        same += list(result.argmax(1) == expected.argmax(1))
    agreement = float(np.mean(same))
    assert agreement > 0.95
    with pytest.raises(UnsupportedError, match="batches of 1 to 64"):
        runtime.run({"image": digits[2][:65]})
    runtime.close()

    inputs = {"source": digits_model, "candidate": made.path, "examples": digits_npz}
    timed = execute(benchmark, Call(inputs, {"metrics": tmp_path / "metrics"}))["metrics"]
    assert timed.peak_device_memory_bytes > made.file.stat().st_size
    figures = {"agreement": agreement, **made.facts(), **timed.facts()}
    record_property("figures", json.dumps(figures))


@pytest.mark.gpu
def test_a_second_build_starts_from_the_timing_cache(
    product: str, digits_onnx: Path, tmp_path: Path
) -> None:
    if product != "server":
        pytest.skip("TensorRT for RTX has no timing cache")
    first = built(digits_onnx, tmp_path / "first", product=product)
    inputs = {"model": digits_onnx, "earlier": first.path}
    given = {"product": product, "trust_engine": True}
    execute(build_tensorrt, Call(inputs, {"engine": tmp_path / "second"}, given))
    assert first.timing_cache.stat().st_size > 1000


@pytest.mark.gpu
def test_compatible_engines_load_here(product: str, digits_onnx: Path, tmp_path: Path) -> None:
    if product != "server":
        pytest.skip("TensorRT for RTX has no compatibility to ask for")
    wide = {"version_compatible": True, "hardware_compatibility": "ampere_plus"}
    runtime = open_runtime(built(digits_onnx, tmp_path / "engine", product=product, **wide))
    runtime.run({"image": np.zeros((1, 32, 32, 1), np.float32)})
    runtime.close()
