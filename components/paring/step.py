"""The decorator `@step`, which turns a plain function into a pipeline step.

The function's signature is the whole declaration: artifacts stand before the
`*`, scalars after it. A step knows no orchestrator, no image, no URI scheme
and no other step; the adapters give it to each of those worlds.

    @step
    def prune(
        model: Input[Model],
        pruned: Output[PrunedModel],
        *,
        sparsity: Annotated[float, Ge(0), Lt(1)] = 0.5,
    ) -> None:
        '''Zero the smallest weights of `model`.'''
"""

import inspect
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

from paring.artifacts import Artifact, SelectedModel, Servable, TRTEngine
from paring.errors import ParameterError, nearest

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


@dataclass(frozen=True)
class _Role:
    name: str


Input = Annotated[T, _Role("input")]
"""One artifact that the step reads; `Input[T | None]` may be left out."""

Attempted = Annotated[T, _Role("attempted")]
"""As `Input`, but handed in too where it could not be made; its `failure` says why."""

Inputs = Annotated[Mapping[str, T], _Role("inputs")]
"""A named family of artifacts, handed in as a mapping; failed members too."""

Output = Annotated[T, _Role("output")]
"""One artifact that the step makes, in its empty folder `path`."""

Scalar = str | int | float | bool


@dataclass(frozen=True)
class Search:
    """Values that a search may give to a number, beside its bounds in the annotation.

    Attributes:
        low, high: The smallest and largest value; whole numbers for an int.
        log: Whether to draw evenly on a logarithmic scale.
        spacing: Distance between values; 0 for none.
    """

    low: float
    high: float
    log: bool = False
    spacing: float = 0.0


_LARGEST_INT = 2**53
"""Beyond it a double does not hold every integer."""

TRUST_MODEL = "trust_model"
"""The parameter of every step that opens a model: whether code that the model carries, or
an operator that touches files, may run. `paring.execution` acts on it, and hands the step
artifacts whose `trusted` says the same."""

TRUST_ENGINE = "trust_engine"
"""The parameter of every step that may load a TensorRT engine: whether it may where
`TRUST_MODEL` is off. An engine is code; a pipeline sets it for those that it builds itself, so
that the source model is checked all the same."""

SIGNATURE = "signature"
"""The parameter of every step that opens a model: the signature of SavedModels and TFLite files
that no record describes; "" for `paring.artifacts.DEFAULT_SIGNATURE`. `paring.execution` hands
the step artifacts whose `signature` says the same."""

GENERAL = (TRUST_MODEL, TRUST_ENGINE, SIGNATURE)
"""The parameters that `paring.execution` acts on; no step's function gets them."""


@cache
def _type_adapter(annotation: Any) -> "TypeAdapter[Any]":
    # Imported late: most imports of this module need no validation of user input.
    from pydantic import TypeAdapter

    return TypeAdapter(annotation)


def parse_scalar(name: str, value: object, annotation: Any, default: Scalar | None) -> Scalar:
    """Return `value` as the type of `annotation`, checked against its bounds.

    Text is read as the type's literal, and a whole float as an int, since
    KFP hands every number over as a double.

    Args:
        name: Name of the parameter, for the error.
        value: Text or a value.
        annotation: A scalar type, with bounds by Annotated, or a Literal.
        default: Default of the parameter, for the error; None if it has none.

    Raises:
        ParameterError: It is of another type, or out of bounds.
    """
    from pydantic import ValidationError

    stated = "" if default is None else f"; the default is {default}"
    try:
        parsed: Scalar = _type_adapter(annotation).validate_python(value)
    except ValidationError as error:
        detail = error.errors()[0]["msg"].lower()
        raise ParameterError(
            f"{name}: {detail}", received=value, remedy=f"give a value in bounds{stated}"
        ) from error
    # nan passes pydantic's bounds only where there are none, infinity those above.
    if isinstance(parsed, float) and not math.isfinite(parsed):
        raise ParameterError(
            f"{name}: must be a finite number", received=value, remedy=f"give a number{stated}"
        )
    if isinstance(parsed, int) and abs(parsed) > _LARGEST_INT:
        raise ParameterError(
            f"{name}: must be an integer of at most 2**53, since Kubeflow hands numbers over"
            " as doubles",
            received=value,
            remedy=f"give a smaller one{stated}",
        )
    return parsed


@dataclass(frozen=True)
class InputSpec:
    """One input: its type, whether it is a family, whether it may be absent, or failed."""

    type: type[Artifact]
    family: bool = False
    optional: bool = False
    attempted: bool = False


@dataclass(frozen=True)
class ParameterSpec:
    """One parameter: its annotation with bounds, Python type, default, and range of a search."""

    annotation: Any
    type: type[Scalar]
    default: Scalar
    choices: tuple[str, ...] = ()
    search: Search | None = None

    def parse(self, name: str, value: object) -> Scalar:
        """Return `value` as this parameter's type; see `parse_scalar`."""
        return parse_scalar(name, value, self.annotation, self.default)


