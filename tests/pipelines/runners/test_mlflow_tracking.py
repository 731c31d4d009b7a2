"""Results in an MLflow run, by a stand-in for MLflow's client, which is not among the locks."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.selections import candidate_row, selection_result

from paring_pipelines.runners.mlflow_tracking import log_results

SELECTION = selection_result(
    [
        candidate_row("source", score=0.98, drop=0.0),
        candidate_row("tflite int8", score=0.97, speedup=3.5, size_bytes=1000, p50_ms=float("nan")),
    ]
)

CLIENT = """
import json, os

class MlflowClient:
    def _write(self, *call):
        if os.environ.get("BROKEN"):
            raise OSError("no route to the server")
        with open(os.environ["CALLS"], "a") as stream:
            stream.write(json.dumps(call) + "\\n")

    def log_batch(self, run_id, metrics=(), params=(), tags=(), synchronous=None):
        self._write("log_batch", run_id, {item.key: item.value for item in metrics})

    def set_tag(self, run_id, key, value, synchronous=None):
        self._write("set_tag", run_id, key, value)

    def log_artifact(self, run_id, local_path, artifact_path=None):
        self._write("log_artifact", run_id, local_path, artifact_path)
"""

ENTITIES = """
class Metric:
    def __init__(self, key, value, timestamp, step):
        self.key, self.value = key, value
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Any]]]:
    """An MLflow that can be imported; returns what its client was called with."""
    package = tmp_path / "site" / "mlflow"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(CLIENT)
    (package / "entities.py").write_text(ENTITIES)
    file = tmp_path / "calls"
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("CALLS", str(file))

    def read() -> list[Any]:
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    yield read
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        del sys.modules[name]


def test_figures_verdict_and_files_are_logged_to_the_run_of_the_environment(
    calls: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "run7")
    log_results(SELECTION, [Path("/out/report.html")])
    assert calls() == [
        [
            "log_batch",
            "run7",
            {
                "paring/source/score": 0.98,
                "paring/source/drop": 0.0,
                "paring/tflite_int8/score": 0.97,
                "paring/tflite_int8/speedup": 3.5,
                "paring/tflite_int8/size_bytes": 1000.0,
            },
        ],
        ["set_tag", "run7", "paring.selected", "tflite int8"],
        ["set_tag", "run7", "paring.verdict", "The last one."],
        ["log_artifact", "run7", "/out/report.html", "paring"],
    ]


def test_without_a_run_id_mlflow_is_not_even_imported(
    calls: Callable[[], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    log_results(SELECTION, [])
    assert "mlflow" not in sys.modules
    assert calls() == []


def test_a_server_that_fails_is_a_warning(
    calls: Callable[[], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "run7")
    monkeypatch.setenv("BROKEN", "1")
    log_results(SELECTION, [])
    (record,) = caplog.records
    assert "run7 (OSError: no route to the server)" in record.getMessage()
    assert calls() == []


def test_a_run_id_without_mlflow_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "run7")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    log_results(SELECTION, [])
    (record,) = caplog.records
    assert "MLFLOW_RUN_ID is set, and nothing is logged" in record.getMessage()
