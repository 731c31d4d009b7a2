"""Extension of the API reference: functions of `paring` as Python shows them.

The parameters of `paring.optimize` come from the settings of a run, and those of a step's
function from its declaration, so that the source alone does not show them.
"""

import inspect
import re
from typing import Annotated, Any, get_args, get_origin

import griffe

import paring
from paring.catalog import STEPS

_PATHS = {
    "paring_pipelines.api.optimize": "optimize",
    **{f"paring.steps.{name}.{name}": name for name in STEPS},
}


class PublicFunctions(griffe.Extension):
    """Replace the signature and the docstring of public functions by those at run time."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        """Describe one function."""
        if func.path not in _PATHS:
            return
        described = getattr(paring, _PATHS[func.path])
        signature = inspect.signature(described)
        kinds = {kind.value: kind for kind in griffe.ParameterKind}
        func.parameters = griffe.Parameters(
            *(
                griffe.Parameter(
                    parameter.name,
                    annotation=_text(parameter.annotation),
                    kind=kinds[parameter.kind.description],
                    default=None
                    if parameter.default is parameter.empty
                    else repr(parameter.default),
                )
                for parameter in signature.parameters.values()
            )
        )
        func.returns = _text(signature.return_annotation)
        func.decorators = []
        # Its parser was chosen by whoever loads it.
        if func.docstring is not None:
            func.docstring.value = inspect.getdoc(described) or ""


def _text(annotation: Any) -> str:
    """Return an annotation as a reader writes it, with the bounds of a number."""
    if get_origin(annotation) is Annotated:
        kind, *bounds = get_args(annotation)
        return f"Annotated[{_text(kind)}, {', '.join(map(str, bounds))}]"
    if get_origin(annotation) is None and isinstance(annotation, type):
        return annotation.__name__
    return re.sub(r"\b(?:\w+\.)+(?=[A-Z])", "", inspect.formatannotation(annotation))
