"""`@step`: what a signature declares, and how parameters are parsed."""

from typing import Annotated, Literal

import pytest
from annotated_types import Ge, Lt
from hypothesis import given
from hypothesis import strategies as st

from paring.artifacts import Examples, Model, PrunedModel
from paring.errors import ParameterError
from paring.step import Attempted, Input, Inputs, InputSpec, Output, step


@step(version="3", machine_dependent=True)
def toy(
    model: Input[Model],
    examples: Input[Examples | None],
    others: Inputs[Model],
    tried: Attempted[Model],
    tried_or_not: Attempted[Model | None],
    pruned: Output[PrunedModel],
    *,
    sparsity: Annotated[float, Ge(0), Lt(1)] = 0.5,
    epochs: Annotated[int, Ge(1)] = 2,
    mode: Literal["fast", "exact"] = "fast",
    trust: bool = False,
) -> None:
    """Do a toy thing.

    More of it.
    """


def test_the_signature_is_the_declaration() -> None:
    assert toy.inputs == {
        "model": InputSpec(Model),
        "examples": InputSpec(Examples, optional=True),
        "others": InputSpec(Model, family=True),
        "tried": InputSpec(Model, attempted=True),
        "tried_or_not": InputSpec(Model, optional=True, attempted=True),
    }
    assert toy.outputs == {"pruned": PrunedModel}
    assert {name: spec.type for name, spec in toy.parameters.items()} == {
        "sparsity": float,
        "epochs": int,
        "mode": str,
        "trust": bool,
        # Of every step that opens a model.
        "trust_model": bool,
        "signature": str,
    }
    assert toy.parameters["mode"].choices == ("fast", "exact")
    assert (toy.name, toy.version, toy.machine_dependent) == ("toy", "3", True)
    assert toy.summary == "Do a toy thing."


def test_parameters_are_read_from_text_and_doubles() -> None:
    parsed = toy.parse_parameters({"sparsity": "0.75", "epochs": 3.0, "trust": "true"})
    assert parsed == {
        "sparsity": 0.75,
        "epochs": 3,
        "mode": "fast",
        "trust": True,
        "trust_model": False,
        "signature": "",
    }
    assert type(parsed["epochs"]) is int


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sparsity", 1.0),
        ("sparsity", -0.1),
        ("sparsity", "nan"),
        ("sparsity", "much"),
        ("epochs", 0),
        ("epochs", 1.5),
        ("mode", "slow"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_name_and_value(name: str, value: object) -> None:
    with pytest.raises(ParameterError) as caught:
        toy.parse_parameters({name: value})
    assert f"toy: {name}" in caught.value.what
    assert caught.value.received == str(value)
    assert caught.value.remedy


def test_an_unknown_parameter_gets_the_nearest_name() -> None:
    with pytest.raises(ParameterError, match="did you mean 'sparsity'"):
        toy.parse_parameters({"sparsty": 0.5})


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 2**31))
def test_what_is_in_bounds_survives_text(sparsity: float, epochs: int) -> None:
    parsed = toy.parse_parameters({"sparsity": str(sparsity), "epochs": str(epochs)})
    assert (parsed["sparsity"], parsed["epochs"]) == (sparsity, epochs)


def test_a_signature_that_declares_nothing_is_refused() -> None:
    def no_role(model: Model, *, a: int = 1) -> None:
        """Lack a role."""

    def no_default(model: Input[Model], *, a: int) -> None:
        """Lack a default."""

    for function in (no_role, no_default):
        with pytest.raises(TypeError):
            step(function)
