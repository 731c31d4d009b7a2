"""Results of a run in the MLflow run that the environment names."""

import importlib
import logging
import math
import os
import re
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from paring.errors import first_line
from paring.selection.candidates import CandidateRow, SelectionResult

RUN_ID = "MLFLOW_RUN_ID"
"""Environment variable of MLflow's own, with the id of the run to log to."""

_BATCH = 1000
"""Metrics that MLflow takes in one request."""

_log = logging.getLogger("paring.mlflow")


def log_results(selection: SelectionResult, files: Sequence[Path]) -> None:
    """Log the figures of each candidate, the verdict and `files` to the MLflow run.

    Without a run id in the environment nothing is imported, and nothing is sent. The results
    are in place already, so that what goes wrong is a warning.

    Args:
        selection: The selection.
        files: Files to add to the run's artifacts.
    """
    run_id = os.environ.get(RUN_ID, "")
    if not run_id:
        return
    try:
        client = importlib.import_module("mlflow").MlflowClient()
        entities = importlib.import_module("mlflow.entities")
    except ImportError as error:
        _log.warning(
            "%s is set, and nothing is logged, since MLflow can't be imported (%s):"
            " install mlflow, or unset the variable",
            RUN_ID,
            first_line(error),
        )
        return
    now = int(time.time() * 1000)
    metrics = [
        entities.Metric(name, value, now, 0)
        for row in selection.candidates
        for name, value in _figures(row).items()
    ]
    tags = {"paring.selected": selection.selected, "paring.verdict": selection.verdict}
    try:
        for start in range(0, len(metrics), _BATCH):
            client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        for name, text in tags.items():
            client.set_tag(run_id, name, text)
        for file in files:
            client.log_artifact(run_id, str(file), "paring")
    except Exception as error:
        # MLflow raises errors of its own, of its stores and of HTTP alike.
        _log.warning(
            "the results could not be logged to MLflow's run %s (%s):"
            " look at MLFLOW_TRACKING_URI and its server",
            run_id,
            first_line(error),
        )


def _figures(row: CandidateRow) -> dict[str, float]:
    """Return the measured figures of a candidate, by the name of their metric."""
    # MLflow refuses other characters in a metric's name.
    candidate = re.sub(r"[^\w.-]", "_", row.id, flags=re.ASCII)
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    return {
        f"paring/{candidate}/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
