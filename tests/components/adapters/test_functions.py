"""Steps as Python functions, on paths, artifacts and what is in memory."""

import gc
import inspect
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from annotated_types import Ge

import paring
from paring.adapters import functions
from paring.artifacts import Artifact, Examples, Model, PrunedModel, Report, Servable
from paring.catalog import STEPS
from paring.errors import ExamplesError, ModelError, ParameterError, UntrustedModelError
from paring.step import Input, Inputs, Output, step


@step(opens_models=False)
def describe(
    model: Input[Servable | None],
    examples: Input[Examples],
    others: Inputs[Servable],
    report: Output[Report],
    profile: Output[Report],
    *,
    level: Annotated[int, Ge(0)] = 1,
) -> None:
    """Describe models.

    More about it.

    Args:
        model: A model.
        examples: Its examples.
        others: More models,
            of any kind.
        report: The report.
        profile: The profile,
            in short.
        level: How much.

    Raises:
        ModelError: Never.
    """
    (report.path / "names").write_text(f"{model and model.path.name} {sorted(others)} {level}")
    (profile.path / "names").write_text(examples.path.name)


run: Any = paring.as_function(describe)


def _text(artifact: Artifact) -> str:
    return (artifact.path / "names").read_text()


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    file = tmp_path / "some.npz"
    np.savez(file, x_eval=np.zeros((2, 3)))
    return file


def test_outputs_come_back_by_name_in_the_order_of_the_declaration(
    digits_model: Path, examples: Path, tmp_path: Path
) -> None:
    others = {"b": digits_model, "a": Model(digits_model)}
    made = run(Model(digits_model), examples, others, level=2, out=tmp_path / "out")
    report, profile = made
    assert (made.report, made.profile) == (report, profile)
    assert _text(report) == "saved_model ['a', 'b'] 2"
    assert _text(profile) == "some.npz"
    assert report.path == tmp_path / "out/report"
    assert report.lineage["step"] == "describe"


def test_an_input_may_be_left_out_and_arrays_become_a_file() -> None:
    report, profile = run(examples={"x_eval": np.zeros((2, 3))})
    assert _text(report) == "None [] 1"
    assert _text(profile) == "examples.npz"


def test_the_temporary_folder_lasts_as_long_as_one_of_its_artifacts(
    examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    made = run(examples=examples)
    report = made.report
    del made
    gc.collect()
    assert _text(report)
    del report
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())


def test_a_call_that_fails_leaves_nothing(
    examples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with pytest.raises(ParameterError, match="level"):
        run(examples=examples, level=-1)
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    ("positional", "named", "message"),
    [
        ((), {"examples": "e", "lvel": 2}, "no parameter 'lvel'"),
        ((), {}, "examples"),
        ((None, "e", {}, "too many"), {}, "takes 3 arguments without a name"),
        ((None, "e"), {"examples": "f"}, "examples is given twice"),
        ((None, "e", ["a"]), {}, "others: must be a mapping of artifacts by name"),
    ],
)
def test_arguments_that_do_not_fit_are_named(
    positional: tuple[Any, ...], named: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message):
        run(*positional, **named)


def test_what_is_neither_a_path_nor_in_memory_is_refused(examples: Path) -> None:
    with pytest.raises(ModelError, match="must be a path, or a model of tf_keras or Keras 3"):
        run(object(), examples)
    with pytest.raises(ExamplesError, match="must be a path, or arrays by name"):
        run(examples=[1, 2])
    with pytest.raises(ParameterError, match="configuration: must be an artifact"):
        paring.benchmark("model", None, examples, object())


def test_the_signature_and_the_text_have_the_outputs_as_what_is_returned() -> None:
    signature = inspect.signature(run)
    assert list(signature.parameters) == ["model", "examples", "others", "level", "out"]
    assert signature.parameters["level"].default == 1
    text = inspect.getdoc(run) or ""
    arguments, returned = text.split("Returns:")
    assert "profile:" not in arguments
    assert "others: More models,\n        of any kind.\n" in arguments
    assert "out: Folder" in arguments
    assert "    profile: The profile,\n        in short.\n\nRaises:" in returned


def test_each_step_is_a_function_of_the_package() -> None:
    for name, known in STEPS.items():
        function = getattr(paring, name)
        assert name in paring.__all__
        assert function is getattr(functions, name)
        assert set(inspect.signature(function).parameters) == (
            {*known.inputs, *known.parameters, "out"}
        )
    assert inspect.signature(paring.prune).return_annotation is PrunedModel


def test_code_in_a_model_runs_only_if_it_is_trusted(tmp_path: Path) -> None:
    import tf_keras

    double = tf_keras.layers.Lambda(lambda x: 2 * x)
    network = tf_keras.Sequential([tf_keras.Input((3,), name="x"), double])
    network.save(tmp_path / "model.keras")
    with pytest.raises(UntrustedModelError):
        paring.profile(tmp_path / "model.keras")
    assert paring.profile(tmp_path / "model.keras", trust_model=True).parameters == 0
