"""Variants of a serving graph to try, by precision and compilation by XLA."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paring.errors import UnsupportedError

if TYPE_CHECKING:
    from paring.graphs.half_precision import HalfPrecision
    from paring.graphs.serving_graph import ServingGraph, Variables
    from paring.models.saved_model import SavedModel

Precision = Literal["float32", "float16", "bfloat16"]

_HALVES: "tuple[HalfPrecision, ...]" = ("bfloat16", "float16")


@dataclass(frozen=True)
class GraphVariant:
    """Variant of a serving graph: its precision and compilation.

    Attributes:
        precision: Type in which convolutions and products of matrices compute.
        compiled: Whether XLA compiles it.
    """

    precision: Precision = "float32"
    compiled: bool = False

    @property
    def changes(self) -> tuple[str, ...]:
        """Changes to the source."""
        half = [] if self.precision == "float32" else [self.precision]
        return ("inference graph", *half, *(["xla"] if self.compiled else []))

    def __str__(self) -> str:
        """Return the changes to the source, separated by commas."""
        return ", ".join(self.changes)


class GraphVariants:
    """Writer of one model in its forms.

    Attributes:
        graph: Its serving graph, None where it can't be frozen.
    """

    def __init__(self, function: Any, *, variables: "Variables", fixed_batch: int) -> None:
        """Freeze and fold a signature.

        Args:
            function: The signature, as `paring.graphs.graph.load_function` gives it.
            variables: As in `paring.graphs.serving_graph.export`.
            fixed_batch: As there.
        """
        from paring.graphs.serving_graph import inference_graph

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
        """Return the changes to try in turn, as fields of `GraphVariant` by name."""
        result: dict[str, dict[str, Any]] = {"inference graph": {}}
        if self.graph is None:
            # The others are made of it.
            return result
        for half in _HALVES:
            if precision in ("auto", half):
                result[half] = {"precision": half}
        if xla:
            result["xla"] = {"compiled": True}
        return result

    def write(self, form: GraphVariant) -> "ServingGraph":
        """Return the serving graph in a form.

        Raises:
            UnsupportedError: The model has no such form.
        """
        from paring.graphs.half_precision import to_half_precision

        if self.graph is None:
            raise self._why_not or UnsupportedError("this model can't be frozen")
        if form.precision == "float32":
            return self.graph
        outputs = self.graph.outputs.values()
        halved = to_half_precision(self.graph.graph_def, outputs, form.precision)
        return replace(self.graph, graph_def=halved)

    def build(self, form: GraphVariant, folder: Path, source: "SavedModel") -> "ServingGraph":
        """Write the SavedModel of a form, and return its graph.

        Args:
            form: The form.
            folder: Gets the SavedModel.
            source: What all forms are made of.

        Raises:
            UnsupportedError: The model has no such form.
        """
        from paring.graphs.serving_graph import export

        graph = self.write(form)
        export(
            graph,
            folder,
            source,
            compiled=form.compiled,
            variables=self._variables,
            fixed_batch=self._fixed_batch,
        )
        return graph
