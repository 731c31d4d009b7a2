"""A Step as a Kubeflow Pipelines component, and the program in its container.

    from paring.adapters.kfp import component
    from paring.steps.prune import prune

    prune_task = component(prune, image="registry/paring@sha256:...")

    @dsl.pipeline
    def pipeline(model_uri: str, examples_uri: str):
        ...
        pruned = prune_task(model=trained.outputs["model"], examples=..., sparsity=0.6)
        serve(model=pruned.outputs["pruned"])

Kubeflow knows only its own artifact types and no subtypes of them, so models
compile as system.Model, examples as system.Dataset and whatever holds figures
as system.Metrics, which Kubeflow's page of a run draws as a table. Paring's own
type stands in the artifact's metadata, as `paring_type`, beside the facts, and
is checked again, by the record, when a step starts.

The container's command is `paring step NAME --executor-input {{$}}`, which ends
in `run_executor_input`. kfp itself is imported only to make components, so that
containers start fast.
"""

import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paring.adapters.kfp_views import HTML, View, views
from paring.artifacts import Artifact, Examples, Fact, Findings, Servable, record_digest
from paring.errors import OutputError, ParameterError
from paring.execution import Call, execute
from paring.step import Step
from paring.system import logs
from paring.system.documents import parse_json

if TYPE_CHECKING:
    from kfp import dsl

FAMILY_SEPARATOR = "__"
"""Between a family's name and a member's key, in a component's inputs."""

SOURCE_DIGEST = "source_digest"
"""A parameter of every component: names the content of what the pipeline was
given, for Kubeflow's cache, which looks at URIs only."""

RECORD_DIGEST = "record_digest"
"""Metadata of each output: the digest of its record, which no digest of content covers."""

FAMILY_MEMBERS = "family_members"
"""A parameter of components with families: JSON, each member's input name to
its key, since a key may hold what an input's name can't."""

# An argument that a pipeline's author builds from a pipeline parameter brings
# that parameter along under such a name.
_INJECTED = "pipelinechannel--"

_UUID = "-".join(f"[0-9a-f]{{{count}}}" for count in (8, 4, 4, 4, 12))

_MOUNTS = {"gs://": "/gcs/", "s3://": "/s3/", "minio://": "/minio/"}


def kfp_type(kind: type[Artifact]) -> Any:
    """Return the class of kfp.dsl that stands for `kind`."""
    from kfp import dsl

    if issubclass(kind, Servable):
        return dsl.Model
    if issubclass(kind, Examples):
        return dsl.Dataset
    if issubclass(kind, Findings):
        return dsl.Metrics
    return dsl.Artifact


