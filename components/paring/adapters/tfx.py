"""A Step as a TFX component, and Paring's artifacts as TFX artifact types.

    from paring.adapters.tfx import component
    from paring.steps.prune import prune

    pruned = component(
        prune,
        model=trainer.outputs["model"],
        examples=example_gen.outputs["examples"],
        sparsity=0.6,
    )
    pusher = tfx.components.Pusher(model=pruned.outputs["pruned"], ...)

TFX's standard Model and Examples are taken where a step asks for a model or
for examples, and every model that a step makes is taken where a TFX component
asks for a standard Model. What exactly an artifact is, is checked again when
the step starts, by its record.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import standard_artifacts
from tfx.types.artifact import Property, PropertyType
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from paring.artifacts import Artifact, Examples, Model, Servable, artifact_types
from paring.catalog import find
from paring.errors import ParameterError, nearest
from paring.execution import Call, execute
from paring.step import Step
from paring.system import logs

FAMILY_SEPARATOR = "__"
"""Between a family's name and a member's key, in a component's inputs."""

_STEP, _IDENTITY, _TOLERATE = "paring_step", "paring_identity", "paring_tolerate"

_PROPERTY_TYPES = {
    str: PropertyType.STRING,
    int: PropertyType.INT,
    float: PropertyType.FLOAT,
}


@dataclass(frozen=True)
class NodeEvent:
    """Start or end of a node, passed to `observers` in the process that runs it.

    Attributes:
        node: The node's id.
        seconds: How long it took; None at the start.
        outputs: What it made; empty at the start and after an error.
        error: What ended it, if anything did; an interruption too.
    """

    node: str
    seconds: float | None = None
    outputs: tuple[Artifact, ...] = ()
    error: BaseException | None = None


observers: list[Callable[[NodeEvent], None]] = []

executors: list[Callable[[Step, Call], dict[str, Artifact]]] = []
"""The last one runs the steps; without one they run in the process of their component."""


def _is_standard(kind: type[Artifact]) -> bool:
    """Return whether TFX has its own type for this artifact type."""
    return kind in (Servable, Model, Examples)


def _define(kind: type[Artifact]) -> type[types.Artifact]:
    if issubclass(kind, Examples):
        return standard_artifacts.Examples  # type: ignore[no-any-return]
    if _is_standard(kind):
        return standard_artifacts.Model  # type: ignore[no-any-return]
    facts = {name: Property(_PROPERTY_TYPES[of]) for name, of in kind.fact_types().items()}
    body = {
        "TYPE_NAME": f"Paring{kind.__name__}",
        "PROPERTIES": facts,
        "__doc__": kind.__doc__,
        "__module__": __name__,
    }
    return type(f"Tfx{kind.__name__}", (types.Artifact,), body)


ARTIFACT_CLASSES: Mapping[str, type[types.Artifact]] = {
    name: _define(kind) for name, kind in artifact_types().items() if kind is not Artifact
}
# TFX finds artifact classes by their import path when it loads a pipeline.
globals().update({one.__name__: one for one in ARTIFACT_CLASSES.values()})

_MODELS = tuple(
    ARTIFACT_CLASSES[name]
    for name, kind in artifact_types().items()
    if issubclass(kind, Servable) and not _is_standard(kind)
)
# TFX's documented way to accept other types where a type is required.
standard_artifacts.Model._compatible_types = (
    *getattr(standard_artifacts.Model, "_compatible_types", ()),
    *_MODELS,
)


def tfx_type(kind: type[Artifact]) -> type[types.Artifact]:
    """Return the TFX artifact class that stands for `kind`."""
    return ARTIFACT_CLASSES[kind.__name__]