@dataclass(frozen=True)
class Step:
    """A declared step; see the module's text.

    Attributes:
        name: The function's name, which is the command's and the file's too.
        function: The function itself.
        inputs, outputs, parameters: The declaration, in the signature's order.
        version: Raised by whoever changes what the step makes; part of every
            node's identity, since no orchestrator's cache looks at code.
        machine_dependent: Whether the result depends on the machine, which then is part
            of the identity too.
        side_effects: Whether it changes something outside its outputs; then no cache answers
            for it.
        runs_model: Whether it runs the models that its inputs hold, so that one built for a
            GPU needs that GPU here.
        opens_models: Whether it opens the models that its inputs hold, and so has the
            parameters `TRUST_MODEL` and `SIGNATURE`. A step that takes models and only copies
            or describes them is declared with False.
        imports_models: Whether it takes Keras files as they are. The others get them in
            Paring's layout; see `paring.models.importing`.
    """

    name: str
    function: Callable[..., None]
    inputs: Mapping[str, InputSpec]
    outputs: Mapping[str, type[Artifact]]
    parameters: Mapping[str, ParameterSpec]
    version: str = "1"
    machine_dependent: bool = False
    side_effects: bool = False
    runs_model: bool = False
    opens_models: bool = True
    imports_models: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Call the function as it stands, without checks or a record."""
        self.function(*args, **kwargs)

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, on one line."""
        text = inspect.getdoc(self.function) or ""
        return " ".join(text.split("\n\n")[0].split())

    @property
    def trains(self) -> bool:
        """True if the step trains a model, which takes longer than what other steps do."""
        return "epochs" in self.parameters

    def parse_parameters(self, given: Mapping[str, object]) -> dict[str, Scalar]:
        """Return all parameters: those given, parsed and checked, and the defaults.

        Raises:
            ParameterError: An unknown name, or a value that can't be taken.
        """
        for name in given:
            if name not in self.parameters:
                raise ParameterError(
                    f"step {self.name} has no parameter {name!r}",
                    received=given[name],
                    remedy=nearest(name, self.parameters),
                )
        return {
            name: spec.parse(f"{self.name}: {name}", given[name]) if name in given else spec.default
            for name, spec in self.parameters.items()
        }


@overload
def step(function: Callable[..., None]) -> Step: ...
@overload
def step(
    *,
    version: str = ...,
    machine_dependent: bool = ...,
    side_effects: bool = ...,
    runs_model: bool = ...,
    opens_models: bool = ...,
    imports_models: bool = ...,
) -> Callable[[Callable[..., None]], Step]: ...
def step(
    function: Callable[..., None] | None = None,
    *,
    version: str = "1",
    machine_dependent: bool = False,
    side_effects: bool = False,
    runs_model: bool = False,
    opens_models: bool = True,
    imports_models: bool = False,
) -> Step | Callable[[Callable[..., None]], Step]:
    """Declare a function as a step; see the module's text and `Step`."""

    def declare(declared: Callable[..., None]) -> Step:
        return replace(
            _declare(declared, opens_models=opens_models),
            version=version,
            machine_dependent=machine_dependent,
            side_effects=side_effects,
            runs_model=runs_model,
            imports_models=imports_models,
        )

    return declare if function is None else declare(function)


def _declare(function: Callable[..., None], *, opens_models: bool) -> Step:
    hints = get_type_hints(function, include_extras=True)
    inputs: dict[str, InputSpec] = {}
    outputs: dict[str, type[Artifact]] = {}
    parameters: dict[str, ParameterSpec] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            parameters[name] = _parameter(function, parameter, hint)
            continue
        kind, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        role = next((note.name for note in notes if isinstance(note, _Role)), None)
        if role is None:
            raise TypeError(f"{function.__name__}: {name} is no Input or Output")
        if role == "output":
            outputs[name] = kind
        elif role == "inputs":
            inputs[name] = InputSpec(get_args(kind)[1], family=True)
        else:
            optional = get_origin(kind) in (Union, types.UnionType)
            inputs[name] = InputSpec(
                get_args(kind)[0] if optional else kind,
                optional=optional,
                attempted=role == "attempted",
            )
    opens_models = opens_models and any(issubclass(item.type, Servable) for item in inputs.values())
    if opens_models:
        for name in GENERAL:
            if name in parameters:
                raise TypeError(f"{function.__name__}: {name} is added by itself")
        parameters[TRUST_MODEL] = ParameterSpec(bool, bool, False)
        if any(_may_be_engine(item.type) for item in inputs.values()):
            parameters[TRUST_ENGINE] = ParameterSpec(bool, bool, False)
        parameters[SIGNATURE] = ParameterSpec(str, str, "")
    return Step(function.__name__, function, inputs, outputs, parameters, opens_models=opens_models)


def _may_be_engine(kind: type[Artifact]) -> bool:
    """Return whether a step that opens an artifact of this type may load TensorRT's code."""
    return kind is Servable or issubclass(kind, SelectedModel | TRTEngine)


def _parameter(
    function: Callable[..., None], parameter: inspect.Parameter, hint: Any
) -> ParameterSpec:
    if parameter.default is inspect.Parameter.empty:
        raise TypeError(f"{function.__name__}: {parameter.name} needs a default")
    plain, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    search = next((note for note in notes if isinstance(note, Search)), None)
    if search is not None and plain not in (int, float):
        raise TypeError(f"{function.__name__}: {parameter.name} is no number to search")
    if get_origin(plain) is Literal:
        return ParameterSpec(hint, str, parameter.default, get_args(plain))
    if plain not in (str, int, float, bool):
        raise TypeError(f"{function.__name__}: {parameter.name} is no scalar")
    return ParameterSpec(hint, plain, parameter.default, search=search)
