"""`optimize_savedmodel`: a SavedModel that is faster and the same, or the source's own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Artifact, Model, PrunedModel, ServingModel, TFLiteModel
from paring.errors import ModelError, ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.runtimes import open_runtime
from paring.runtimes.savedmodel import SavedModelRuntime
from paring.steps.convert_tflite import convert_tflite
from paring.steps.optimize_savedmodel import optimize_savedmodel
from paring.steps.prune import prune

pytestmark = pytest.mark.usefixtures("warm_measuring")

# One change, measured shortly.
QUICK = {"precision": "float32", "xla": False, "rounds": 2, "windows": 2, "min_seconds": 0.1}


def optimized(
    model: Path, out: Path, examples: Path | None = None, **parameters: Any
) -> ServingModel:
    inputs = {"model": model} | ({"examples": examples} if examples else {})
    call = Call(inputs, {"optimized": out}, QUICK | parameters)
    made = execute(optimize_savedmodel, call)["optimized"]
    assert isinstance(made, ServingModel)
    return made


def trials(made: ServingModel) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads(made.trials_file.read_text())
    return result


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def is_copy(made: ServingModel, source: Path) -> bool:
    return files(made.serving_dir) == files(source)


def test_bfloat16_for_another_machine_is_kept_though_it_may_be_slower_here(
    digits: Any, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    made = optimized(
        digits_model, tmp_path / "out", digits_npz, precision="bfloat16", keep="accurate"
    )
    assert made.precision == "bfloat16"
    assert (made.speedup, made.compiled) == (None, False)
    assert 0 < (made.difference or 0) <= 0.02
    halves = open_runtime(made).run({"image": digits.x_eval[:64]})
    whole = open_runtime(Model(digits_model)).run({"image": digits.x_eval[:64]})
    (half,), (score,) = halves.values(), whole.values()
    np.testing.assert_allclose(half, score, atol=0.02)


@pytest.mark.slow
def test_the_result_is_measured_faster_or_is_a_copy(
    digits: Any, digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    made = optimized(digits_model, tmp_path / "out", digits_npz)
    (trial,) = trials(made)
    assert (trial["tried"], trial["beside"]) == ("inference graph", "source")
    assert trial["difference"] < 1e-4
    # Which of the two it is depends on the machine.
    assert trial["applied"] == (trial["speedup"]["low"] > 1)
    assert is_copy(made, digits_model) == (not trial["applied"])
    facts = made.facts()
    assert facts["source_operators"] > 100
    assert facts["compared_on"] == "examples"
    assert facts["keras"] == "none"
    if trial["applied"]:
        assert facts["speedup_low"] == trial["speedup"]["low"]
        assert facts["operators"] < 50
        assert (facts["applied"], facts["not_applied"]) == (("inference graph",), ())
    else:
        assert facts["not_applied"][0].startswith("inference graph: not faster")
    assert SavedModel(made.serving_dir).signature() == SavedModel(digits_model).signature()
    expected, result = (
        open_runtime(Model(path)).run({"image": digits.x_eval})["digit"]
        for path in (digits_model, made.path)
    )
    np.testing.assert_allclose(result, expected, atol=1e-4)
    # Later steps take it as the model that it is.
    call = Call({"model": made.path}, {"converted": tmp_path / "lite"})
    assert isinstance(execute(convert_tflite, call)["converted"], TFLiteModel)
    training = Call({"model": made.path, "examples": digits_npz}, {"pruned": tmp_path / "pruned"})
    pruned = execute(prune, training)["pruned"]
    assert isinstance(pruned, PrunedModel)
    assert (pruned.trained_form, pruned.sparsity) == ("graph", pytest.approx(0.5, abs=0.01))


def test_outputs_beyond_the_tolerance_leave_a_copy(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    parameters = {"precision": "auto", "xla": True, "max_half_difference": 0, "max_difference": 0}
    made = optimized(digits_model, tmp_path / "out", digits_npz, **parameters)
    assert is_copy(made, digits_model)
    assert [item["tried"] for item in trials(made)] == [
        "inference graph",
        "bfloat16",
        "float16",
        "xla",
    ]
    for trial in trials(made):
        assert trial["reason"].startswith("differs by")
        assert trial["speedup"] is None
    assert (made.applied, made.speedup, made.precision) == ((), None, "")
    assert sum("differs by" in item for item in made.not_applied) == 4
    assert made.note == "nothing made it faster, so its graph is the source's"
    assert Artifact.load(made.path).facts() == made.facts()


def test_no_measurement_takes_longer_than_it_may(
    digits_model: Path, digits_npz: Path, tmp_path: Path
) -> None:
    made = optimized(digits_model, tmp_path / "out", digits_npz, max_minutes=0.01)
    assert is_copy(made, digits_model)
    assert made.not_applied[-1].endswith("not measured: measuring it took longer than 0.6 s")


_SEPARATELY = """
import importlib, sys
from pathlib import Path
from paring.execution import Call, execute

