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

The component of `select` has an output more, `blessing`, TFX's ModelBlessing, by which TFX's
Pusher pushes the selected model only if it is within the limits.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tfx import types
from tfx.dsl.components.base import base_component, base_executor, executor_spec
from tfx.types import standard_artifacts, system_artifacts
from tfx.types.artifact import Property, PropertyType
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from paring.artifacts import (
    Artifact,
    Examples,
    Fact,
    Findings,
    Model,
    SelectedModel,
    Selection,
    Servable,
    artifact_types,
    record_digest,
)
from paring.catalog import find
from paring.errors import ParameterError, nearest
from paring.execution import Call, execute
from paring.selection.pareto import SOURCE
from paring.step import Step
from paring.system import logs

FAMILY_SEPARATOR = "__"
"""Between a family's name and a member's key, in a component's inputs."""

RECORD_DIGEST = "record_digest"
"""Custom property of each artifact: the digest of its record, which no digest of content covers."""

SOURCE_DIGEST = "source_digest"
"""Custom property of a run's sources: the content digest at the start of the run."""

BLESSING = "blessing"
"""Output of the component of `select`: a ModelBlessing, as TFX's Evaluator gives it."""

_STEP, _IDENTITY, _TOLERATE = "paring_step", "paring_identity", "paring_tolerate"

# ML Metadata holds neither bools nor lists; see `_stored`.
_PROPERTY_TYPES = {
    bool: PropertyType.INT,
    int: PropertyType.INT,
    float: PropertyType.FLOAT,
    str: PropertyType.STRING,
    tuple: PropertyType.STRING,
}


NodeRunner = Callable[[str, Step, Call], dict[str, Artifact]]
"""Runs the step of a node, which is given by its id; see `paring.execution.execute`."""

_node_runners: dict[Path, NodeRunner] = {}
"""By the root of the pipeline: TFX makes executors from their import path, and hands them
nothing else by which whoever runs a pipeline could be known."""


@contextmanager
def nodes_run_by(runner: NodeRunner, pipeline_root: Path) -> Iterator[None]:
    """Run the steps of the pipeline below `pipeline_root` by `runner`, in this process.

    Without it they are run as they are, in the process of their component.
    """
    if pipeline_root in _node_runners:
        raise ValueError(f"a pipeline below {pipeline_root} is running in this process")
    _node_runners[pipeline_root] = runner
    try:
        yield
    finally:
        del _node_runners[pipeline_root]


def _run_as_it_is(node: str, step: Step, call: Call) -> dict[str, Artifact]:
    return execute(step, call)


def _node_runner(call: Call) -> NodeRunner:
    """Return the runner of the pipeline that a call belongs to; its outputs lie below the root."""
    output = next(iter(call.outputs.values()))
    known = (_node_runners[folder] for folder in output.parents if folder in _node_runners)
    return next(known, _run_as_it_is)


def _is_standard(kind: type[Artifact]) -> bool:
    """Return whether TFX has its own type for this artifact type."""
    return kind in (Servable, Model, Examples)


def _system_type(kind: type[Artifact]) -> type[system_artifacts.SystemArtifact] | None:
    """Return ML Metadata's own type that this one is a kind of; None for reports."""
    if issubclass(kind, Servable):
        return system_artifacts.Model  # type: ignore[no-any-return]
    if issubclass(kind, Findings):
        return system_artifacts.Metrics  # type: ignore[no-any-return]
    return None


def _define(kind: type[Artifact]) -> type[types.Artifact]:
    if issubclass(kind, Examples):
        return standard_artifacts.Examples  # type: ignore[no-any-return]
    if _is_standard(kind):
        return standard_artifacts.Model  # type: ignore[no-any-return]
    types_of = {"digest": str, **kind.fact_types()}
    facts = {name: Property(_PROPERTY_TYPES[of]) for name, of in types_of.items()}
    body = {
        "TYPE_NAME": f"Paring{kind.__name__}",
        "PROPERTIES": facts,
        "TYPE_ANNOTATION": _system_type(kind),
        "__doc__": kind.__doc__,
        "__module__": __name__,
    }
    return type(f"Tfx{kind.__name__}", (types.Artifact,), body)


