"""Recipe files: what is read, and what is refused with which words."""

from pathlib import Path

import pytest

from paring.artifacts import Model, ONNXModel, TRTEngine
from paring.catalog import STEPS
from paring.errors import ParameterError
from paring.step import Input, Output, step
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import TARGETS, Link, Recipe, load_recipes, optimizing_steps
from paring_pipelines.pipeline.settings import Settings


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipes.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("target", TARGETS)
def test_the_default_recipes_are_valid_for_every_target(target: str) -> None:
    recipes = load_recipes(target=target)
    lite = {"tflite-int8", "prune-int8", "qat-int8"}
    expected = {
        "gpu": {"fewer-channels", "savedmodel-optimized"},
        "tpu": {"fewer-channels", "inference-bfloat16", "distilled-bfloat16"},
    }
    assert expected.get(target, lite) <= {recipe.name for recipe in recipes}
    assert all(recipe.about and target in recipe.targets for recipe in recipes)


@pytest.mark.parametrize("target", ["gpu", "tpu"])
def test_recipes_for_accelerators_make_what_runs_on_them(target: str) -> None:
    for recipe in load_recipes(target=target):
        (made,) = recipe.links[-1].step.outputs.values()
        assert issubclass(made, Model | TRTEngine)


def test_no_recipe_for_tpus_depends_on_speeds_measured_on_a_processor() -> None:
    recipes = load_recipes(target="tpu")
    kept = [
        link.parameters["keep"]
        for recipe in recipes
        for link in recipe.links
        if link.step.name == "optimize_savedmodel"
    ]
    assert set(kept) == {"accurate"}


def test_a_chain_reads_as_its_steps_and_what_differs_from_the_defaults(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        '[recipes.small]\nsteps = [{ step = "prune", sparsity = 0.75 }, '
        '{ step = "convert_tflite", quantization = "int8" }]',
    )
    (recipe,) = load_recipes(path)
    assert str(recipe) == "prune(sparsity=0.75) > convert_tflite(quantization=int8)"
    assert recipe.targets == TARGETS


def test_only_steps_with_one_model_in_and_one_out_can_stand_in_a_recipe() -> None:
    assert set(optimizing_steps()) == {
        "prune",
        "prune_channels",
        "cluster",
        "quantize",
        "distill",
        "convert_tflite",
        "convert_mixed",
        "export_onnx",
        "convert_openvino",
        "build_tensorrt",
        "convert_tftrt",
        "optimize_savedmodel",
        "split_model",
    }


@step
def to_onnx(model: Input[Model], converted: Output[ONNXModel]) -> None:
    """Stand for a step that makes what an engine is built of."""


def test_an_optional_input_that_a_recipe_does_not_have_is_left_out() -> None:
    links = [Link(item, item.parse_parameters({})) for item in (to_onnx, STEPS["build_tensorrt"])]
    dag = build([Recipe("engine", tuple(links), "", TARGETS)], Settings())
    node = dag.nodes["build_tensorrt-engine"]
    assert node.inputs == {
        "model": dag.nodes["to_onnx-engine"].out("converted"),
        "examples": dag.nodes["import_examples"].out("examples"),
    }
    assert set(node.inputs) < set(node.step.inputs)
    assert node.tolerate


_STEP = '[recipes.x]\nsteps = [{ step = "prune", %s }]'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipes = 3", "recipes.toml: recipes"),
        ("[recipes.x", "is not TOML"),
        ("[recipes.x]\nsteps = []", "recipes.x.steps"),
        ("[recipes.x]\nstepz = []", "recipes.x"),
        ('[recipes.x]\ntargets = ["phone"]\nsteps = [{ step = "prune" }]', "targets"),
        ('[recipes.x]\nsteps = [{ step = "prone" }]', "did you mean 'prune'"),
        ('[recipes.x]\nsteps = [{ step = "benchmark" }]', "no such optimization"),
        ('[recipes.source]\nsteps = [{ step = "prune" }]', "another name than 'source'"),
        ('[recipes."é"]\nsteps = [{ step = "prune" }]', "letters a to z"),
        ('[recipes.a."b.c"]\nsteps = [{ step = "prune" }]', "recipes.a"),
        ('[recipes."--"]\nsteps = [{ step = "prune" }]', "this name can't be taken"),
        (_STEP % "learning_rate = inf", "learning_rate: must be a finite number"),
        (_STEP % "learning_rate = nan", "recipe x: prune: learning_rate"),
        (_STEP % "epochs = 9007199254740993", "epochs: must be an integer of at most 2**53"),
        (_STEP % "sparsity = 1.0", "recipe x: prune: sparsity"),
        (_STEP % "sparsity = -0.5", "recipe x: prune: sparsity"),
        (_STEP % "sparcity = 0.5", "did you mean 'sparsity'"),
        (
            '[recipes.x]\nsteps = [{ step = "convert_tflite" }, { step = "prune" }]',
            "prune takes a Model, convert_tflite makes a TFLiteModel",
        ),
    ],
)
def test_a_broken_recipe_is_refused_by_file_and_name(tmp_path: Path, text: str, words: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(ParameterError) as caught:
        load_recipes(path)
    assert str(path) in str(caught.value)
    assert words in str(caught.value)
    assert caught.value.remedy


def test_an_absent_file_and_a_target_without_recipes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="can't be read"):
        load_recipes(tmp_path / "absent.toml")
    path = _file(tmp_path, '[recipes.x]\ntargets = ["mobile"]\nsteps = [{ step = "prune" }]')
    with pytest.raises(ParameterError, match="no recipe for target 'cpu-server'"):
        load_recipes(path, "cpu-server")


def test_recipes_with_a_common_beginning_share_its_nodes(tmp_path: Path) -> None:
    prune = '{ step = "prune", sparsity = 0.5 }'
    path = _file(
        tmp_path,
        f"[recipes.a]\nsteps = [{prune}]\n"
        f'[recipes.b]\nsteps = [{prune}, {{ step = "convert_tflite" }}]\n'
        f'[recipes.c]\nsteps = [{prune}, {{ step = "convert_tflite", quantization = "int8" }}]\n'
        '[recipes.d]\nsteps = [{ step = "prune", sparsity = 0.6 }]\n',
    )
    dag = build(load_recipes(path), Settings())
    made = [node for node in dag.nodes if node.startswith(("prune", "convert"))]
    assert made == ["prune-a", "convert_tflite-b", "convert_tflite-c", "prune-d"]


def test_one_step_twice_in_a_recipe_gets_two_nodes(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        '[recipes.a]\nsteps = [{ step = "prune", sparsity = 0.3 }, '
        '{ step = "prune", sparsity = 0.6 }]',
    )
    dag = build(load_recipes(path), Settings())
    assert [node for node in dag.nodes if node.startswith("prune")] == ["prune-a", "prune-a.2"]


def test_every_candidate_is_measured_and_failures_end_no_other() -> None:
    recipes = load_recipes(target="cpu-server")
    dag = build(recipes, Settings())
    names = {"source"} | {recipe.name for recipe in recipes}
    select = dag.nodes["select"]
    assert all(set(select.inputs[family]) == names for family in select.step.inputs)
    for node in dag.nodes.values():
        makes_a_candidate = node.id.split("-")[0] in {
            "prune",
            "quantize",
            "convert_tflite",
            "export_onnx",
            "convert_openvino",
            "benchmark",
            "evaluate",
        } and not node.id.endswith("-source")
        assert node.tolerate == makes_a_candidate
