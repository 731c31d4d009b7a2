"""The runtimes, behind one interface, on the same small trained network."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Servable
from paring.errors import ModelError, ParameterError, ParingError, UnsupportedError
from paring.execution import Call, execute
from paring.runtimes import InputTensor, Runtime, blank_batch, open_runtime
from paring.steps.convert_openvino import convert_openvino
from paring.steps.export_onnx import export_onnx


def convert(saved_model: Path, file: Path, *, batch: int | None = None) -> Path:
    """A float TFLite file of the SavedModel, for any batch or for one alone."""
    import tensorflow as tf

    if batch is None:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    else:
        model = tf.saved_model.load(str(saved_model))
        call = model.signatures["serving_default"]
        fixed = tf.function(lambda image: call(image=image)).get_concrete_function(
            image=tf.TensorSpec((batch, 32, 32, 1), tf.float32, name="image")
        )
        again = file.with_suffix(".fixed")
        tf.saved_model.save(model, str(again), signatures={"serving_default": fixed})
        converter = tf.lite.TFLiteConverter.from_saved_model(str(again))
    file.write_bytes(converter.convert())
    return file


@pytest.fixture(scope="module")
def tflite(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(digits_model, tmp_path_factory.mktemp("lite") / "model.tflite")


@pytest.fixture(scope="module")
def fixed(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(digits_model, tmp_path_factory.mktemp("lite") / "one.tflite", batch=1)


@pytest.fixture(scope="module")
def served(digits_model: Path, tflite: Path, tmp_path_factory: Any) -> dict[str, Path]:
    """The same network for each runtime, by the runtime's name."""
    folder = tmp_path_factory.mktemp("served")
    exported = Call({"model": digits_model}, {"exported": folder / "onnx"}, {})
    execute(export_onnx, exported)
    execute(convert_openvino, Call({"model": folder / "onnx"}, {"converted": folder / "ov"}, {}))
    return {
        "tensorflow": digits_model,
        "tflite": tflite,
        "onnxruntime": folder / "onnx",
        "openvino": folder / "ov",
    }


RUNTIMES = ["tensorflow", "tflite", "onnxruntime", "openvino"]


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest, served: dict[str, Path]) -> Runtime:
    return open_runtime(Servable(served[request.param]))


def test_runtimes_say_what_they_take(runtime: Runtime, fixed: Path, digits_model: Path) -> None:
    assert runtime.inputs == {"image": InputTensor((None, 32, 32, 1), np.dtype("float32"))}
    batch = blank_batch(runtime)
    assert batch is not None
    assert batch["image"].shape == (1, 32, 32, 1)
    assert runtime.run(batch)["digit"].shape == (1, 10)
    assert open_runtime(Servable(fixed)).inputs["image"].shape == (1, 32, 32, 1)


@pytest.mark.parametrize("shape", [None, [None, None, 3], [None]])
def test_no_batch_is_made_up_where_the_signature_leaves_it_open(
    shape: list[int | None] | None, tmp_path: Path
) -> None:
    import tensorflow as tf

    dtype = tf.string if shape == [None] else tf.float32
    module = tf.Module()
    module.serve = tf.function(
        lambda x: {"y": tf.size(x)}, input_signature=[tf.TensorSpec(shape, dtype, "x")]
    )
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": module.serve})
    opened = open_runtime(Servable(tmp_path))
    assert opened.inputs["x"].shape == (None if shape is None else tuple(shape))
    assert blank_batch(opened) is None


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("name", RUNTIMES[1:])
def test_runtimes_give_the_same_outputs_by_the_same_names(
    name: str, count: int, served: dict[str, Path], digits: tuple[np.ndarray, ...]
) -> None:
    features = {"image": digits[2][:count]}
    source = open_runtime(Servable(served["tensorflow"]))
    other = open_runtime(Servable(served[name]))
    assert (source.name, other.name) == ("tensorflow", name)
    assert source.batch_size is None
    assert other.batch_size is None
    expected, result = source.run(features), other.run(features)
    assert result.keys() == expected.keys()
    for output, array in expected.items():
        assert array.shape == (count, 10)
        np.testing.assert_allclose(result[output], array, atol=1e-5)


def test_the_batch_may_change_from_call_to_call(
    runtime: Runtime, digits: tuple[np.ndarray, ...]
) -> None:
    images = digits[2][:5]
    (whole,) = runtime.run({"image": images}).values()
    singles = [next(iter(runtime.run({"image": images[i : i + 1]}).values())) for i in range(5)]
    np.testing.assert_allclose(np.concatenate(singles), whole, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: {"picture": x}, "did you mean|known: image"),
        (lambda x: {}, "no inputs"),
        (lambda x: {"image": x.astype(np.float64)}, "takes float32"),
        (lambda x: {"image": x[:, :10]}, "takes the shape"),
        (lambda x: {"image": x[..., 0]}, "takes the shape"),
    ],
)
def test_features_that_are_not_the_signatures_are_refused(
    runtime: Runtime,
    digits: tuple[np.ndarray, ...],
    change: Callable[[np.ndarray], dict[str, np.ndarray]],
    words: str,
) -> None:
    good = digits[2][:2]
    runtime.run({"image": good})
    with pytest.raises(ModelError, match=words):
        runtime.run(change(good))
    runtime.run({"image": good})


