"""Functions of a SavedModel, and the functions that each of them calls."""

from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from paring.models.library_types import GraphDef, NodeDef


class FunctionLibrary:
    """The functions of a GraphDef.

    Attributes:
        functions: FunctionDef of each, by its name.
    """

    def __init__(self, graph_def: GraphDef) -> None:
        library = graph_def.library
        self.functions: Mapping[str, Any] = {item.signature.name: item for item in library.function}
        self._gradients = {item.function_name: item.gradient_func for item in library.gradient}
        # The runtime may put another implementation in a function's place.
        self._alternatives: dict[bytes, list[str]] = {}
        for name, item in self.functions.items():
            if "api_implements" in item.attr:
                self._alternatives.setdefault(item.attr["api_implements"].s, []).append(name)

    def called(self, node: NodeDef) -> Iterator[str]:
        """Yield the names of the functions that a node (NodeDef) refers to."""
        if node.op in self.functions:
            yield node.op
        for value in node.attr.values():
            kind = value.WhichOneof("value")
            if kind == "func":
                yield from _attribute_functions(value.func)
            elif kind == "list":
                for item in value.list.func:
                    yield from _attribute_functions(item)

    def is_recursive(self) -> bool:
        """Return whether a function calls itself, maybe by others; TensorFlow loads none such."""
        calls = {
            name: {called for node in item.node_def for called in self.called(node)}
            for name, item in self.functions.items()
        }
        try:
            TopologicalSorter(calls).prepare()
        except CycleError:
            return True
        return False

    def reached(self, names: Iterable[str]) -> set[str]:
        """Return some functions and all that the runtime may run for them.

        Names of functions that are in no library stay in the result.
        """
        reached: set[str] = set()
        pending = list(names)
        while pending:
            name = pending.pop()
            if name in reached:
                continue
            reached.add(name)
            function = self.functions.get(name)
            if function is None:
                continue
            if "api_implements" in function.attr:
                pending += self._alternatives[function.attr["api_implements"].s]
            if name in self._gradients:
                pending.append(self._gradients[name])
            for node in function.node_def:
                pending += self.called(node)
        return reached


def concrete_functions(saved_object: Any) -> set[str]:
    """Return the names of the concrete functions of a SavedObject; none if it is no function."""
    kind = saved_object.WhichOneof("kind")
    if kind == "function":
        return set(saved_object.function.concrete_functions)
    if kind == "bare_concrete_function":
        return {saved_object.bare_concrete_function.concrete_function_name}
    return set()


def _attribute_functions(value: Any) -> Iterator[str]:
    """Yield a function and those among its own attributes."""
    pending = [value]
    while pending:
        item = pending.pop()
        yield item.name
        for attribute in item.attr.values():
            pending += [attribute.func] if attribute.WhichOneof("value") == "func" else []
            pending += list(attribute.list.func)
