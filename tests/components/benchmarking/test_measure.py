"""Models that a measurement holds at once."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from paring.benchmarking import measure
from paring.benchmarking.measure import Spec, _Side, time_latency
from paring.models.saved_model import SavedModel
from paring.runtimes.savedmodel import SavedModelRuntime


def table(folder: Path, rows: int) -> str:
    """Save x @ weights with constant weights [4, rows]."""
    module = tf.Module()
    weights = np.random.default_rng(0).random((4, rows), np.float32)
    module.serve = tf.function(
        lambda x: {"y": x @ weights}, input_signature=[tf.TensorSpec([None, 4], tf.float32, "x")]
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return str(folder)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[frozenset[str]]:
    """The folders of the models that are open, each time that one is opened."""
    now: Counter[str] = Counter()
    seen: list[frozenset[str]] = []
    start, close = SavedModelRuntime.__init__, SavedModelRuntime.close

    def counting_start(self: Any, model: SavedModel, **options: Any) -> None:
        start(self, model, **options)
        now[model.folder.name] += 1
        self.counted = model.folder.name
        seen.append(frozenset(+now))

    def counting_close(self: Any) -> None:
        now[self.counted] -= 1
        close(self)

    monkeypatch.setattr(SavedModelRuntime, "__init__", counting_start)
    monkeypatch.setattr(SavedModelRuntime, "close", counting_close)
    # Of the constants that follow, the larger ones are above.
    monkeypatch.setattr(measure, "_LARGE_GRAPH_BYTES", 100_000)
    return seen


@pytest.mark.parametrize(
    ("source_rows", "candidate_rows", "at_once"), [(20_000, 20_000, 1), (4, 20_000, 2), (4, 4, 2)]
)
def test_of_two_large_frozen_graphs_one_is_loaded_at_a_time(
    tmp_path: Path,
    opened: list[frozenset[str]],
    source_rows: int,
    candidate_rows: int,
    at_once: int,
) -> None:
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, **{"0": np.ones((3, 1, 4), np.float32)})
    spec = Spec(
        "latency",
        source=table(tmp_path / "source", source_rows),
        candidate=table(tmp_path / "candidate", candidate_rows),
        inputs=str(inputs),
        names=["x"],
        folder=str(tmp_path),
        threads=0,
        rounds=2,
        windows=3,
        window_seconds=0.001,
    )
    time_latency(spec)
    assert max(len(models) for models in opened) == at_once
    assert len(opened) == 2 * spec.rounds
    with np.load(spec.latencies) as result:
        for side in ("source", "candidate"):
            assert result[side].shape[:2] == (2, 3)
            assert (result[side] > 0).all()
    if source_rows < candidate_rows:
        # The large one first, which takes most while it is loaded.
        assert opened[::2] == [frozenset({"candidate"})] * 2
    # Each is first in one of the rounds.
    if at_once == 1:
        order = [next(iter(models)) for models in opened]
        assert order in (
            ["source", "candidate", "candidate", "source"],
            ["candidate", "source", "source", "candidate"],
        )


def test_a_later_warm_up_begins_with_windows_of_the_length_that_the_first_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[int] = []

    def time_calls(side: _Side, calls: int) -> Any:
        timed.append(calls)
        return np.full(calls, 0.001)

    monkeypatch.setattr(_Side, "time_calls", time_calls)
    spec = Spec(
        "latency", source="s", candidate="c", inputs="", names=[], folder=str(tmp_path), threads=1
    )
    side = _Side("candidate", [], spec)
    assert side.warm_up(60.0)
    # Until a window lasts 20 ms, and three of these.
    assert timed == [1, 2, 4, 8, 16, 32, 32, 32]
    timed.clear()
    assert side.warm_up(60.0)
    assert timed == [32, 32, 32]