def test_a_file_of_a_fixed_batch_says_so(fixed: Path, digits: tuple[np.ndarray, ...]) -> None:
    runtime = open_runtime(Servable(fixed))
    assert runtime.batch_size == 1
    assert len(runtime.run({"image": digits[2][:1]})) == 1
    with pytest.raises(UnsupportedError, match="batches of 1 only"):
        runtime.run({"image": digits[2][:2]})


def test_a_savedmodel_of_a_fixed_batch_says_so(fixed: Path, digits: tuple[np.ndarray, ...]) -> None:
    runtime = open_runtime(Servable(fixed.with_suffix(".fixed")))
    assert runtime.batch_size == 1
    with pytest.raises(UnsupportedError, match="batches of 1 only"):
        runtime.run({"image": digits[2][:2]})


def test_an_onnx_file_of_a_fixed_batch_says_so(
    fixed: Path, digits: tuple[np.ndarray, ...], tmp_path: Path
) -> None:
    model = fixed.with_suffix(".fixed")
    execute(export_onnx, Call({"model": model}, {"exported": tmp_path / "out"}, {}))
    runtime = open_runtime(Servable(tmp_path / "out"))
    assert runtime.batch_size == 1
    with pytest.raises(UnsupportedError, match="batches of 1 only"):
        runtime.run({"image": digits[2][:2]})


def test_a_savedmodel_is_one_whatever_lies_beside_it(digits_model: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_model, tmp_path / "model")
    (tmp_path / "model" / "model.onnx").write_bytes(b"another")
    assert open_runtime(Servable(tmp_path / "model")).name == "tensorflow"


def test_an_artifact_folder_is_opened_by_what_it_serves(tflite: Path, tmp_path: Path) -> None:
    serving = tmp_path / "Format-Serving"
    serving.mkdir()
    (serving / "model.tflite").write_bytes(tflite.read_bytes())
    assert open_runtime(Servable(tmp_path)).name == "tflite"


def _cut(tmp_path: Path, tflite: Path, digits_model: Path) -> Path:
    file = tmp_path / "cut.tflite"
    file.write_bytes(tflite.read_bytes()[:1000])
    return file


def _cut_onnx(tmp_path: Path, tflite: Path, digits_model: Path) -> Path:
    file = tmp_path / "cut.onnx"
    file.write_bytes(b"\x08\x08\x12\x07")
    return file


def _cut_openvino(tmp_path: Path, tflite: Path, digits_model: Path) -> Path:
    (tmp_path / "model.xml").write_text("<net name='cut'")
    return tmp_path


def _cut_graph(tmp_path: Path, tflite: Path, digits_model: Path) -> Path:
    graph = (digits_model / "saved_model.pb").read_bytes()
    (tmp_path / "saved_model.pb").write_bytes(graph[: len(graph) // 2])
    return tmp_path


def _no_variables(tmp_path: Path, tflite: Path, digits_model: Path) -> Path:
    (tmp_path / "saved_model.pb").write_bytes((digits_model / "saved_model.pb").read_bytes())
    return tmp_path


def _empty(tmp_path: Path, tflite: Path, digits_model: Path) -> Path:
    return tmp_path


@pytest.mark.parametrize(
    "broken", [_cut, _cut_onnx, _cut_openvino, _cut_graph, _no_variables, _empty]
)
def test_what_can_not_be_loaded_is_a_model_error(
    broken: Callable[[Path, Path, Path], Path], tmp_path: Path, tflite: Path, digits_model: Path
) -> None:
    path = broken(tmp_path, tflite, digits_model)
    with pytest.raises(ModelError, match=str(path)):
        open_runtime(Servable(path))


@pytest.mark.parametrize("threads", [-1, 7])
def test_threads_that_can_not_be_had_are_refused(threads: int, digits_model: Path) -> None:
    # TensorFlow has started in this process, with other threads than 7.
    with pytest.raises(ParameterError, match="threads"):
        open_runtime(Servable(digits_model), threads=threads)


@pytest.mark.parametrize("name", RUNTIMES[1:])
def test_running_other_files_imports_no_tensorflow_and_says_nothing(
    name: str, served: dict[str, Path]
) -> None:
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from paring.artifacts import Servable; from paring.runtimes import open_runtime\n"
        f"runtime = open_runtime(Servable(Path({str(served[name])!r})), threads=1)\n"
        "runtime.run({'image': np.zeros((2, 32, 32, 1), np.float32)})\n"
        "sys.exit(any(name.split('.')[0] in ('tensorflow', 'tf_keras') for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_are_the_kind_that_the_command_line_shows() -> None:
    with pytest.raises(ParingError, match="nothing"):
        open_runtime(Servable(Path("no-such-model")))
