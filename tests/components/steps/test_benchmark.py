"""A candidate beside its source: real processes, on a small trained network."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.adapters.kfp_views import views
from paring.artifacts import BenchmarkMetrics, RuntimeConfiguration, content_bytes
from paring.errors import ArtifactTypeError, ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.steps.benchmark import benchmark, gzip_size

QUICK = {"rounds": 4, "windows": 2, "min_seconds": 0.4}


@pytest.fixture(scope="module")
def tflite(digits_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf

    file = tmp_path_factory.mktemp("lite") / "model.tflite"
    converter = tf.lite.TFLiteConverter.from_saved_model(str(digits_model))
    file.write_bytes(converter.convert())
    return file


def _run(
    source: Path, candidate: Path | None, examples: Path, out: Path, **parameters: Any
) -> BenchmarkMetrics:
    inputs = {"source": source, "examples": examples}
    if candidate is not None:
        inputs["candidate"] = candidate
    done = execute(benchmark, Call(inputs, {"metrics": out}, {**QUICK, **parameters}))
    metrics = done["metrics"]
    assert isinstance(metrics, BenchmarkMetrics)
    return metrics


def test_a_tflite_file_is_measured_beside_its_source(
    digits_model: Path, tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    metrics = _run(digits_model, tflite, digits_npz, tmp_path / "metrics", threads=1)
    missing = {name for name, value in metrics.facts().items() if value is None}
    # Nothing of it ran on a GPU.
    assert missing <= {"peak_device_memory_bytes"}
    assert metrics.peak_device_memory_bytes is None
    assert 0 < metrics.p50_ms <= metrics.p90_ms <= metrics.p99_ms
    assert metrics.speedup == pytest.approx(metrics.source_p50_ms / metrics.p50_ms)
    # Calling a SavedModel costs far more than this network itself does.
    assert 1 < metrics.speedup_low < metrics.speedup < metrics.speedup_high
    assert metrics.size_bytes == tflite.stat().st_size
    assert metrics.gzip_bytes == len(gzip.compress(tflite.read_bytes(), 9))
    # TensorFlow alone would take more than this.
    assert 10e6 < metrics.peak_memory_bytes < 200e6

    details = json.loads(metrics.file.read_text())
    assert details["solo"]["imports_tensorflow"] is False
    assert details["environment"]["threads"] == 1
    assert details["environment"]["accelerators"] == []
    assert details["solo"]["device_memory_counted"] is None
    assert details["environment"]["libraries"].keys() == {"numpy", "tensorflow", "ai-edge-litert"}
    for side in (details["source"], details["candidate"]):
        medians = np.array(side["window_p50_ms"])
        assert medians.shape == (details["method"]["rounds"], 2)
        assert medians.min() <= side["p50_ms"] <= medians.max()
        assert side["throughput"] == pytest.approx(1e3 / side["mean_ms"])
    assert BenchmarkMetrics.load(tmp_path / "metrics").facts() == metrics.facts()
    (view,) = views(BenchmarkMetrics)
    assert "threads 1, accelerators none, batch size 1." in view.text(metrics)


@pytest.mark.parametrize(("precision", "rounds"), [(0.0, 5), (0.9, 3)])
def test_no_round_follows_once_the_speedup_is_as_precise_as_requested(
    precision: float,
    rounds: int,
    digits_model: Path,
    tflite: Path,
    digits_npz: Path,
    tmp_path: Path,
) -> None:
    # Long enough that other load on the machine does not decide.
    parameters = {"rounds": 5, "precision": precision, "min_seconds": 2.0, "threads": 1}
    metrics = _run(digits_model, tflite, digits_npz, tmp_path / "metrics", **parameters)
    details = json.loads(metrics.file.read_text())
    assert details["method"]["rounds"] == len(details["source"]["window_p50_ms"]) == rounds
    assert (details["method"]["max_rounds"], details["method"]["precision"]) == (5, precision)
    assert metrics.speedup_high <= metrics.speedup * (1.9 if precision else np.inf)


def test_the_source_against_itself_has_no_winner(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    metrics = _run(digits_model, None, digits_npz, tmp_path / "metrics", batch_size=4)
    assert metrics.speedup_low <= 1 <= metrics.speedup_high
    assert metrics.size_bytes == content_bytes(digits_model)
    details = json.loads(metrics.file.read_text())
    assert details["solo"]["runtime"] == "tensorflow"
    assert metrics.peak_memory_bytes > 200e6


def test_a_candidate_that_can_not_take_the_batch_is_unsupported(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    import tensorflow as tf

    model = tf.saved_model.load(str(digits_model))

    class Fixed(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((1, 32, 32, 1), tf.float32, name="image")])
        def serve(self, image: Any) -> Any:
            return model.signatures["serving_default"](image=image)

    module = Fixed()
    module.model = model
    tf.saved_model.save(module, str(tmp_path / "fixed"), signatures=module.serve)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "fixed"))
    file = tmp_path / "fixed.tflite"
    file.write_bytes(converter.convert())
    with pytest.raises(UnsupportedError, match="batches of 1 only"):
        _run(digits_model, file, digits_npz, tmp_path / "metrics", batch_size=8)
    assert not (tmp_path / "metrics").exists()


def test_a_configuration_says_how_both_are_run(
    digits_model: Path, tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    made = tmp_path / "tuned"
    made.mkdir()
    RuntimeConfiguration(made, batch_size=8, threads=1, instances=2, gpu_memory_mb=512).save()
    inputs = {"source": digits_model, "candidate": tflite, "examples": digits_npz}
    inputs["configuration"] = made
    brief = {"rounds": 2, "windows": 1, "min_seconds": 0.1}
    call = Call(inputs, {"metrics": tmp_path / "metrics"}, brief)
    metrics = execute(benchmark, call)["metrics"]
    assert isinstance(metrics, BenchmarkMetrics)
    details = json.loads(metrics.file.read_text())
    assert (details["batch_size"], details["gpu_memory_mb"]) == (8, 512)
    assert details["environment"]["threads"] == 1
    assert metrics.throughput == pytest.approx(8e3 / details["candidate"]["mean_ms"])


@pytest.mark.parametrize("name", ["batch_size", "threads", "gpu_memory_mb"])
def test_what_the_configuration_states_is_not_given_too(
    name: str, tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    (tmp_path / "tuned").mkdir()
    RuntimeConfiguration(tmp_path / "tuned", batch_size=8, threads=1, instances=2).save()
    inputs = {"source": tflite, "candidate": tflite, "examples": digits_npz}
    inputs["configuration"] = tmp_path / "tuned"
    with pytest.raises(ParameterError, match=f"{name}: the configuration states it"):
        execute(benchmark, Call(inputs, {"metrics": tmp_path / "metrics"}, {name: 1}))


def test_a_folder_that_states_no_configuration_is_refused(
    tflite: Path, digits_npz: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    inputs = {"source": tflite, "candidate": tflite, "examples": digits_npz}
    inputs["configuration"] = tmp_path / "empty"
    with pytest.raises(ArtifactTypeError, match="states no batch size"):
        execute(benchmark, Call(inputs, {"metrics": tmp_path / "metrics"}, {}))


def test_gzip_size_depends_on_the_bytes_alone(tmp_path: Path) -> None:
    first, second = b"a" * 5000, bytes(range(256)) * 20
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "x").write_bytes(first)
        (tmp_path / name / "deep" / f"{name}.bin").write_bytes(second)
    expected = sum(len(gzip.compress(data, 9)) for data in (first, second))
    assert gzip_size(tmp_path / "one") == gzip_size(tmp_path / "two") == expected
