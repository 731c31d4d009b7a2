"""Real engines by TensorRT for RTX, for stated GPUs; none of them is run here."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.helpers import graphs

from paring.artifacts import ONNXModel, Servable, TRTEngine
from paring.errors import (
    MissingDependencyError,
    ModelError,
    ParameterError,
    ParingError,
    UnsupportedError,
)
from paring.execution import Call, execute
from paring.runtimes import served_path
from paring.steps.build_tensorrt import build_tensorrt

RTX = {"product": "rtx", "compute_capability": "8.9"}

PRODUCTS = ("correlation", "gemm", "runtime_fusion")
"""The layers that multiply: what the table calls them, the last in float16 alone."""


def built(model: Path, out: Path, **parameters: Any) -> TRTEngine:
    made = execute(build_tensorrt, Call({"model": model}, {"engine": out}, parameters))["engine"]
    assert isinstance(made, TRTEngine)
    return made


@pytest.fixture(scope="module")
def float32(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf

    model = tf.saved_model.load(str(digits_model))
    call = model.signatures["serving_default"]
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return graphs.export(lambda image: call(image=image)["digit"], (32, 32, 1), file)


@pytest.fixture(scope="module")
def by_precision(float32: Path, digits: Any) -> dict[str, Path]:
    folder = float32.parent
    return {
        "float32": float32,
        "float16": graphs.halve(float32, folder / "half.onnx"),
        "int8": graphs.quantize(float32, folder / "int8.onnx", digits[0][:64]),
    }


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_an_engine_computes_in_the_precision_of_its_graph(
    precision: str, by_precision: dict[str, Path], tmp_path: Path
) -> None:
    made = built(by_precision[precision], tmp_path / "engine", **RTX)
    assert made.file.stat().st_size > 100_000
    assert served_path(Servable(made.path)) == made.file
    assert (made.product, made.compute_capability, made.gpu) == ("rtx", "8.9", "")
    # Nothing here runs it, and who made the ONNX file is not known.
    assert made.compared.startswith("not compared: no GPU here that the engine is for")
    assert made.difference is None
    assert made.tensorrt_version.startswith("1.")
    assert (made.min_batch, made.opt_batch, made.max_batch) == (1, 1, 64)
    assert made.size_bytes > made.file.stat().st_size

    rows = json.loads(made.layer_table.read_text())
    # The seven convolutions and the dense layer.
    products = [row for row in rows if row["type"] in PRODUCTS]
    assert [row["precision"] for row in products] == [precision] * 8
    # Each convolution was fused with what follows it.
    nodes = [set(row["nodes"]) for row in products]
    assert all(any("onv2" in node or "depthwise" in node for node in item) for item in nodes[:7])
    counted = dict(part.split() for part in made.engine_layers or ())
    assert int(counted[precision]) >= 8
    assert sum(map(int, counted.values())) <= len(rows)
    assert any(layer.startswith(f"{precision} ") for layer in made.network_layers)
    assert not made.inspection.exists()
    assert TRTEngine.load(made.path).facts() == made.facts()


def test_an_engine_that_can_not_run_here_names_what_its_onnx_file_was_compared_by(
    tmp_path: Path,
) -> None:
    model = ONNXModel(tmp_path / "model", difference=0.0125)
    model.serving_dir.mkdir(parents=True)
    graphs.product(model.file, graphs.FLOAT)
    model.save()
    made = built(model.path, tmp_path / "engine", **RTX)
    assert made.compared.endswith("its ONNX file differs from its source by 0.0125")


def test_the_same_graph_gives_the_same_bytes(float32: Path, tmp_path: Path) -> None:
    item, two = (built(float32, tmp_path / name, **RTX) for name in ("one", "two"))
    assert item.digest == two.digest
    # Another compute capability, or no TF32, is another engine.
    other = built(float32, tmp_path / "other", **RTX | {"compute_capability": "12.0"})
    plain = built(float32, tmp_path / "plain", **RTX, tf32=False)
    assert other.file.read_bytes() != item.file.read_bytes()
    assert plain.file.read_bytes() != item.file.read_bytes()
    assert (item.tf32, plain.tf32) == (1, 0)


def test_a_graph_in_bfloat16_is_built(tmp_path: Path) -> None:
    file = graphs.product(tmp_path / "model.onnx", graphs.BFLOAT16)
    # Also from a folder that holds it.
    made = built(tmp_path, tmp_path / "engine", **RTX)
    assert file.name == "model.onnx"
    assert made.network_layers == ("bfloat16 2",)


def test_a_fixed_batch_is_the_engines_only_one(tmp_path: Path) -> None:
    file = graphs.product(tmp_path / "model.onnx", graphs.FLOAT, [3, 8])
    made = built(file, tmp_path / "engine", **RTX)
    assert (made.min_batch, made.opt_batch, made.max_batch) == (3, 3, 3)


def test_an_artifact_folder_is_taken(float32: Path, tmp_path: Path) -> None:
    serving = tmp_path / "model" / "Format-Serving"
    serving.mkdir(parents=True)
    (serving / "model.onnx").write_bytes(float32.read_bytes())
    made = built(tmp_path / "model", tmp_path / "engine", **RTX, opt_batch=8, max_batch=8)
    assert (made.min_batch, made.opt_batch, made.max_batch) == (1, 8, 8)
    assert json.loads((made.serving_dir / "engine.json").read_text()) == {
        "product": "rtx",
        "tensorrt_version": made.tensorrt_version,
        "compute_capability": "8.9",
        "gpu": "",
        "driver_version": "",
        "version_compatible": False,
        "hardware_compatibility": "none",
        "min_batch": 1,
        "opt_batch": 8,
        "max_batch": 8,
    }


@pytest.mark.parametrize("place", ["weights.bin", "data/weights.bin"])
def test_weights_beside_the_file_belong_to_it(place: str, tmp_path: Path) -> None:
    file = graphs.product(tmp_path / "model.onnx", graphs.FLOAT)
    whole = built(file, tmp_path / "whole", **RTX)
    weights = file.parent / place
    weights.parent.mkdir(exist_ok=True)
    onnx.save(
        onnx.load(str(file)),
        str(file),
        save_as_external_data=True,
        location=place,
        size_threshold=0,
    )
    assert weights.stat().st_size == 8 * 8 * 4
    apart = built(file, tmp_path / "apart", **RTX)
    assert apart.file.read_bytes() == whole.file.read_bytes()
    weights.unlink()
    with pytest.raises(ModelError, match=r"weights that it refers to are not beside it"):
        built(file, tmp_path / "engine", **RTX)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        # onnxruntime's own default.
        ({"QuantizeBias": True}, r"\(DequantizeLinear\)[\s\S]*input has type Int32"),
        ({"ActivationSymmetric": False}, r"\(QuantizeLinear\)[\s\S]*Non-zero zero point"),
        ({"activation": "QInt16"}, r"can't take the graph[\s\S]*zero_point"),
    ],
)
def test_quantization_that_tensorrt_does_not_take_is_named_with_its_node(
    settings: dict[str, Any], words: str, float32: Path, digits: Any, tmp_path: Path
) -> None:
    from onnxruntime.quantization import QuantType

    given = {
        key: QuantType[item] if key == "activation" else item for key, item in settings.items()
    }
    file = graphs.quantize(float32, tmp_path / "model.onnx", digits[0][:8], **given)
    with pytest.raises(UnsupportedError, match=words):
        built(file, tmp_path / "engine", **RTX)


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        (graphs.FLOAT, ["n", "m"], "'x' varies in more than the batch"),
        (graphs.DOUBLE, None, "'x' is float64"),
    ],
)
def test_inputs_that_no_profile_or_kernel_fits_are_refused(
    kind: int, shape: list[int | str] | None, words: str, tmp_path: Path
) -> None:
    file = graphs.product(tmp_path / "model.onnx", kind, shape)
    with pytest.raises(UnsupportedError, match=words):
        built(file, tmp_path / "engine", **RTX)


def test_what_the_builder_refuses_comes_with_its_reason(float32: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="workspace limit"):
        built(float32, tmp_path / "engine", **RTX, workspace_mb=1)
    with pytest.raises(UnsupportedError, match="Turing"):
        built(float32, tmp_path / "engine", **RTX | {"compute_capability": "7.5"})


def test_files_that_are_no_onnx_models_are_refused(float32: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    for content in (b"no model", b"", float32.read_bytes()[:5000]):
        file.write_bytes(content)
        with pytest.raises(ModelError, match="can't be read as an ONNX model"):
            built(file, tmp_path / "engine", **RTX)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no ONNX model"):
        built(tmp_path / "empty", tmp_path / "engine", **RTX)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"compute_capability": "8.9"}, "compute_capability goes with product rtx"),
        (RTX | {"version_compatible": True}, "version_compatible goes with product server"),
        (RTX | {"hardware_compatibility": "ampere_plus"}, "hardware_compatibility goes with"),
        (RTX | {"min_batch": 8, "opt_batch": 4}, "must rise[\\s\\S]*8, 4, 64"),
        (RTX | {"opt_batch": 128}, "must rise[\\s\\S]*1, 128, 64"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(
    parameters: dict[str, Any], words: str, float32: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match=words):
        built(float32, tmp_path / "engine", **parameters)


def test_an_earlier_engine_is_for_server_alone(float32: Path, tmp_path: Path) -> None:
    earlier = built(float32, tmp_path / "earlier", **RTX)
    inputs = {"model": float32, "earlier": earlier.path}
    outputs = {"engine": tmp_path / "engine"}
    with pytest.raises(ParameterError, match="earlier goes with product server"):
        execute(build_tensorrt, Call(inputs, outputs, RTX))
    with pytest.raises(ParameterError, match="this engine has no timing cache"):
        execute(build_tensorrt, Call(inputs, outputs))


@pytest.fixture
def no_gpu() -> None:
    """For tests of what is said without a GPU; a machine with one has others."""
    from paring.tensorrt.driver import find_gpu

    try:
        result = find_gpu()
    except MissingDependencyError:
        return
    pytest.skip(f"this machine has a GPU, {result.name}")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("product", ["server", "rtx"])
def test_without_a_gpu_an_engine_for_the_current_one_fails_at_once_and_says_why(
    product: str, float32: Path, tmp_path: Path
) -> None:
    start = time.monotonic()
    with pytest.raises(MissingDependencyError, match=r"no NVIDIA GPU[\s\S]*libcuda.so.1"):
        built(float32, tmp_path / "engine", product=product)
    # A bound that hanging would break, and not a measurement.
    assert time.monotonic() - start < 5
    assert not (tmp_path / "engine").exists()


@pytest.mark.usefixtures("no_gpu")
def test_the_onnx_model_is_handed_on_where_that_was_asked_for(
    float32: Path, tmp_path: Path
) -> None:
    made = built(float32, tmp_path / "engine", on_unavailable="onnx_only")
    assert (made.serving_dir / "model.onnx").read_bytes() == float32.read_bytes()
    assert made.size_bytes == float32.stat().st_size
    assert made.note is not None
    assert made.note.startswith("no engine, but the ONNX model: TensorRT can't be used here")
    assert (made.product, made.engine_layers) == ("", None)

    file = graphs.product(tmp_path / "model.onnx", graphs.FLOAT)
    onnx.save(
        onnx.load(str(file)), str(file), save_as_external_data=True, location="w", size_threshold=0
    )
    again = built(file, tmp_path / "again", on_unavailable="onnx_only")
    assert {path.name for path in again.serving_dir.iterdir()} == {"model.onnx", "w"}


def test_a_refused_model_is_no_reason_to_hand_the_onnx_model_on(tmp_path: Path) -> None:
    file = graphs.product(tmp_path / "model.onnx", graphs.DOUBLE)
    with pytest.raises(ParingError, match="float64"):
        built(file, tmp_path / "engine", **RTX, on_unavailable="onnx_only")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("network", "products"), [("MobileNetV2", 53), ("ResNet50", 54)])
def test_engines_of_known_networks_are_built(
    network: str, products: int, precision: str, known_networks: Path, tmp_path: Path
) -> None:
    made = built(known_networks / f"{network}-{precision}.onnx", tmp_path / "engine", **RTX)
    rows = json.loads(made.layer_table.read_text())
    computed = [row["precision"] for row in rows if row["type"] in PRODUCTS]
    assert computed == [precision] * products


@pytest.fixture(scope="module")
def known_networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileNetV2 and ResNet50 with random weights, at 64x64, in three precisions."""
    import tf_keras

    folder = tmp_path_factory.mktemp("known")
    images = np.random.default_rng(0).uniform(-1, 1, (4, 64, 64, 3)).astype(np.float32)
    for name in ("MobileNetV2", "ResNet50"):
        tf_keras.utils.set_random_seed(0)
        build = getattr(tf_keras.applications, name)
        model = build(input_shape=(64, 64, 3), weights=None, classes=10)
        plain = graphs.export(lambda image, model=model: model(image), (64, 64, 3), folder / name)
        plain = plain.rename(folder / f"{name}-float32.onnx")
        graphs.halve(plain, folder / f"{name}-float16.onnx")
        graphs.quantize(plain, folder / f"{name}-int8.onnx", images)
    return folder
