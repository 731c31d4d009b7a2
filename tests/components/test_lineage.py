"""A record's lineage, read back as the way from the source to a model."""

from pathlib import Path

from paring.artifacts import SelectedModel, TFLiteModel
from paring.lineage import chain, source_examples

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