def member_inputs(step: Step, members: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """Return each family member's input name, with its family and its key.

    `prune-int8` of the family `benchmarks` becomes `benchmarks__prune_int8`;
    keys that are equal then are distinguished by a number.

    Args:
        step: The step.
        members: The keys of each family's members.

    Raises:
        ParameterError: A name in `members` is no family of the step.
    """
    named: dict[str, tuple[str, str]] = {}
    for family, keys in members.items():
        if family not in step.inputs or not step.inputs[family].family:
            families = [name for name, spec in step.inputs.items() if spec.family]
            raise ParameterError(
                f"step {step.name} has no family {family!r}",
                remedy=f"use one of its families: {', '.join(families) or 'none'}",
            )
        for key in keys:
            stem = f"{family}{FAMILY_SEPARATOR}{re.sub(r'[^A-Za-z0-9]', '_', key)}"
            name, count = stem, 1
            while name in named:
                count += 1
                name = f"{stem}_{count}"
            named[name] = (family, key)
    return named


def component(
    step: Step,
    *,
    image: str,
    members: Mapping[str, Sequence[str]] | None = None,
    name: str = "",
    identity: str = "",
    tolerate: bool = False,
) -> Any:
    """Return `step` as a component for use in a `@dsl.pipeline`.

    Its inputs, outputs and parameters are the step's; see `SOURCE_DIGEST`,
    `FAMILY_MEMBERS` and `paring.adapters.kfp_views` for what stands beside them. Call it with
    artifacts and parameters by name, a family's members by the names that
    `member_inputs` gives.

    Args:
        step: The step, such as `paring.steps.prune.prune`.
        image: The container image; named by its digest, a new one misses
            Kubeflow's cache.
        members: The keys of each family's members, in order: Kubeflow can't
            gather the artifacts of several tasks into one list.
        name: The component's name; the step's by default.
        identity: Names the work for Kubeflow's cache, which knows no step's
            code; the step's name and version by default.
        tolerate: Record a failure in the outputs instead of failing the task.

    Raises:
        ParameterError: A name in `members` is no family of the step.
    """
    from kfp import dsl

    named = member_inputs(step, members or {})
    digest = f"{{{{$.inputs.parameters['{SOURCE_DIGEST}']}}}}"
    command = ["paring", "step", step.name, "--executor-input", "{{$}}"]
    # One placeholder, no nested one: the launcher replaces in no fixed order.
    command += ["--identity", f"{identity or f'{step.name}@{step.version}'}:{digest}"]
    if tolerate:
        command.append("--tolerate")

    def container(*_: object) -> "dsl.ContainerSpec":
        return dsl.ContainerSpec(image=image, command=command)

    container.__name__ = name or step.name
    container.__doc__ = step.summary
    # kfp reads a component's interface from a function's signature.
    container.__signature__ = _signature(step, named)  # type: ignore[attr-defined]
    return dsl.container_component(container)


def _signature(step: Step, named: Mapping[str, tuple[str, str]]) -> inspect.Signature:
    from kfp import dsl

    required: list[inspect.Parameter] = []
    optional: list[inspect.Parameter] = []

    def add(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> None:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        entry = inspect.Parameter(name, kind, annotation=annotation, default=default)
        (required if default is inspect.Parameter.empty else optional).append(entry)

    for name, spec in step.inputs.items():
        annotation = dsl.Input[kfp_type(spec.type)]
        if spec.family:
            for input_name, (family, _) in named.items():
                if family == name:
                    add(input_name, annotation)
        elif spec.optional:
            add(name, annotation, None)
        else:
            add(name, annotation)
    for name, kind in step.outputs.items():
        add(name, dsl.Output[kfp_type(kind)])
        for view in views(kind):
            add(name + view.suffix, dsl.Output[dsl.HTML if view.suffix == HTML else dsl.Markdown])
    for name, parameter in step.parameters.items():
        add(name, parameter.type, parameter.default)
    if named:
        keys = {input_name: key for input_name, (_, key) in named.items()}
        add(FAMILY_MEMBERS, str, json.dumps(keys))
    add(SOURCE_DIGEST, str, "")
    return inspect.Signature([*required, *optional])


def local_path(uri: str) -> Path:
    """Return the local path at which Kubeflow's launcher places the object at `uri`."""
    for scheme, mount in _MOUNTS.items():
        if uri.startswith(scheme):
            return Path(mount + uri.removeprefix(scheme))
    if uri.startswith("oci://"):
        return Path("/oci", uri.removeprefix("oci://").replace("/", "_"), "models")
    return Path(uri)


def run_executor_input(
    step: Step, executor_input: str, *, identity: str = "", tolerate: bool = False
) -> None:
    """Run `step` as Kubeflow's launcher asks for it, and tell it the facts.

    Args:
        step: The step.
        executor_input: The JSON that the launcher puts in place of `{{$}}`.
            Its numbers are doubles, and of the outputs' paths only the parent
            folders exist. The types of inputs are not looked at, since the
            backend may leave them empty.
        identity: What the pipeline calls this work.
        tolerate: Record a failure in the outputs instead of raising it.

    Raises:
        ParameterError: The JSON is not an ExecutorInput of this step.
        ParingError: What `paring.execution.execute` raises.
    """
    document = _read(executor_input)
    try:
        given = document.get("inputs", {})
        values: dict[str, Any] = dict(given.get("parameterValues", {}))
        artifacts = {
            name: entry["artifacts"]
            for name, entry in given.get("artifacts", {}).items()
            # Empty for an optional input that is not given.
            if entry.get("artifacts")
        }
        targets = {
            name: entry["artifacts"][0]
            for name, entry in document["outputs"].get("artifacts", {}).items()
        }
        output_file = Path(document["outputs"]["outputFile"])
        members = parse_json(values.pop(FAMILY_MEMBERS, "{}"))
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise _unreadable(executor_input, f"{type(error).__name__}: {error}") from error
    values.pop(SOURCE_DIGEST, None)
    call = Call(
        _input_paths(step, artifacts, members),
        {name: local_path(targets[name]["uri"]) for name in step.outputs if name in targets},
        {name: value for name, value in values.items() if not name.startswith(_INJECTED)},
        tolerate=tolerate,
        identity=identity,
        records=_record_digests(artifacts),
    )
    with logs.about(**_place(step, targets)):
        outputs = execute(step, call)
    written = {name: _runtime_artifact(output, targets[name]) for name, output in outputs.items()}
    for name, output in outputs.items():
        for view in views(step.outputs[name]):
            target = targets.get(name + view.suffix)
            if target:
                _write_view(view, output, local_path(target["uri"]))
    try:
        output_file.parent.mkdir(parents=True, exist_ok=True)
        output_file.write_text(json.dumps({"artifacts": written}, allow_nan=False))
    except OSError as error:
        raise OutputError(
            "outputs.outputFile: this file can't be written",
            received=f"{output_file} ({error.strerror})",
            remedy="let the container's user write there",
        ) from error


def _place(step: Step, targets: Mapping[str, Any]) -> dict[str, str]:
    """Return the ids of the run and task, as the URIs of the task's outputs contain them.

    They lie at ROOT/PIPELINE/RUN/TASK/OUTPUT, in newer releases in a folder of a random
    name below the task's.
    """
    for name, target in targets.items():
        result = re.search(rf"/({_UUID})/([^/]+)/(?:[^/]+/)?{name}$", target["uri"])
        if result:
            run, node = result.groups()
            return {"run": run, "node": node, "candidate": candidate_of_task(step.name, node)}
    return {}


def candidate_of_task(step: str, task: str) -> str:
    """Return the candidate that a task works on; "" where it works for all.

    Of the graph's node a container knows the task's name alone, which is STEP-CANDIDATE, and
    STEP-CANDIDATE.2 where a recipe has a step twice, with dashes for underscores.

    Args:
        step: Name of the step.
        task: Name of the task.
    """
    prefix = f"{step}-".replace("_", "-")
    if not task.replace("_", "-").startswith(prefix):
        return ""
    return task[len(prefix) :].partition(".")[0]


def _read(executor_input: str) -> dict[str, Any]:
    try:
        document = parse_json(executor_input)
    except ValueError as error:
        raise _unreadable(executor_input, str(error)) from error
    if not isinstance(document, dict):
        raise _unreadable(executor_input, "it is no JSON object")
    return document


def _unreadable(executor_input: str, why: str) -> ParameterError:
    shown = executor_input if len(executor_input) <= 200 else f"{executor_input[:200]}..."
    return ParameterError(
        f"--executor-input is not Kubeflow's ExecutorInput ({why})",
        received=shown,
        remedy="let Kubeflow Pipelines 2 start this command; by hand, give paths as options",
    )


def _input_paths(
    step: Step, artifacts: Mapping[str, Any], members: Mapping[str, str]
) -> dict[str, Path | dict[str, Path]]:
    paths: dict[str, Path | dict[str, Path]] = {
        name: {} for name, spec in step.inputs.items() if spec.family
    }
    for name, entries in artifacts.items():
        if len(entries) != 1:
            raise ParameterError(
                f"{step.name}: input {name} takes one artifact",
                received=f"{len(entries)} artifacts",
                remedy="give each artifact to an input of its own",
            )
        path = local_path(entries[0]["uri"])
        family = paths.get(name.partition(FAMILY_SEPARATOR)[0])
        if name in members and isinstance(family, dict):
            family[members[name]] = path
        else:
            paths[name] = path
    return paths


def _record_digests(artifacts: Mapping[str, Any]) -> dict[Path, str]:
    """Return the digests of records that inputs have in their metadata, by path."""
    result: dict[Path, str] = {}
    for entries in artifacts.values():
        for entry in entries:
            digest = (entry.get("metadata") or {}).get(RECORD_DIGEST)
            if isinstance(digest, str):
                result[local_path(entry["uri"])] = digest
    return result


def _runtime_artifact(output: Artifact, target: Mapping[str, Any]) -> dict[str, Any]:
    """Return the launcher's record of an output, which may hold no other field."""
    metadata: dict[str, Fact] = {
        name: value
        for name, value in {"digest": output.digest, **output.facts()}.items()
        # JSON has no infinity and no nan.
        if not (isinstance(value, float) and not math.isfinite(value))
    }
    metadata["paring_type"] = type(output).__name__
    metadata[RECORD_DIGEST] = record_digest(output.path)
    if output.failure:
        metadata["outcome"] = output.failure.outcome
        metadata["reason"] = output.failure.reason
    runtime = {"name": target.get("name", ""), "uri": target["uri"], "metadata": metadata}
    return {"artifacts": [runtime]}


def _write_view(view: View, output: Artifact, target: Path) -> None:
    text = view.text(output)
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"what Kubeflow shows of {output.path.name} could not be written",
            received=f"{target} ({error.strerror})",
            remedy="let the container's user write there",
        ) from error
