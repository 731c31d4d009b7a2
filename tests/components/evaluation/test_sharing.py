"""Workers elsewhere get all that a pair names, sample weights included."""

from pathlib import Path

import numpy as np
import pytest

from paring.artifacts import Servable
from paring.evaluation.scoring import make_plan
from paring.evaluation.sharing import EvaluationPayload, brought, shared


@pytest.mark.parametrize("weighted", [True, False])
def test_the_arrays_of_a_shared_split_arrive_unchanged(tmp_path: Path, weighted: bool) -> None:
    arrays = {"x": np.arange(6.0), "y": np.arange(6), "w": np.arange(6) / 4}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    files = {name: str(tmp_path / f"{name}.npy") for name in arrays}
    model = tmp_path / "model.tflite"
    model.write_bytes(b"a model")
    plan = make_plan("auto", top_k=5, gated="", outputs={"y": arrays["y"]})
    pair = EvaluationPayload(
        Servable(model),
        Servable(model),
        plan,
        "",
        {"x": files["x"]},
        {"y": (files["y"], (6,))},
        files["w"] if weighted else "",
    )
    there = shared(pair, str(tmp_path / "shared"))
    for file in tmp_path.glob("*.npy"):
        file.unlink()
    here = brought(there, tmp_path / "here")
    np.testing.assert_array_equal(np.load(here.features["x"]), arrays["x"])
    np.testing.assert_array_equal(np.load(here.labels["y"][0]), arrays["y"])
    assert bool(here.weights) == weighted
    if weighted:
        np.testing.assert_array_equal(np.load(here.weights), arrays["w"])