ARTIFACT_CLASSES: Mapping[str, type[types.Artifact]] = {
    name: _define(kind) for name, kind in artifact_types().items() if kind is not Artifact
}
# TFX finds artifact classes by their import path when it loads a pipeline.
globals().update({item.__name__: item for item in ARTIFACT_CLASSES.values()})

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
            {name: Path(output_dict[name][0].uri) for name in step.outputs},
            identity=parameters.pop(_IDENTITY),
            tolerate=bool(parameters.pop(_TOLERATE)),
            parameters=parameters,
            records=_known_digests(input_dict, RECORD_DIGEST),
            contents=_known_digests(input_dict, SOURCE_DIGEST),
        )
        node = self._context.pipeline_node.node_info.id
        with logs.about(run=self._context.pipeline_run_id, node=node):
            outputs = _node_runner(call)(node, step, call)
        for name, output in outputs.items():
            publish(output, output_dict[name][0])
        if BLESSING in output_dict:
            _bless(outputs.values(), input_dict, output_dict[BLESSING][0])


def _bless(
    outputs: Iterable[Artifact],
    input_dict: Mapping[str, list[types.Artifact]],
    blessing: types.Artifact,
) -> None:
    """Write a blessing by the names of TFX's Evaluator, whose constants import TensorFlow.

    Blessed is a selection in which a candidate passed. Where none did, the source is kept, and
    is not blessed. The current model is the selected candidate, the baseline the source.
    """
    by_type = {type(item): item for item in outputs}
    selection, selected = by_type[Selection], by_type[SelectedModel]
    blessed = isinstance(selection, Selection) and selection.passed > 0
    chosen = selected.candidate if isinstance(selected, SelectedModel) else ""
    for name, prefix in ((chosen, "current_model"), (SOURCE, "baseline_model")):
        for model in input_dict.get(f"candidates{FAMILY_SEPARATOR}{name}", ()):
            blessing.set_string_custom_property(prefix, model.uri)
            blessing.set_int_custom_property(f"{prefix}_id", model.id)
    folder = Path(blessing.uri)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ("BLESSED" if blessed else "NOT_BLESSED")).touch()
    blessing.set_int_custom_property("blessed", int(blessed))


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


def _known_digests(input_dict: Mapping[str, list[types.Artifact]], name: str) -> dict[Path, str]:
    """Return the property `name` of the inputs that have it, by path."""
    result = {
        Path(artifact.uri): published_property(artifact.mlmd_artifact, name)
        for artifacts in input_dict.values()
        for artifact in artifacts
    }
    return {path: digest for path, digest in result.items() if digest}


def published_property(artifact: Any, name: str) -> str:
    """Return a text among the properties or custom ones; "" without it.

    Args:
        artifact: The artifact as ML Metadata's protocol buffer.
        name: Name of the property.
    """
    # Looking up a key that is not there would put an empty value there.
    named = (
        properties[name].string_value
        for properties in (artifact.properties, artifact.custom_properties)
        if name in properties
    )
    return next((str(value) for value in named if value), "")


def publish(output: Artifact, artifact: types.Artifact) -> None:
    """Put digests and facts into the properties, or into custom ones of TFX's types."""
    declared = artifact.PROPERTIES or {}
    for name, fact in {"digest": output.digest, **output.facts()}.items():
        value = _stored(fact)
        if name in declared:
            setattr(artifact, name, value)
        elif isinstance(value, str):
            artifact.set_string_custom_property(name, value)
        elif isinstance(value, int):
            artifact.set_int_custom_property(name, value)
        else:
            artifact.set_float_custom_property(name, value)
    artifact.set_string_custom_property(RECORD_DIGEST, record_digest(output.path))
    if isinstance(output, Examples):
        artifact.split_names = '["train", "eval"]'
    if output.failure:
        artifact.set_string_custom_property("outcome", output.failure.outcome)
        artifact.set_string_custom_property("reason", output.failure.reason)


def _stored(fact: Fact) -> str | int | float:
    """Return a fact as ML Metadata holds it: a bool as 0 or 1, a tuple as a list in JSON."""
    if isinstance(fact, tuple):
        return json.dumps(fact)
    return int(fact) if isinstance(fact, bool) else fact


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
        _IDENTITY: f"{identity}:{uuid.uuid4().hex}" if step.side_effects else identity,
        _TOLERATE: int(tolerate),
    }
    inputs = _flatten(step, channels)
    outputs = {name: types.Channel(type=tfx_type(of)) for name, of in step.outputs.items()}
    if Selection in step.outputs.values():
        outputs[BLESSING] = types.Channel(type=standard_artifacts.ModelBlessing)
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
            "OUTPUTS": {name: ChannelParameter(type=item.type) for name, item in outputs.items()},
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