module = importlib.import_module("paring.steps.optimize_savedmodel")
module._SEPARATE_BYTES = 0
parameters = {"precision": "float32", "xla": False, "max_minutes": 1e-9}
model, out = map(Path, sys.argv[1:])
execute(module.optimize_savedmodel, Call({"model": model}, {"optimized": out}, parameters))
assert "tensorflow" not in sys.modules
"""


@pytest.mark.slow
def test_of_a_large_model_the_steps_own_process_holds_nothing(
    digits_model: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", _SEPARATELY, str(digits_model), str(tmp_path / "out")]
    places = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(command, check=True, env=os.environ | places)
    made = ServingModel.load(tmp_path / "out")
    assert is_copy(made, digits_model)
    here = optimized(digits_model, tmp_path / "here", max_minutes=1e-9)
    changing = {"digest": None, "not_applied": None}
    assert made.facts() | changing == here.facts() | changing
    (apart,), (together,) = trials(made), trials(here)
    # Functions in the file are numbered by what their process has traced before.
    assert apart.pop("size_bytes") == pytest.approx(together.pop("size_bytes"), rel=0.01)
    assert apart.pop("difference") == pytest.approx(together.pop("difference"), abs=1e-5)
    assert apart == together


def test_a_model_that_cannot_be_frozen_is_copied(lookup: Path, tmp_path: Path) -> None:
    made = optimized(lookup, tmp_path / "out", precision="auto", xla=True)
    assert is_copy(made, lookup)
    (reason,) = made.not_applied
    assert "can't be built or run: this model reads what can't become a constant" in reason
    assert made.compared_on == "random inputs"
    # The others are made of the frozen graph.
    assert [trial["tried"] for trial in trials(made)] == ["inference graph"]


def test_a_fixed_batch_is_there_even_where_nothing_helps(lookup: Path, tmp_path: Path) -> None:
    inputs, parameters = {"model": lookup}, QUICK | {"fixed_batch": 3}
    call = Call(inputs, {"optimized": tmp_path / "out"}, parameters, tolerate=True)
    made = execute(optimize_savedmodel, call)["optimized"]
    assert isinstance(made, ServingModel)
    if made.failure:
        # On a machine that measures it slower.
        assert "at no cost" in made.failure.reason
        return
    assert made.fixed_batch == 3
    assert made.applied == ()
    assert made.difference == 0
    assert made.speedup_high is not None
    assert made.speedup_high >= 1
    fixed = SavedModelRuntime(SavedModel(made.serving_dir, "serving_batch_3"))
    np.testing.assert_array_equal(fixed.run({"x": np.array([1, 7, 0])})["y"], [6, -1, 5])
    any_batch = SavedModelRuntime(SavedModel(made.serving_dir))
    np.testing.assert_array_equal(any_batch.run({"x": np.array([1])})["y"], [6])


def saved(folder: Path, function: Any, *specs: Any) -> Path:
    import tensorflow as tf

    module = tf.Module()
    module.serve = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def test_a_model_with_dropout_left_on_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    spec = tf.TensorSpec([None, 4], tf.float32, "x")
    model = saved(tmp_path / "model", lambda x: {"y": tf.nn.dropout(x, 0.5)}, spec)
    with pytest.raises(UnsupportedError, match="other outputs for the same inputs in each call"):
        optimized(model, tmp_path / "out")


def test_text_and_inputs_without_a_batch_are_refused(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    import tensorflow as tf

    with pytest.raises(UnsupportedError, match="input 'x' takes text"):
        optimized(tiny_models["words"], tmp_path / "out")
    specs = tf.TensorSpec([None, 4], tf.float32, "x"), tf.TensorSpec([], tf.float32, "factor")
    model = saved(tmp_path / "model", lambda x, factor: {"y": x * factor}, *specs)
    with pytest.raises(UnsupportedError, match="'factor' has no batch dimension"):
        optimized(model, tmp_path / "out")


@pytest.mark.parametrize("name", ["fixed_batch", "batch_size"])
def test_another_batch_than_the_models_own_is_refused(tmp_path: Path, name: str) -> None:
    import tensorflow as tf

    spec = tf.TensorSpec([3, 4], tf.float32, "x")
    model = saved(tmp_path / "model", lambda x: {"y": x + 1.0}, spec)
    with pytest.raises(ParameterError, match="batches of 3 alone"):
        optimized(model, tmp_path / "out", **{name: 2})


def test_what_is_no_savedmodel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no SavedModel"):
        optimized(tmp_path / "empty", tmp_path / "out")
    (tmp_path / "empty" / "saved_model.pb").write_bytes(b"\x0a\xff")
    with pytest.raises(ModelError, match="is broken"):
        optimized(tmp_path / "empty", tmp_path / "out")
