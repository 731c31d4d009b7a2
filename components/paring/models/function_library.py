"""Functions of a SavedModel, and the functions that each of them calls."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class FunctionLibrary:
    """The functions of a GraphDef.

    Attributes:
        functions: FunctionDef of each, by its name.
    """

    def __init__(self, graph_def: Any) -> None:
        library = graph_def.library
        self.functions: Mapping[str, Any] = {one.signature.name: one for one in library.function}
        self._gradients = {one.function_name: one.gradient_func for one in library.gradient}
        # The runtime may put another implementation in a function's place.
        self._alternatives: dict[bytes, list[str]] = {}
        for name, one in self.functions.items():
            if "api_implements" in one.attr:
                self._alternatives.setdefault(one.attr["api_implements"].s, []).append(name)

    def called(self, node: Any) -> Iterator[str]:
        """Yield the names of the functions that a node (NodeDef) refers to."""
        if node.op in self.functions:
            yield node.op
        for value in node.attr.values():
            kind = value.WhichOneof("value")
            if kind == "func":
                yield from _attribute_functions(value.func)
            elif kind == "list":
                for one in value.list.func:
                    yield from _attribute_functions(one)

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
        one = pending.pop()
        yield one.name
        for attribute in one.attr.values():
            pending += [attribute.func] if attribute.WhichOneof("value") == "func" else []
            pending += list(attribute.list.func)
