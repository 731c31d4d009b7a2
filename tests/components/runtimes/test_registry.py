"""The registry of runtimes: a new runtime is one file and one line."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import paring
from paring.artifacts import Servable
from paring.errors import MissingDependencyError, ModelError, ParameterError
from paring.runtimes import (
    find_served,
    import_library,
    open_runtime,
    register_runtime,
    registered_runtimes,
)

# The whole of a runtime: it multiplies the input `x` by the number in `model.toy`.
TOY = '''
"""Models that multiply by a number."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from paring.artifacts import Servable
from paring.errors import ModelError, UntrustedModelError
from paring.runtimes.base import Features, InputTensor, LoadOptions, RuntimeSpec, SignatureRuntime


class ToyRuntime(SignatureRuntime):
    name = "toy"

    def __init__(self, file: Path) -> None:
        self._factor = np.float32(json.loads(file.read_text())["factor"])
        super().__init__(file, {"x": InputTensor((None, 4), np.dtype("float32"))})

    def run(self, features: Features) -> dict[str, np.ndarray[Any, Any]]:
        self.check(features)
        return {"y": self._factor * features["x"]}

    def close(self) -> None:
        pass


def _check(file: Path, artifact: Servable) -> None:
    if "code" in json.loads(file.read_text()) and not artifact.trusted:
        raise UntrustedModelError(f"{file} holds code")


def _load(file: Path, artifact: Servable, options: LoadOptions) -> ToyRuntime:
    return ToyRuntime(file)


