"""Advice: the rules on made-up facts, the facts of real models, and a run that follows them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.errors import ParameterError
from paring.selection.pareto import Gate
from paring_pipelines.advice.advice import Advice, AdvisedRecipes, advise
from paring_pipelines.advice.facts import Facts, inspect
from paring_pipelines.cli.main import main
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings

CNN = Facts(
    parameters=4_000_000,
    flops=600_000_000,
    activation_bytes=5_000_000,
    operators={"Conv2D": 20, "DepthwiseConv2dNative": 17},
    largest=("head/kernel", 0.25),
    keras=True,
    labelled=True,
    train_count=5_000,
    input_shape=(64, 64, 3),
    units=10,
    target="mobile",
)
TRAINED = {
    *("prune-int8", "cluster-int8", "prune-cluster-int8"),
    *("prune-cluster-qat-int8", "qat-int8"),
}
LSTM = replace(CNN, operators={"StatelessWhile": 1, "MatMul": 2}, input_shape=(20, 8))


def _advice(facts: Facts, **gate: Any) -> dict[str, Advice]:
    result = advise(load_recipes(target=facts.target), facts, Gate(**gate))
    return {item.recipe.name: item for item in result}


def _against(facts: Facts, **gate: Any) -> dict[str, str]:
    """Return the reasons against the recipes that are not worth trying."""
    return {
        name: " ".join(f"{reason.fact}: {reason.because}" for reason in item.reasons)
        for name, item in _advice(facts, **gate).items()
        if not item.worth
    }


def test_each_recipe_of_the_file_gets_a_verdict_with_the_models_figures() -> None:
    result = _advice(CNN)
    names = {recipe.name for recipe in load_recipes(target="mobile")}
    assert set(result) == names | {"distilled-efficientnet-int8"}
    (reason,) = result["tflite-float16"].reasons
    assert reason.fact == "4,000,000 parameters, 600,000,000 operations"
    assert "take 8.00 MB" in reason.because
    assert all(item.reasons for item in result.values())


def test_without_a_keras_form_no_recipe_that_trains_layers_is_advised() -> None:
    against = _against(replace(CNN, keras=False), objective="size")
    assert set(against) == {"prune-cluster-qat-int8", "qat-int8"}
    assert against["qat-int8"].startswith("no Keras form: quantize trains the layers")


def test_without_a_keras_form_kernels_of_the_graph_are_pruned_without_labels() -> None:
    bare = replace(CNN, keras=False, labelled=False)
    assert "prune-int8" not in _against(bare, objective="size")
    against = _against(replace(bare, operators={"Mul": 1}), objective="size")
    assert set(against) >= TRAINED
    assert "no convolution or matrix product" in against["prune-int8"]


def test_without_labels_only_a_student_can_be_trained() -> None:
    result = _advice(replace(CNN, labelled=False), objective="size")
    against = {name for name, item in result.items() if not item.worth}
    assert against == TRAINED
    student = result["distilled-mobilenet-int8"].recipe.links[0]
    assert student.parameters["soft_weight"] == 1.0


@pytest.mark.parametrize(
    ("given", "changes", "named"),
    [
        ("soft_weight = 0.0", {"labelled": False}, "soft_weight below 1 trains on labels"),
        ("feature_weight = 0.5", {"keras": False}, "features of a bare SavedModel"),
        ("soft_weight = 1.0", {"labelled": False, "keras": False}, ""),
    ],
)
def test_a_distillation_of_ones_own_is_looked_at_too(
    given: str, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(f'[recipes.own]\nsteps = [{{ step = "distill", {given} }}]\n')
    own, _ = advise(load_recipes(file), replace(CNN, **changes), Gate())
    assert own.worth == (not named)
    assert named in " ".join(reason.because for reason in own.reasons)


def test_recipes_whose_weights_alone_are_over_the_limit_are_left_out() -> None:
    against = _against(CNN, max_size_mb=6.0, objective="size")
    assert set(against) == {"tflite-float32", "tflite-float16"}
    assert "16.0 MB as none, over the limit of 6.00 MB" in against["tflite-float32"]


def test_a_student_keeps_to_the_limit_that_nothing_else_reaches() -> None:
    result = _advice(CNN, max_size_mb=0.5)
    assert [name for name, item in result.items() if item.worth] == ["distilled-mobilenet-int8"]
    student = result["distilled-mobilenet-int8"].recipe.links[0]
    assert student.parameters["student"] == "mobilenet_v2"
    assert student.parameters["width"] == 0.35


def test_downloads_matter_on_mobiles_alone() -> None:
    assert not {"prune-int8", "cluster-int8"} & set(_against(CNN))
    assert "25% of which are in head/kernel" in _advice(CNN)["prune-int8"].reasons[0].because
    assert "target cpu-server" in _against(replace(CNN, target="cpu-server"))["prune-int8"]


@pytest.mark.parametrize(
    ("depthwise", "drop", "worth"), [(17, 0.05, True), (0, 0.01, True), (0, 0.05, False)]
)
def test_quantization_aware_training_is_for_depthwise_layers_and_strict_gates(
    depthwise: int, drop: float, worth: bool
) -> None:
    facts = replace(CNN, operators={"Conv2D": 20, "DepthwiseConv2dNative": depthwise})
    assert _advice(facts, max_accuracy_drop=drop)["qat-int8"].worth == worth


def test_an_lstm_is_advised_int8_and_no_form_that_it_lacks() -> None:
    against = _against(LSTM, objective="size")
    assert {"tflite-dynamic", "tflite-int16x8", "tflite-mixed", "qat-int8"} <= set(against)
    assert "[20, 8]" in against["distilled-mobilenet-int8"]
    assert "3.3 times smaller" in _advice(LSTM)["tflite-int8"].reasons[0].because


def test_other_runtimes_of_servers_are_advised_by_what_they_did_for_others() -> None:
    result = _advice(replace(CNN, target="cpu-server"))
    assert "ONNX Runtime ran MobileNetV2" in result["onnx-float32"].reasons[0].because
    assert "take 4.00 MB, and OpenVINO ran" in result["openvino-int8"].reasons[0].because
    assert not {"onnx-float32", "openvino-int8"} & set(_against(replace(LSTM, target="cpu-server")))


def test_int16_is_not_advised_for_speed() -> None:
    assert "tflite-int16x8" in _against(CNN, objective="latency")
    assert "tflite-int16x8" not in _against(CNN, objective="memory")


@pytest.mark.parametrize(
    ("gate", "family", "named"),
    [
        ({}, "efficientnet", "Tan and Le"),
        ({"max_memory_mb": 50.0}, "mobilenet_v2", "max_memory_mb"),
        ({"objective": "memory"}, "mobilenet_v2", "objective memory"),
    ],
)
def test_the_family_is_by_what_is_scarce(gate: dict[str, Any], family: str, named: str) -> None:
    (student,) = (item for name, item in _advice(CNN, **gate).items() if "distilled" in name)
    assert student.worth
    assert student.recipe.links[0].parameters["student"] == family
    assert named in student.reasons[0].because
    assert "5,000 examples" in student.reasons[0].because


def test_for_an_accelerator_a_student_stays_a_saved_model() -> None:
    result = _advice(replace(CNN, target="gpu"), max_size_mb=4.0, objective="size")
    assert set(result) == {
        "savedmodel-optimized",
        "fewer-channels",
        "half-channels",
        "tensorrt-fp16",
        "tensorrt-int8",
        "distilled-mobilenet",
    }
    (link,) = result["distilled-mobilenet"].recipe.links
    assert link.step.name == "distill"
    # Float weights take four bytes each.
    as_int8 = _advice(CNN, max_size_mb=4.0, objective="size")["distilled-mobilenet-int8"]
    assert link.parameters["width"] < as_int8.recipe.links[0].parameters["width"]


def test_a_student_that_would_be_no_smaller_is_not_advised() -> None:
    small = replace(CNN, parameters=40_000)
    assert "57," in _against(small)["distilled-efficientnet-int8"]


def test_where_nothing_is_worth_trying_a_run_says_so() -> None:
    bare = replace(CNN, keras=False, input_shape=(20, 8))
    gate = Gate(max_size_mb=0.001)
    none = AdvisedRecipes(bare, advise(load_recipes(target="mobile"), bare, gate))
    with pytest.raises(ParameterError, match="no recipe is worth trying"):
        _ = none.worth


def test_the_facts_of_a_model_are_those_that_were_profiled(
    digits_model: Path, digits_npz: Path
) -> None:
    import tf_keras

    facts = inspect(digits_model, digits_npz, Settings(target="mobile"))
    network = tf_keras.models.load_model(digits_model, compile=False)
    assert facts.parameters == network.count_params()
    assert facts.operators["DepthwiseConv2dNative"] == 3
    assert (facts.keras, facts.labelled, facts.train_count) == (True, True, 1437)
    assert (facts.input_shape, facts.units) == ((32, 32, 1), 10)
    assert 0 < facts.largest[1] < 1


def _main(*arguments: object) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert not ended.value.code


def test_the_command_gives_its_reasons_as_a_table_and_as_json(
    bare_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.zeros((10, 32, 32, 1), np.float32)
    np.savez(tmp_path / "unlabelled.npz", x_train=images, x_eval=images)
    given = ("advise", "--model", bare_model, "--examples", tmp_path / "unlabelled.npz")
    _main(*given)
    assert "bare SavedModel" in " ".join(capsys.readouterr().out.split())
    _main(*given, "--json")
    content = json.loads(capsys.readouterr().out)
    assert content["facts"]["parameters"] == 10_240
    reasons = {recipe["name"]: recipe["reasons"] for recipe in content["recipes"]}
    assert [item["fact"] for item in reasons["qat-int8"]] == ["no Keras form", "no labels"]


@pytest.mark.parametrize("command", ["plan", "recipes"])
def test_only_a_run_can_choose_by_the_model(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--recipes", "auto"])
    assert ended.value.code == 2
    assert "paring advise" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_run_tries_what_is_advised_and_nothing_else(
    bare_model: Path, digits_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = ("--model", bare_model, "--examples", digits_npz, "--max-size-mb", 0.03)
    _main("run", *given, "--recipes", "auto", "--brief", "--out", out)
    advice = json.loads((out / "advice.json").read_text())
    tried = {
        candidate["id"]
        for candidate in json.loads((out / "selection.json").read_text())["candidates"]
    }
    assert tried == {"source"} | {recipe["name"] for recipe in advice["recipes"] if recipe["worth"]}
    assert tried == {"source", "tflite-dynamic", "tflite-int8", "openvino-int8"}
    assert "over the limit of 30.0 KB" in " ".join(capsys.readouterr().out.split())
