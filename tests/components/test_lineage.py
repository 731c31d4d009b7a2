"""A record's lineage, read back as the way from the source to a model."""

import shlex
from pathlib import Path

from click.testing import CliRunner

from paring.adapters.cli import command
from paring.artifacts import SelectedModel, TFLiteModel
from paring.catalog import STEPS
from paring.execution import Call, execute
from paring.lineage import chain, commands, source_examples
from paring.steps.convert_tflite import convert_tflite
from paring.steps.prune import prune

MODEL = {"type": "Model", "digest": "sha256:aa", "path": "digits/model"}
EXAMPLES = {"type": "Examples", "digest": "sha256:ee", "path": "digits.npz"}
IMPORTED = {
    "type": "Examples",
    "digest": "sha256:ff",
    "lineage": {"step": "import_examples", "inputs": {"original": EXAMPLES, "model": MODEL}},
}


def converted() -> TFLiteModel:
    """A TFLite file that was made from `MODEL`."""
    lineage = {
        "step": "convert_tflite",
        "version": "2",
        "parameters": {"quantization": "int8"},
        "inputs": {"model": MODEL, "examples": IMPORTED},
        "environment": {"numpy": "2"},
    }
    return TFLiteModel(Path("lite"), digest="sha256:bb", lineage=lineage)


def test_the_chain_runs_from_the_source_to_the_model() -> None:
    source, last = chain(converted().described())
    assert (source.step, source.path, source.digest) == ("", "digits/model", "sha256:aa")
    assert (last.step, last.version, last.type) == ("convert_tflite", "2", "TFLiteModel")
    assert last.parameters == {"quantization": "int8"}


def test_a_copy_has_the_chain_of_what_it_is_a_copy_of() -> None:
    chosen = SelectedModel(Path("selected"), digest="sha256:bb", lineage={"step": "select"})
    chosen.copied_from(converted())
    assert chosen.lineage["step"] == "select"
    assert chain(chosen.described()) == chain(converted().described())
    assert source_examples(chosen.described()) == EXAMPLES


def test_the_examples_are_named_as_they_came_from_outside() -> None:
    assert source_examples(converted().described()) == EXAMPLES
    assert source_examples(MODEL) is None


def test_the_commands_give_the_same_bytes(
    digits_keras: Path, digits_npz: Path, tmp_path: Path
) -> None:
    inputs = {"model": digits_keras, "examples": digits_npz}
    execute(prune, Call(inputs, {"pruned": tmp_path / "pruned"}, {"epochs": 1}))
    inputs |= {"model": tmp_path / "pruned"}
    parameters = {"quantization": "int8", "calibration_size": 20}
    call = Call(inputs, {"converted": tmp_path / "lite"}, parameters)
    lite = execute(convert_tflite, call)["converted"]

    lines = commands(lite.described(), str(tmp_path / "again"))
    for line in lines:
        program, group, name, *arguments = shlex.split(line)
        assert (program, group) == ("paring", "step")
        done = CliRunner().invoke(command(STEPS[name]), arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert len(lines) == 2
    again = TFLiteModel.load(tmp_path / "again" / "2-converted")
    assert again.digest == lite.digest
