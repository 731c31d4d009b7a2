"""Graph of a pipeline: steps as nodes, typed edges between them.

A Dag knows no orchestrator. Nodes can only refer to what was added before
them, so it has no cycles, and iterating it gives a topological order.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from paring.artifacts import Artifact, Servable
from paring.errors import ParameterError, nearest
from paring.step import SIGNATURE, TRUST_ENGINE, TRUST_MODEL, InputSpec, Scalar, Step


@dataclass(frozen=True)
class Edge:
    """Output of a node, or a source, that other nodes read.

    Attributes:
        node: The id of the node, or the name of one of the Dag's sources.
        output: The name of the node's output, "" for a source.
    """

    node: str
    output: str = ""


Wire = Edge | Mapping[str, Edge]


@dataclass(frozen=True)
class Node:
    """Step with its inputs and parameters in a Dag.

    Attributes:
        id: Unique in the Dag.
        step: What it does.
        inputs: An edge for each input, or a mapping of edges for a family.
        parameters: All of the step's parameters, parsed.
        tolerate: Whether a failure is recorded in the outputs instead of
            ending the run: true of whatever makes one candidate among others.
        candidate: Id of the candidate that the node builds or measures; of several that
            share it the first one's; "" if it works for all.
    """

    id: str
    step: Step
    inputs: Mapping[str, Wire]
    parameters: Mapping[str, Scalar]
    tolerate: bool = False
    candidate: str = ""

    def out(self, output: str) -> Edge:
        """Return the edge that leads from this node's output `output`."""
        if output not in self.step.outputs:
            raise ParameterError(
                f"step {self.step.name} has no output {output!r}",
                remedy=nearest(output, self.step.outputs),
            )
        return Edge(self.id, output)

    def edges(self) -> Iterator[Edge]:
        """Yield all edges that lead here."""
        for wire in self.inputs.values():
            if isinstance(wire, Edge):
                yield wire
            else:
                yield from wire.values()


@dataclass
class Dag:
    """Nodes of a pipeline in topological order, and its sources.

    Attributes:
        name: The pipeline's name.
        sources: The artifacts that a run is given, by name.
        trust_model: Whether every step that opens a model may run code in it.
        signature: Name of the signature of the sources that are models; "" for serving_default.
            What is made of them carries it along.
    """

    name: str
    sources: Mapping[str, type[Artifact]]
    trust_model: bool = False
    signature: str = ""
    _nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def nodes(self) -> Mapping[str, Node]:
        """The nodes by id, in topological order."""
        return MappingProxyType(self._nodes)

    def source(self, name: str) -> Edge:
        """Return the edge that leads from the source `name`."""
        if name not in self.sources:
            raise ParameterError(f"no source {name!r}", remedy=nearest(name, self.sources))
        return Edge(name)

    def add(
        self,
        node_id: str,
        step: Step,
        inputs: Mapping[str, Wire],
        parameters: Mapping[str, object] | None = None,
        *,
        tolerate: bool = False,
        candidate: str = "",
    ) -> Node:
        """Add a node behind what is there already.

        Raises:
            ParameterError: The id is taken, an input is missing, unknown or of
                another type, or a parameter can't be taken.
        """
        # TFX takes no node named for its pipeline.
        if node_id in self._nodes or node_id in self.sources or node_id == self.name:
            raise ParameterError("a node's id is taken", received=node_id, remedy="rename it")
        for name, wire in inputs.items():
            spec = step.inputs.get(name)
            if spec is None:
                raise ParameterError(
                    f"step {step.name} has no input {name!r}", remedy=nearest(name, step.inputs)
                )
            self._check(f"{node_id}: {name}", spec, wire)
        for name, spec in step.inputs.items():
            if name not in inputs and not spec.optional:
                raise ParameterError(f"{node_id}: input {name} is not wired")
        given = dict(parameters or {})
        if step.opens_models:
            given[TRUST_MODEL] = self.trust_model
        if TRUST_ENGINE in step.parameters:
            # None comes from outside: the sources are models that are converted here.
            given[TRUST_ENGINE] = True
        if SIGNATURE in step.parameters and self._opens_source(inputs):
            given[SIGNATURE] = self.signature
        parsed = step.parse_parameters(given)
        node = Node(node_id, step, dict(inputs), parsed, tolerate, candidate)
        self._nodes[node_id] = node
        return node

    def type_of(self, edge: Edge) -> type[Artifact]:
        """Return the declared type of what `edge` carries."""
        if edge.node in self.sources:
            return self.sources[edge.node]
        if edge.node not in self._nodes:
            raise ParameterError(f"no node {edge.node!r}", remedy=nearest(edge.node, self._nodes))
        return self._nodes[edge.node].step.outputs[edge.output]

    def _opens_source(self, inputs: Mapping[str, Wire]) -> bool:
        """Return whether a source among the inputs is a model."""
        wires = inputs.values()
        edges = [e for wire in wires for e in ([wire] if isinstance(wire, Edge) else wire.values())]
        kinds = (self.sources.get(edge.node, Artifact) for edge in edges)
        return any(issubclass(kind, Servable) for kind in kinds)

    def _check(self, where: str, spec: InputSpec, wire: Wire) -> None:
        if isinstance(wire, Edge) == spec.family:
            kind = "a family of edges" if spec.family else "one edge"
            raise ParameterError(f"{where} takes {kind}")
        for edge in [wire] if isinstance(wire, Edge) else wire.values():
            result = self.type_of(edge)
            if not issubclass(result, spec.type):
                raise ParameterError(
                    f"{where} takes a {spec.type.__name__}",
                    received=f"the {result.__name__} of {edge.node}",
                    remedy="change the order of the steps",
                )

    def identities(self, digests: Mapping[str, str], machine: str) -> dict[str, str]:
        """Compute the identity of each node's work, one digest a node.

        It is computed from the content digests of the sources, the step's name and
        version, its parameters, the identities of the nodes before it, and,
        for steps that measure, the machine. Orchestrators' caches look at none
        of these but the parameters; so each node gets its identity as one.

        Args:
            digests: The content digest of each source.
            machine: The fingerprint of hardware and libraries.
        """
        result: dict[str, str] = {}

        def of(edge: Edge) -> str:
            return digests[edge.node] if edge.node in self.sources else result[edge.node]

        for node in self._nodes.values():
            made_of = {
                "step": [node.step.name, node.step.version],
                "parameters": dict(node.parameters),
                "inputs": {
                    name: [of(wire), wire.output]
                    if isinstance(wire, Edge)
                    else {key: [of(edge), edge.output] for key, edge in wire.items()}
                    for name, wire in node.inputs.items()
                },
                "machine": machine if node.step.machine_dependent else "",
            }
            text = json.dumps(made_of, sort_keys=True)
            result[node.id] = hashlib.sha256(text.encode()).hexdigest()[:32]
        return result