RUNTIME = RuntimeSpec("toy", ("model.toy",), {"toylib": "json"}, _check, _load)
'''

USES = """
import json, sys
from pathlib import Path
from paring.artifacts import Servable
from paring.errors import ParameterError, UntrustedModelError
from paring.execution import Call, execute
from paring.runtimes import open_runtime, served_path
from paring.serving.versions import Version, publish, versions
from paring.steps.benchmark import benchmark
from paring.steps.evaluate import evaluate
from paring.steps.tune_batch import tune_batch

source, toy, examples, out = map(Path, sys.argv[1:])
inputs = {"source": source, "candidate": toy, "examples": examples}
execute(evaluate, Call(inputs, {"evaluation": out / "evaluation"}, {"metric": "mae"}))
quick = {"rounds": 2, "windows": 1, "min_seconds": 0.05, "threads": 1}
execute(benchmark, Call(inputs, {"metrics": out / "metrics"}, quick))
tune = {"gpu_memory_mb": 64}
try:
    execute(tune_batch, Call(inputs, {"configuration": out / "configuration"}, tune))
except ParameterError as error:
    print(error.what)
publish(str(out / "versions"), toy, Version(action="push"))
(out / "code.toy").write_text('{"factor": 1, "code": ""}')
try:
    open_runtime(Servable(out / "code.toy"))
except UntrustedModelError as error:
    print(error.what)
open_runtime(Servable(out / "code.toy", trusted=True)).close()
numbers = [one.number for one in versions(str(out / "versions"))]
print(json.dumps([str(served_path(Servable(toy))), numbers]))
"""


@pytest.fixture
def with_toy(tmp_path: Path) -> Path:
    """A copy of the package, with one file and one line more."""
    package = tmp_path / "components" / "paring"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(paring.__file__).parent, package, ignore=skip)
    (package / "runtimes" / "toy.py").write_text(TOY)
    registry = package / "runtimes" / "registry.py"
    text = registry.read_text()
    assert text.count('    "tensorrt",\n') == 1
    registry.write_text(text.replace('    "tensorrt",\n', '    "tensorrt",\n    "toy",\n'))
    return package.parent


@pytest.mark.timeout(1800)
def test_a_new_runtime_is_one_file_and_one_line(
    with_toy: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    values = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    examples, toy, out = tmp_path / "examples.npz", tmp_path / "toy", tmp_path / "out"
    labels = 2 * values + 0.1
    np.savez(examples, x_train=values, y_train=labels, x_eval=values, y_eval=labels)
    toy.mkdir()
    out.mkdir()
    (toy / "model.toy").write_text(json.dumps({"factor": 2.5}))
    done = subprocess.run(
        [sys.executable, "-c", USES, *map(str, (tiny_models["saved"], toy, examples, out))],
        env={"PYTHONPATH": ":".join([str(with_toy), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tune, untrusted, last = done.stdout.splitlines()
    assert tune == "gpu_memory_mb: only TensorFlow has this limit"
    assert untrusted == f"{out / 'code.toy'} holds code"
    assert json.loads(last) == [str(toy / "model.toy"), [1]]

    evaluation = json.loads((out / "evaluation" / "evaluation.json").read_text())
    assert evaluation["mae"] == pytest.approx(np.abs(0.5 * values - 0.1).mean(), rel=1e-5)
    assert evaluation["source_mae"] == pytest.approx(0.1, rel=1e-5)

    timed = json.loads((out / "metrics" / "benchmark.json").read_text())
    assert timed["solo"]["runtime"] == "toy"
    assert timed["solo"]["imports_tensorflow"] is False
    assert timed["environment"]["libraries"].keys() == {"numpy", "tensorflow", "toylib"}
    assert timed["size_bytes"] == (toy / "model.toy").stat().st_size


def test_each_runtime_has_one_record_and_a_folder_is_searched_in_their_order() -> None:
    result = {spec.name: spec.served_files[0] for spec in registered_runtimes()}
    assert list(result.items()) == [
        ("tensorflow", "saved_model.pb"),
        ("tflite", "model.tflite"),
        ("onnxruntime", "model.onnx"),
        ("openvino", "model.xml"),
        ("tensorrt", "model.engine"),
    ]


def test_the_first_runtime_in_order_loads_a_folder_with_files_of_several(tmp_path: Path) -> None:
    for spec in reversed(registered_runtimes()):
        (tmp_path / spec.served_files[0]).touch()
        assert find_served(tmp_path).runtime is spec
    serving = tmp_path / "Format-Serving"
    serving.mkdir()
    (serving / "model.onnx").touch()
    assert find_served(tmp_path).file == serving / "model.onnx"


@pytest.mark.parametrize(
    ("name", "path"), [("model.xml", None), ("saved_model.pb", None), ("some.onnx", "some.onnx")]
)
def test_what_is_served_is_all_of_the_model(name: str, path: str | None, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    result = find_served(tmp_path / name if path else tmp_path)
    assert result.path == (tmp_path / path if path else tmp_path)


@pytest.mark.parametrize("name", ["model.pte", "model.xml", "saved_model.pb", "model", "model.bin"])
def test_a_file_of_no_runtime_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"1234")
    with pytest.raises(ModelError) as error:
        open_runtime(Servable(tmp_path / name))
    assert error.value.what == f"{tmp_path / name} holds no model that a runtime loads"
    assert error.value.received == "a file of 4 bytes"
    assert "saved_model.pb, model.tflite, model.onnx, model.xml or model.engine" in (
        error.value.remedy
    )


def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.xml").touch()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError, match=r"paring\[openvino\]"):
        import_library(Servable(tmp_path))


def test_a_folder_of_no_runtime_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pte").touch()
    with pytest.raises(ModelError, match=r"a folder with model\.pte"):
        open_runtime(Servable(tmp_path))


@pytest.mark.parametrize(
    ("change", "received"),
    [
        ({"served_files": ("model.lite",)}, "the name 'tflite' a second time"),
        ({"name": "other"}, "model.tflite, which 'tflite' serves"),
        ({"name": "other", "served_files": ("network.tflite",)}, "which 'tflite' serves"),
        ({"name": "other", "served_files": ("model.tflite", "more")}, "which 'tflite' serves"),
    ],
)
def test_a_runtime_that_another_one_would_hide_is_refused(
    change: dict[str, Any], received: str
) -> None:
    before = registered_runtimes()
    tflite = next(spec for spec in before if spec.name == "tflite")
    with pytest.raises(ParameterError) as error:
        register_runtime(replace(tflite, **change))
    assert received in error.value.received
    assert registered_runtimes() == before