class StepExecutor(base_executor.BaseExecutor):  # type: ignore[misc]
    """Executor of the step that the component's parameters name."""

    def Do(  # noqa: N802 - TFX's name
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Run the step on the artifacts' paths and publish its facts."""
        parameters = dict(exec_properties)
        step = find(parameters.pop(_STEP))
        call = Call(
            _input_paths(step, input_dict),
            {name: Path(artifacts[0].uri) for name, artifacts in output_dict.items()},
            identity=parameters.pop(_IDENTITY),
            tolerate=bool(parameters.pop(_TOLERATE)),
            parameters=parameters,
        )
        node = self._context.pipeline_node.node_info.id
        _tell(NodeEvent(node))
        start = time.monotonic()
        try:
            with logs.about(
                run=self._context.pipeline_run_id,
                node=node,
                candidate=logs.candidate_of(step.name, node),
            ):
                outputs = (executors[-1] if executors else execute)(step, call)
        except BaseException as error:
            _tell(NodeEvent(node, time.monotonic() - start, error=error))
            raise
        for name, output in outputs.items():
            _publish(output, output_dict[name][0])
        _tell(NodeEvent(node, time.monotonic() - start, tuple(outputs.values())))


def _tell(event: NodeEvent) -> None:
    for observer in observers:
        observer(event)


def _input_paths(
    step: Step, input_dict: Mapping[str, list[types.Artifact]]
) -> dict[str, Path | dict[str, Path]]:
    paths: dict[str, Path | dict[str, Path]] = {
        name: {} for name, spec in step.inputs.items() if spec.family
    }
    for key, artifacts in input_dict.items():
        if not artifacts:
            continue
        name, _, member = key.partition(FAMILY_SEPARATOR)
        if len(artifacts) != 1:
            raise ParameterError(
                f"{step.name}: input {key} takes one artifact",
                received=f"{len(artifacts)} artifacts",
                remedy="resolve it to one, with tfx.dsl.Resolver for example",
            )
        family = paths.get(name)
        if isinstance(family, dict):
            family[member] = Path(artifacts[0].uri)
        else:
            paths[name] = Path(artifacts[0].uri)
    return paths


def _publish(output: Artifact, artifact: types.Artifact) -> None:
    """Put the facts into the properties, or into custom ones of TFX's types."""
    declared = artifact.PROPERTIES or {}
    for name, value in output.facts().items():
        if name in declared:
            setattr(artifact, name, value)
        elif isinstance(value, str):
            artifact.set_string_custom_property(name, value)
        elif isinstance(value, int):
            artifact.set_int_custom_property(name, value)
        else:
            artifact.set_float_custom_property(name, value)
    if isinstance(output, Examples):
        artifact.split_names = '["train", "eval"]'
    if output.failure:
        artifact.set_string_custom_property("outcome", output.failure.outcome)
        artifact.set_string_custom_property("reason", output.failure.reason)


class StepComponent(base_component.BaseComponent):  # type: ignore[misc]
    """Base of the components that `component` makes."""

    SPEC_CLASS = ComponentSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(StepExecutor)


def component(
    step: Step,
    *,
    node_id: str = "",
    identity: str = "",
    tolerate: bool = False,
    **arguments: Any,
) -> StepComponent:
    """Return `step` as a TFX component.

    Args:
        step: The step, such as `paring.steps.prune.prune`.
        node_id: The node's id in the pipeline; the step's name by default.
        identity: Names the work for TFX's cache, which knows neither a step's
            code nor a file's content.
        tolerate: Record a failure in the outputs instead of raising it.
        **arguments: The step's inputs as channels, a family as a mapping of
            channels, and its parameters as values.

    Raises:
        ParameterError: An argument is missing, unknown or can't be taken.
    """
    channels = {name: arguments.pop(name) for name in step.inputs if name in arguments}
    for name in arguments:
        if name not in step.parameters:
            known = [*step.inputs, *step.parameters]
            raise ParameterError(
                f"step {step.name} takes no {name!r}",
                received=arguments[name],
                remedy=nearest(name, known),
            )
    parameters = {
        # The metadata store has no booleans.
        name: int(value) if isinstance(value, bool) else value
        for name, value in step.parse_parameters(arguments).items()
    }
    # A raised version must miss the cache in a user's own pipeline too, and what acts on
    # the world must miss it always.
    identity = identity or f"{step.name}@{step.version}"
    parameters |= {
        _STEP: step.name,
        _IDENTITY: f"{identity}:{uuid.uuid4().hex}" if step.acts else identity,
        _TOLERATE: int(tolerate),
    }
    inputs = _flatten(step, channels)
    outputs = {name: types.Channel(type=tfx_type(of)) for name, of in step.outputs.items()}
    spec_class = type(
        f"{step.name}Spec",
        (ComponentSpec,),
        {
            "PARAMETERS": {
                name: ExecutionParameter(type=type(value)) for name, value in parameters.items()
            },
            "INPUTS": {
                name: ChannelParameter(type=tfx_type(_input_type(step, name))) for name in inputs
            },
            "OUTPUTS": {name: ChannelParameter(type=one.type) for name, one in outputs.items()},
        },
    )
    title = "".join(part.capitalize() for part in step.name.split("_"))
    component_class = type(
        title,
        (StepComponent,),
        {"SPEC_CLASS": spec_class, "__module__": __name__, "__doc__": step.summary},
    )
    made: StepComponent = component_class(spec_class(**inputs, **outputs, **parameters))
    return made.with_id(node_id or step.name)  # type: ignore[no-any-return]


def _input_type(step: Step, key: str) -> type[Artifact]:
    return step.inputs[key.partition(FAMILY_SEPARATOR)[0]].type


def _flatten(step: Step, channels: Mapping[str, Any]) -> dict[str, Any]:
    """Return one channel a key; each member of a family has its own key."""
    flat: dict[str, Any] = {}
    for name, spec in step.inputs.items():
        if name not in channels:
            if spec.optional:
                continue
            raise ParameterError(
                f"step {step.name} needs input {name}",
                remedy=f"give {name}= a channel of a {spec.type.__name__}",
            )
        if spec.family:
            flat |= {f"{name}{FAMILY_SEPARATOR}{k}": c for k, c in channels[name].items()}
        else:
            flat[name] = channels[name]
    return flat
