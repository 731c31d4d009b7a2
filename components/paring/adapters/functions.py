"""Steps as Python functions, on paths and on models and arrays in memory.

    import paring

    pruned = paring.prune(network, arrays, sparsity=0.6)
    converted = paring.convert_tflite(pruned, arrays, quantization="int8", out="out/int8")
    print(converted.size_bytes, converted.lineage["parameters"])

`paring.NAME` is the function of the step NAME. Each module attribute here is one too.
"""

import inspect
import re
import shutil
import tempfile
import textwrap
import weakref
from collections import namedtuple
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from paring.adapters.in_memory import examples_path, is_path, model_path
from paring.artifacts import Artifact, Examples, Servable
from paring.catalog import STEPS
from paring.errors import ParameterError
from paring.execution import Call, execute
from paring.step import InputSpec, Step


def __getattr__(name: str) -> Callable[..., Any]:
    """Return the function of the step of this name."""
    if name not in STEPS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _of_name(name)


@cache
def _of_name(name: str) -> Callable[..., Any]:
    return as_function(STEPS[name])


def as_function(step: Step) -> Callable[..., Any]:
    """Return a step as a function of its inputs and parameters.

    The function takes the inputs in the order of the step's declaration or by name, and
    the parameters by name. An input is an artifact, the path of one, a model of tf_keras or
    Keras 3, or for examples a mapping of arrays by name. It returns the output as an
    artifact, or several as a named tuple. It runs in this process, without the limits of
    time and memory that `paring.optimize` has.

    Arguments that do not fit the step are a ParameterError. The function's argument `out` is
    the folder of the output, or the parent folder of several; without it they are in a
    temporary folder, which is removed with the artifact.

    Args:
        step: The step, such as `paring.steps.prune.prune` or one of your own.

    Returns:
        The function, which raises what the step raises.
    """

    def function(*positional: Any, out: str | Path | None = None, **named: Any) -> Any:
        given = _by_name(step, positional, named)
        parameters = {name: given.pop(name) for name in step.parameters if name in given}
        unknown = {name: value for name, value in given.items() if name not in step.inputs}
        with tempfile.TemporaryDirectory(prefix="paring-inputs-") as scratch:
            inputs = {
                name: _input_paths(name, spec, given[name], Path(scratch))
                for name, spec in step.inputs.items()
                if given.get(name) is not None
            }
            # With its own message for what is unknown, after the nearest name.
            return _run(step, inputs, {**parameters, **unknown}, out)

    function.__name__ = function.__qualname__ = step.name
    function.__module__ = "paring"
    function.__doc__ = _docstring(step)
    function.__signature__ = _signature(step)  # type: ignore[attr-defined]
    return function


def _by_name(step: Step, positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Return all arguments by name.

    Raises:
        ParameterError: There are too many, or one is given twice.
    """
    if len(positional) > len(step.inputs):
        raise ParameterError(
            f"{step.name}: takes {len(step.inputs)} arguments without a name",
            received=len(positional),
            remedy=f"give the inputs {', '.join(step.inputs)}, and parameters by name",
        )
    given = dict(zip(step.inputs, positional, strict=False))
    if twice := sorted(given.keys() & named.keys()):
        raise ParameterError(
            f"{step.name}: {twice[0]} is given twice",
            received="one argument without a name, and one with it",
            remedy="leave one out",
        )
    return {**given, **named}


def _input_paths(name: str, spec: InputSpec, given: Any, folder: Path) -> Any:
    """Return the path of an input, or of a family's members by key."""
    if not spec.family:
        return _input_path(name, spec, given, folder / name)
    if not isinstance(given, Mapping):
        raise ParameterError(
            f"{name}: must be a mapping of artifacts by name",
            received=type(given).__name__,
            remedy=f"give {name}={{'source': ...}}",
        )
    return {
        key: _input_path(f"{name}[{key!r}]", spec, item, folder / name / str(number))
        for number, (key, item) in enumerate(given.items())
    }


def _input_path(name: str, spec: InputSpec, given: Any, folder: Path) -> Path:
    if isinstance(given, Artifact):
        return given.path
    if is_path(given):
        return Path(given)
    folder.mkdir(parents=True)
    if issubclass(spec.type, Servable):
        return model_path(given, folder)
    if issubclass(spec.type, Examples):
        return examples_path(given, folder)
    raise ParameterError(
        f"{name}: must be an artifact or the path of one",
        received=type(given).__name__,
        remedy=f"give a {spec.type.__name__}",
    )


def _run(step: Step, inputs: Any, parameters: Any, out: str | Path | None) -> Any:
    """Execute the step, and return its outputs as the function does."""
    temporary = out is None
    folder = Path(tempfile.mkdtemp(prefix="paring-")) if out is None else Path(out).absolute()
    single = len(step.outputs) == 1 and not temporary
    paths = {name: folder if single else folder / name for name in step.outputs}
    try:
        outputs = execute(step, Call(inputs, paths, parameters))
    except BaseException:
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if temporary:
        keeper = _Keeper()
        weakref.finalize(keeper, shutil.rmtree, folder, ignore_errors=True)
        for output in outputs.values():
            output.__dict__["_keeper"] = keeper
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    kind: Any = namedtuple(step.name, step.outputs)  # type: ignore[misc]
    return kind(**outputs)


class _Keeper:
    """Owner of a temporary folder, which the artifacts in it share."""


def _signature(step: Step) -> inspect.Signature:
    declared = inspect.signature(step.function).parameters
    kinds = inspect.Parameter
    inputs: list[inspect.Parameter] = []
    required_follows = False
    for name, spec in reversed(list(step.inputs.items())):
        required_follows = required_follows or not spec.optional
        default = kinds.empty if required_follows else None
        annotation = Mapping[str, spec.type] if spec.family else spec.type  # type: ignore[name-defined]
        inputs.insert(0, declared[name].replace(default=default, annotation=annotation))
    parameters = [
        declared[name]
        if name in declared
        else kinds(name, kinds.KEYWORD_ONLY, default=spec.default, annotation=spec.annotation)
        for name, spec in step.parameters.items()
    ]
    out = kinds("out", kinds.KEYWORD_ONLY, default=None, annotation=str | Path | None)
    kinds_of_outputs = tuple(step.outputs.values())
    returned: Any = kinds_of_outputs[0] if len(kinds_of_outputs) == 1 else tuple
    return inspect.Signature([*inputs, *parameters, out], return_annotation=returned)


_OUT = """\
out: Folder of the output, or parent folder of several. Without it, a temporary one, which
    is removed with the artifact."""


def _docstring(step: Step) -> str:
    """Return the step's docstring with its outputs under "Returns"."""
    summary, *sections = re.split(r"\n\n(?=\w+:\n)", inspect.getdoc(step.function) or "")
    texts = dict(section.split(":\n", 1) for section in sections)
    arguments: list[str] = []
    returned: list[str] = []
    for entry in re.split(r"\n(?=    \w)", texts.pop("Args", "")):
        name = entry.partition(":")[0].strip()
        (returned if name in step.outputs else arguments).append(entry)
    arguments.append(textwrap.indent(_OUT, "    "))
    known = {"Examples": texts.pop("Examples", ""), "Args": "\n".join(arguments)}
    known |= {"Returns": "\n".join(returned), **texts}
    shown = [f"{name}:\n{text}" for name, text in known.items() if text]
    return "\n\n".join([summary, *shown]) + "\n"
