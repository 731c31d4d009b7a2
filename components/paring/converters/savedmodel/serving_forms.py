"""Forms of a serving graph to try, by precision and compilation by XLA."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from paring.errors import UnsupportedError
from paring.graphs.half_precision import HalfPrecision, to_half_precision
from paring.graphs.serving_graph import ServingGraph, Variables, export, inference_graph

Precision = Literal["float32", "float16", "bfloat16"]

_HALVES: tuple[HalfPrecision, ...] = ("bfloat16", "float16")


@dataclass(frozen=True)
class Form:
    """Variant of a serving graph: its precision and compilation.

    Attributes:
        precision: Type in which convolutions and products of matrices compute.
        compiled: Whether XLA compiles it.
    """

    precision: Precision = "float32"
    compiled: bool = False

    def __str__(self) -> str:
        """Return the changes to the source, separated by commas."""
        half = [] if self.precision == "float32" else [self.precision]
        return ", ".join(["inference graph", *half, *(["xla"] if self.compiled else [])])


class Forms:
    """Writer of one model in its forms.

    Attributes:
        graph: Its serving graph, None where it can't be frozen.
    """

    def __init__(self, function: Any, *, variables: Variables, fixed_batch: int) -> None:
        """Freeze and fold a signature.

        Args:
            function: The signature, as `paring.graphs.graph.load_function` gives it.
            variables: As in `paring.graphs.serving_graph.export`.
            fixed_batch: As there.
        """
        self._variables = variables
        self._fixed_batch = fixed_batch
        self.graph: ServingGraph | None = None
        self._why_not: UnsupportedError | None = None
        try:
            self.graph = inference_graph(function)
        except UnsupportedError as error:
            self._why_not = error

    def changes(
        self, precision: Literal["auto", "float32", "float16", "bfloat16"], xla: bool
    ) -> dict[str, dict[str, Any]]:
        """Return the changes to try one after another: fields of `Form`, by the change's name."""
        found: dict[str, dict[str, Any]] = {"inference graph": {}}
        if self.graph is None:
            # The others are made of it.
            return found
        for half in _HALVES:
            if precision in ("auto", half):
                found[half] = {"precision": half}
        if xla:
            found["xla"] = {"compiled": True}
        return found

    def write(self, form: Form) -> ServingGraph:
        """Return the serving graph in a form.

        Raises:
            UnsupportedError: The model has no such form.
        """
        if self.graph is None:
            raise self._why_not or UnsupportedError("this model can't be frozen")
        if form.precision == "float32":
            return self.graph
        outputs = self.graph.outputs.values()
        halved = to_half_precision(self.graph.graph_def, outputs, form.precision)
        return replace(self.graph, graph_def=halved)

    def build(self, form: Form, folder: Path) -> None:
        """Write the SavedModel of a form.

        Raises:
            UnsupportedError: The model has no such form.
        """
        export(
            self.write(form),
            folder,
            compiled=form.compiled,
            variables=self._variables,
            fixed_batch=self._fixed_batch,
        )
