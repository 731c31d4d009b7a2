"""The Dag as a package for Kubeflow Pipelines: `paring compile`."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import compiler, dsl

from paring.adapters.kfp import SOURCE_DIGEST, component, kfp_type, member_inputs
from paring.errors import OutputError
from paring_pipelines.dag import Dag, Edge, Node


def compile_dag(dag: Dag, out: Path, *, image: str) -> None:
    """Write `dag` to `out`, a pipeline spec of schema 2.1.0 as YAML.

    The pipeline takes the URI of each source, `model_uri` for the source
    `model`, and `source_digest`, any text that names the sources' content: with
    another one, every task misses Kubeflow's cache, which knows URIs but not
    what lies there. The same Dag and image give the same bytes.

    Each node is a task named for its id, with its parameters as constants, and
    is cached, unless its step acts on something outside its outputs. A failure that a
    node records in its outputs counts as a success there; submit with caching off to
    try what failed again.

    Args:
        dag: The wiring.
        out: The file; what was there stays if anything goes wrong.
        image: The image of every task.

    Raises:
        OutputError: The file can't be written.
    """
    package = dsl.pipeline(name=dag.name)(_pipeline_function(dag, image))
    # The compiler only takes names that end in .yaml.
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}.yaml")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        compiler.Compiler().compile(package, str(partial))
        partial.replace(out)
    except OSError as error:
        raise OutputError(
            "--out: this file can't be written",
            received=f"{out} ({error.strerror})",
            remedy="give a file in a folder that you may write to",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _pipeline_function(dag: Dag, image: str) -> Any:
    # Content and machine are unknown here: sources stand for themselves, and
    # `source_digest` is added to each identity when the pipeline runs.
    identities = dag.identities({name: name for name in dag.sources}, machine="")

    def pipeline(*arguments: Any) -> None:
        *uris, digest = arguments
        importers = {
            name: dsl.importer(artifact_uri=uri, artifact_class=kfp_type(kind))
            for (name, kind), uri in zip(dag.sources.items(), uris, strict=True)
        }
        tasks: dict[str, Any] = {}
        for node in dag.nodes.values():
            made = component(
                node.step,
                image=image,
                members=_members(node),
                # Tasks take their names from this. No display names: backends
                # before 2.6 look tasks up by them and then find none.
                name=node.id,
                identity=identities[node.id],
                tolerate=node.tolerate,
            )
            inputs = {
                name: importers[edge.node].output
                if edge.node in importers
                else tasks[edge.node].outputs[edge.output]
                for name, edge in _edges(node).items()
            }
            task = made(**inputs, **node.parameters, **{SOURCE_DIGEST: digest})
            if node.step.acts:
                task.set_caching_options(enable_caching=False)
            tasks[node.id] = task

    def parameter(name: str, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Parameter(name, kind, annotation=str, default=default)

    # kfp reads a pipeline's parameters from a function's signature and text.
    pipeline.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*(parameter(f"{name}_uri") for name in dag.sources), parameter(SOURCE_DIGEST, "")]
    )
    described = {f"{name}_uri": f"Where the {name} lies." for name in dag.sources}
    described[SOURCE_DIGEST] = "Names the content behind the URIs; a new one misses the cache."
    lines = "\n".join(f"    {name}: {text}" for name, text in described.items())
    pipeline.__doc__ = f"Optimize a trained model, and choose the best result.\n\nArgs:\n{lines}"
    return pipeline


def _members(node: Node) -> dict[str, list[str]]:
    return {name: list(wire) for name, wire in node.inputs.items() if isinstance(wire, Mapping)}


def _edges(node: Node) -> dict[str, Edge]:
    """The node's edges by the names of its component's inputs."""
    found: dict[str, Edge] = {}
    for name, wire in node.inputs.items():
        if isinstance(wire, Edge):
            found[name] = wire
    for input_name, (family, key) in member_inputs(node.step, _members(node)).items():
        wire = node.inputs[family]
        if isinstance(wire, Mapping):
            found[input_name] = wire[key]
    return found
