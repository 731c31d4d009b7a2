"""The `paring` command as a user meets it: results, and what bad input gets."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.pipelines.conftest import Paring

from paring.artifacts import content_digest
from paring_pipelines.cli.main import main
from paring_pipelines.runners.session import PublishedRun


def _on_one_screen(text: str) -> None:
    assert "Traceback" not in text
    assert 1 <= len(text.splitlines()) <= 24
    assert "to fix it:" in text


def _examples(file: Path, **changed: Any) -> Path:
    """An .npz of ten images in each split, with arrays put in place of others."""
    images = np.zeros((10, 32, 32, 1), np.float32)
    labels = np.arange(10)
    arrays = {"x_train": images, "y_train": labels, "x_eval": images, "y_eval": labels}
    np.savez(file, **(arrays | changed))
    return file


# What is wrong with a model: how it is made from a good one, the error's exit
# code, and what the message names.


def _absent(good: Path, folder: Path) -> Path:
    return folder / "absent"


def _empty(good: Path, folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _cut_off(good: Path, folder: Path) -> Path:
    shutil.copytree(good, folder / "cut")
    graph = folder / "cut" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-500])
    return folder / "cut"


def _without_weights(good: Path, folder: Path) -> Path:
    shutil.copytree(good, folder / "no-weights")
    weights = next((folder / "no-weights" / "variables").glob("*.data-*"))
    weights.write_bytes(weights.read_bytes()[:100])
    return folder / "no-weights"


def _lambda_layer(good: Path, folder: Path) -> Path:
    import tf_keras

    image = tf_keras.Input((32, 32, 1), name="image")
    doubled = tf_keras.layers.Lambda(lambda values: 2 * values, name="doubling")(image)
    scores = tf_keras.layers.Dense(10, "softmax", name="digit")(tf_keras.layers.Flatten()(doubled))
    tf_keras.Model(image, scores).save(folder / "lambda.keras")
    return folder / "lambda.keras"


@pytest.mark.parametrize(
    ("make", "code", "named"),
    [
        (_absent, 10, "--model"),
        (_empty, 10, "empty"),
        (_cut_off, 10, "saved_model.pb"),
        (_without_weights, 10, "weights"),
        (_lambda_layer, 11, "--trust-model"),
    ],
)
def test_a_model_that_can_not_be_taken_is_named(
    make: Callable[[Path, Path], Path],
    code: int,
    named: str,
    paring: Paring,
    tmp_path: Path,
    recipes: Path,
    bare_model: Path,
) -> None:
    model = make(bare_model, tmp_path)
    examples = _examples(tmp_path / "few.npz")
    result, _, error = paring(
        *("run", "--model", model, "--examples", examples),
        *("--recipes", recipes, "--out", tmp_path / "out"),
    )
    assert result == code
    assert named in error
    _on_one_screen(error)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"x_eval": np.zeros((10, 28, 28, 1), np.float32)}, "[count, 32, 32, 1]"),
        ({"x_train": np.full((10, 32, 32, 1), "a")}, "dtype"),
        ({"y_train": np.arange(10) + 1}, "0 to 9"),
        ({"y_eval": -np.arange(10)}, "0 to 9"),
        ({"x_eval": np.full((10, 32, 32, 1), np.nan, np.float32)}, "NaN"),
        ({"x_eval": np.zeros((0, 32, 32, 1), np.float32)}, "empty"),
        ({"y_eval": np.arange(9)}, "rows"),
    ],
)
def test_examples_that_the_model_does_not_take_leave_earlier_results_alone(
    changed: dict[str, Any],
    named: str,
    paring: Paring,
    tmp_path: Path,
    recipes: Path,
    bare_model: Path,
    first_run: tuple[Path, PublishedRun],
) -> None:
    out = first_run[0]
    before = {name: content_digest(out / name) for name in ("selection.json", "selected")}
    examples = _examples(tmp_path / "few.npz", **changed)
    code, _, error = paring(
        *("run", "--model", bare_model, "--examples", examples),
        *("--recipes", recipes, "--out", out),
    )
    assert code == 12
    assert named in error
    assert "few.npz" in error
    _on_one_screen(error)
    assert {name: content_digest(out / name) for name in before} == before


def test_examples_that_are_not_there_are_named(
    paring: Paring, tmp_path: Path, bare_model: Path
) -> None:
    code, _, error = paring(
        *("run", "--model", bare_model, "--examples", tmp_path / "none.npz"),
        *("--out", tmp_path / "out"),
    )
    assert code == 12
    assert "none.npz" in error
    _on_one_screen(error)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["step", "prune", "--sparsity", "1"], "sparsity"),
        (["step", "prune", "--sparsity", "-0.1"], "-0.1"),
        (["step", "prune", "--sparsity", "nan"], "sparsity"),
        (["step", "prune", "--sparsity", "half"], "half"),
        (["step", "prume"], "'prune'"),
        (["step", "convert_tflite", "--quantization", "int4"], "int8"),
        (["plan", "--max-accuracy-drop", "-1"], "--max-accuracy-drop"),
        (["plan", "--batch-size", "0"], "--batch-size"),
        (["plan", "--metric", "rsme"], "'rmse'"),
        (["plan", "--metric", "metrics.py:dice"], "my_metrics:dice"),
        (["plan", "--top-k", "0"], "--top-k"),
        (["demo", "--metric", "top1", "--out", "never"], "'top_1'"),
    ],
)
def test_a_value_that_can_not_be_taken_is_named(
    arguments: list[str], named: str, paring: Paring, tmp_path: Path
) -> None:
    if arguments[1] == "prune":
        paths = ("model", "examples", "pruned")
        arguments = arguments + [f"--{name}={tmp_path / name}" for name in paths]
    code, _, error = paring(*arguments)
    assert code == 2
    assert named in error
    _on_one_screen(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[recipes.a]\nsteps = [{ step = "convert_tfllite" }]', "'convert_tflite'"),
        ('[recipes.a]\nsteps = [{ step = "prune", sparsety = 0.5 }]', "'sparsity'"),
        ('[recipes.a]\nsteps = [{ step = "prune", sparsity = 1.5 }]', "1.5"),
        ("[recipes.a]\nsteps = [", "TOML"),
    ],
)
def test_a_recipe_that_can_not_be_taken_is_named(
    text: str, named: str, paring: Paring, tmp_path: Path
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    code, _, error = paring("plan", "--recipes", file)
    assert code == 2
    assert named in error
    assert "own.toml" in error
    _on_one_screen(error)


def test_an_unknown_option_or_command_gets_the_nearest_one(paring: Paring) -> None:
    for arguments in (("run", "--modle", "x"), ("rum",)):
        code, _, error = paring(*arguments)
        assert code == 2
        assert "Did you mean" in error


def test_the_metric_reaches_every_evaluation(paring: Paring) -> None:
    options = ("--metric", "top_k", "--top-k", "3", "--output", "digit")
    _, shown, _ = paring("plan", *options)
    for line in shown.splitlines():
        if line.startswith("│ evaluate-"):
            assert "metric=top_k top_k=3 output=digit" in line
    assert shown.count("metric=top_k") == shown.count("│ evaluate-") > 4


def test_a_function_of_a_module_that_is_not_there_is_named_before_anything_runs(
    paring: Paring, tmp_path: Path, bare_model: Path
) -> None:
    code, _, error = paring(
        *("run", "--model", bare_model, "--examples", _examples(tmp_path / "few.npz")),
        *("--metric", "no_such_module:dice", "--out", tmp_path / "out"),
    )
    assert code == 2
    assert "no module no_such_module" in error
    _on_one_screen(error)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_can_not_be_written_is_named(
    paring: Paring, tmp_path: Path, bare_model: Path, digits_npz: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    code, _, error = paring(
        *("run", "--model", bare_model, "--examples", digits_npz),
        *("--out", tmp_path / "file" / "out"),
    )
    assert code == 15
    assert "--out" in error
    _on_one_screen(error)
    assert (tmp_path / "file").read_text() == "mine"


def test_an_accelerator_that_is_not_here_ends_a_run_before_it_begins(
    paring: Paring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PARING_ACCELERATOR", "nvidia-l4")
    out = tmp_path / "out"
    # Not even the sources are looked at: they may have to be brought here first.
    code, _, error = paring("run", "--model", "a", "--examples", "b", "--out", out)
    assert code == 14
    assert "PARING_ACCELERATOR requests nvidia-l4" in error
    _on_one_screen(error)
    assert not out.exists()


def test_an_output_folder_of_somebody_elses_is_left_alone(
    paring: Paring, tmp_path: Path, bare_model: Path, digits_npz: Path
) -> None:
    (tmp_path / "report.html").write_text("mine")
    code, _, error = paring(
        "run", "--model", bare_model, "--examples", digits_npz, "--out", tmp_path
    )
    assert code == 15
    assert "report.html" in error
    assert (tmp_path / "report.html").read_text() == "mine"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="path does not exist"):
        main(["run", "--model", str(tmp_path / "m"), "--examples", "e", "--debug"])


def test_the_plan_is_printed_without_numpy_tensorflow_and_processes() -> None:
    code = (
        "import gc, sys\nfrom paring_pipelines.cli import start\n"
        "sys.argv = ['paring', 'plan']\n"
        "try:\n    start()\n"
        "finally:\n"
        "    heavy = {'tensorflow', 'tfx', 'kfp', 'apache_beam', 'numpy', 'multiprocessing'}\n"
        "    print('imported', sorted(heavy & set(sys.modules)), gc.isenabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "imported [] True" in done.stdout
    for node in ("import_model", "convert_tflite-tflite-int8", "benchmark-source", "report"):
        assert node in done.stdout


def test_the_recipes_are_listed_and_can_be_written_to_a_file(
    paring: Paring, tmp_path: Path
) -> None:
    _, shown, _ = paring("recipes")
    assert "prune() > convert_tflite(quantization=int8)" in shown
    _, text, _ = paring("recipes", "--as-toml")
    (tmp_path / "own.toml").write_text(text)
    _, own, _ = paring("recipes", "--recipes", tmp_path / "own.toml")
    assert own == shown


def test_the_lineage_of_the_selected_model_fits_a_screen(
    paring: Paring, first_run: tuple[Path, PublishedRun], bare_model: Path, digits_npz: Path
) -> None:
    out = first_run[0]
    served = out / "selected" / "Format-Serving"
    for place in (out / "selected", served, served / "model.tflite"):
        code, shown, _ = paring("lineage", place)
        assert code == 0
        assert len(shown.splitlines()) <= 24
        for text in (
            *("select(", "as float32", "convert_tflite(", "import_model(", "as it was made"),
            *(str(bare_model), content_digest(bare_model)),
            *(str(digits_npz), content_digest(digits_npz), "tensorflow 2."),
        ):
            assert text in shown
    _, text, _ = paring("lineage", out / "selected", "--json")
    record = json.loads(text)
    assert record["lineage"]["copy_of"]["lineage"]["parameters"]["quantization"] == "none"
    assert len(text) < 20_000


def test_lineage_tells_of_a_model_that_was_changed(
    paring: Paring, tmp_path: Path, first_run: tuple[Path, PublishedRun]
) -> None:
    shutil.copytree(first_run[0] / "selected", tmp_path / "copy")
    with (tmp_path / "copy" / "Format-Serving" / "model.tflite").open("ab") as stream:
        stream.write(b"more")
    _, shown, _ = paring("lineage", tmp_path / "copy")
    assert "CHANGED since it was made" in shown


def test_lineage_of_what_paring_did_not_make_is_refused(
    paring: Paring, tmp_path: Path, bare_model: Path
) -> None:
    for place, code in ((bare_model, 17), (tmp_path / "absent", 2)):
        result, _, error = paring("lineage", place)
        assert result == code
        assert place.name in error
        _on_one_screen(error)


def test_a_package_is_compiled_for_kubeflow(paring: Paring, tmp_path: Path, recipes: Path) -> None:
    code, shown, _ = paring("compile", "--recipes", recipes, "--out", tmp_path / "package.yaml")
    assert code == 0
    assert "11 tasks" in shown
    assert "schemaVersion: 2.1.0" in (tmp_path / "package.yaml").read_text()


def test_a_package_is_placed_by_files_of_rules(
    paring: Paring, tmp_path: Path, recipes: Path
) -> None:
    (tmp_path / "runtime.toml").write_text('[images]\ncpu = "a"\n[defaults]\nimage = "cpu"\n')
    (tmp_path / "mine.toml").write_text('[[place]]\nstep = "benchmark"\ncache = false\n')
    arguments = ["compile", "--recipes", recipes, "--out", tmp_path / "package.yaml"]
    for name in ("runtime.toml", "mine.toml"):
        arguments += ["--runtime", tmp_path / name]
    code, shown, _ = paring(*arguments)
    assert code == 0
    assert "11 tasks on a\n" in shown
    assert "image: a\n" in (tmp_path / "package.yaml").read_text()
    code, shown, _ = paring(*arguments, "--image", "b")
    assert code == 0
    assert "11 tasks on b\n" in shown


def test_steps_are_written_as_component_files(paring: Paring, tmp_path: Path) -> None:
    code, shown, _ = paring("components", "--out", tmp_path / "yaml", "--image", "mine")
    assert code == 0
    assert "prune.yaml" in shown
    assert "image: mine\n" in (tmp_path / "yaml" / "prune.yaml").read_text()


def test_a_placement_that_cannot_work_ends_before_anything_is_written(
    paring: Paring, tmp_path: Path, recipes: Path
) -> None:
    (tmp_path / "runtime.toml").write_text('[[place]]\nnode = "benchmrk-*"\n')
    arguments = ["compile", "--recipes", recipes, "--out", tmp_path / "package.yaml"]
    code, _, error = paring(*arguments, "--runtime", tmp_path / "runtime.toml")
    assert code == 2
    assert "runtime.toml: [[place]] 1: node: no node matches" in error
    assert not (tmp_path / "package.yaml").exists()
    _on_one_screen(error)


def test_a_step_says_what_it_made(paring: Paring, tmp_path: Path, bare_model: Path) -> None:
    code, shown, _ = paring(
        "step", "convert_tflite", "--model", bare_model, "--converted", tmp_path / "lite"
    )
    assert code == 0
    assert "TFLiteModel" in shown
    assert "size_bytes" in shown
    assert (tmp_path / "lite" / "Format-Serving" / "model.tflite").is_file()


def test_the_profile_shows_what_the_audit_found(paring: Paring, tmp_path: Path) -> None:
    import tensorflow as tf

    wide = tf.Module()
    wide.serve = tf.function(
        lambda x: {
            "y": tf.cast(
                tf.matmul(tf.cast(x, tf.float64), tf.eye(4, 4, None, tf.float64)), tf.float32
            )
        },
        [tf.TensorSpec((None, 4), tf.float32, "x")],
    )
    tf.saved_model.save(wide, str(tmp_path / "model"), signatures=wide.serve)
    code, shown, _ = paring(
        *("step", "profile", "--model", tmp_path / "model", "--profile", tmp_path / "profile")
    )
    assert code == 0
    assert "findings           1" in shown
    assert "float64 (high)" in shown
    assert "MatMul" in shown


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["local", "beam"])
def test_an_error_in_a_node_is_all_that_is_told_of_it(
    runner: str, tmp_path: Path, bare_model: Path, digits_npz: Path
) -> None:
    arguments = ["--model", str(_cut_off(bare_model, tmp_path)), "--examples", str(digits_npz)]
    arguments += ["--out", str(tmp_path / "out"), "--runner", runner]
    command = [sys.executable, "-m", "paring_pipelines.cli.main", "run", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 10
    assert done.stderr.startswith("error:"), done.stderr
    _on_one_screen(done.stderr)
