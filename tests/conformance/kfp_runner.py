"""Runs a compiled Kubeflow package as Kubeflow's driver and launcher do.

No Kubernetes: one real process a task, one after another. What those two do
that a step could trip over is done here as well:

- contexts, executions, events and artifacts are in a real metadata store, from which each
  task's inputs are read, and a cache answers for tasks that it knows; see `kfp_metadata`;
- the package is parsed as the backend's own messages, strictly, with what its second
  document asks of Kubernetes, which nothing here acts on;
- a component's defaults are filled in by the launcher, and every number is a
  double;
- placeholders are replaced in no fixed order;
- inputs come with an empty type;
- of the outputs' paths only the parent folders exist, and the folder of the
  output file does not;
- the output file is parsed strictly, and only its URIs and metadata are kept;
- each task has one more output, its log, of which the step knows nothing;
- what is uploaded is the output's path alone, and an object store holds no
  empty folders.

URIs are plain paths, which Kubeflow's rule maps to themselves, since a test may
not write to /minio.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2 as pb
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tests.conformance import warm_paring
from tests.conformance.kfp_metadata import OF_THE_LAUNCHER, Metadata, Run, fingerprint
from tests.helpers import warm_measuring

LOGS = "executor-logs"
"""The output that gets what a task shows."""


@dataclass(frozen=True)
class Task:
    """One task of a package, ready to be run.

    Attributes:
        name: Its key in the package.
        command: The command with its arguments, placeholders replaced.
        container: The container's part of the package: image and resources.
        kubernetes: What the package's second document asks for it; empty for nothing.
        retries: How often a failed attempt is repeated.
    """

    name: str
    command: tuple[str, ...]
    container: Mapping[str, Any]
    kubernetes: KubernetesExecutorConfig
    retries: int = 0


Start = Callable[[Task], subprocess.CompletedProcess[str]]
"""Runs a task's container to its end, and gives its exit code and all that it showed."""


def command_paring(*command: str) -> Start:
    """A process of that command, or of this interpreter, in place of a container's `paring`."""
    start = command or (sys.executable, "-m", "paring_pipelines.cli.main")

    def run(task: Task) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*start, *task.command[1:]],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
        )

    return run


@contextmanager
def forked_paring() -> Iterator[Start]:
    """A process that has imported TensorFlow before, for each task; see `warm_paring`."""
    # All processes of the tests have the same one.
    warm_measuring.start_server()
    with (
        tempfile.TemporaryDirectory(prefix="warm-paring-") as folder,
        subprocess.Popen(
            [sys.executable, warm_paring.__file__, str(Path(folder, "output"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(Path(warm_measuring.__file__).parent),
        ) as server,
    ):
        if server.stdin is None or server.stdout is None:
            raise RuntimeError("a process without its pipes")
        asked, result = server.stdin, server.stdout

        def run(task: Task) -> subprocess.CompletedProcess[str]:
            asked.write(json.dumps(task.command[1:]) + "\n")
            asked.flush()
            code = result.readline()
            if not code:
                raise RuntimeError(f"the process that forks ended with {server.wait()}")
            shown = Path(folder, "output").read_text(errors="replace")
            return subprocess.CompletedProcess(list(task.command), int(code), shown, "")

        # Its input ends with this block, and with that the process.
        yield run


def _environment(*more: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [*sys.path, *map(str, more)]))}


@dataclass
class PackageRun:
    """Outputs of a run.

    Attributes:
        metadata_store: Where the driver and the launcher noted it.
        context: The run's place in that store.
        artifacts: Each task's outputs by name, its log excepted.
        commands: The command of each task that was run, so not of those that are cached.
        cached: The tasks for which the cache answered.
    """

    metadata_store: Metadata
    context: Run
    artifacts: dict[str, dict[str, pb.RuntimeArtifact]] = field(default_factory=dict)
    commands: dict[str, list[str]] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)

    def path(self, task: str, output: str) -> Path:
        """Return the path of an output."""
        return Path(self.artifacts[task][output].uri)

    def metadata(self, task: str, output: str) -> dict[str, Any]:
        """Return an output's metadata in the store, except what the launcher adds."""
        result: dict[str, Any] = json_format.MessageToDict(self.artifacts[task][output].metadata)
        return {name: value for name, value in result.items() if name not in OF_THE_LAUNCHER}


def run_package(
    package: Path,
    root: Path,
    parameters: Mapping[str, str],
    start: Start | None = None,
    metadata: Metadata | None = None,
) -> PackageRun:
    """Run the pipeline in the file `package` below the folder `root`.

    Args:
        package: What the compiler wrote.
        root: The pipeline root.
        parameters: The pipeline's own, as a user submits them.
        start: What runs each container; fresh processes of this interpreter if not given.
        metadata: The metadata store and cache; new ones if not given.

    Raises:
        RuntimeError: A task failed; its output is in the message.
        ml_metadata.errors.AlreadyExistsError: A task takes one artifact twice.
    """
    first, *more = yaml.safe_load_all(package.read_text())
    spec = json_format.ParseDict(first, pb.PipelineSpec(), ignore_unknown_fields=False)
    given = _pipeline_parameters(spec, parameters)
    executors = json_format.MessageToDict(spec.deployment_spec)["executors"]
    configs = _kubernetes_configs(more, executors)
    metadata = metadata or Metadata()
    pipeline, run_id = spec.pipeline_info.name, str(uuid.uuid4())
    place = root / pipeline / run_id
    run = PackageRun(metadata, metadata.open_run(pipeline, run_id, str(place), given))
    start = start or command_paring()
    for name, task in _in_order(spec.root.dag):
        made = spec.components[task.component_ref.name]
        executor = executors[made.executor_label]
        values = {
            key: given[value.component_input_parameter]
            if value.component_input_parameter
            else value.runtime_value.constant
            for key, value in task.inputs.parameters.items()
        }
        if "importer" in executor:
            importer = executor["importer"]
            uri = values[importer["artifactUri"]["runtimeParameter"]].string_value
            title = importer["typeSchema"]["schemaTitle"]
            metadata.import_artifact(run.context, name, title, uri)
        else:
            message = _executor_input(name, task, made, values, run, place)
            config = configs.get(made.executor_label, KubernetesExecutorConfig())
            _run_container(name, task, made, executor["container"], config, message, run, start)
        outputs = metadata.outputs(run.context, name)
        outputs.pop(LOGS, None)
        run.artifacts[name] = outputs
    return run


def _run_container(
    name: str,
    task: Any,
    made: Any,
    container: Mapping[str, Any],
    config: KubernetesExecutorConfig,
    message: Any,
    run: PackageRun,
    start: Start,
) -> None:
    """Do the driver's work for a task, then the launcher's, unless the cache answers."""
    store, place = run.metadata_store, run.context
    mark = fingerprint(message, container) if task.caching_options.enable_cache else ""
    inputs = {key: list(given.artifacts) for key, given in message.inputs.artifacts.items()}
    parameters = dict(message.inputs.parameter_values)
    known = store.cached(place, mark) if mark else None
    store.create(place, name, parameters, inputs, mark)
    if known is not None:
        reused = {key: int(known[key].name) for key in message.outputs.artifacts}
        store.publish(place, name, reused, mlmd.Execution.CACHED)
        run.cached.append(name)
        return
    store.start(place, name, pod=f"{name}-executor")
    # The launcher fills these in, after the driver has made the fingerprint.
    for key, item in made.input_definitions.parameters.items():
        if key not in message.inputs.parameter_values:
            message.inputs.parameter_values[key].CopyFrom(item.default_value)
    for given in message.outputs.artifacts.values():
        Path(given.artifacts[0].uri).parent.mkdir(parents=True, exist_ok=True)
    command = _command(name, container, message)
    run.commands[name] = command
    done = start(Task(name, tuple(command), container, config, task.retry_policy.max_retry_count))
    log = message.outputs.artifacts[LOGS].artifacts[0]
    # One for each attempt.
    log.uri += "-0"
    Path(log.uri).write_text(done.stdout + done.stderr)
    if done.returncode:
        store.publish(place, name, {LOGS: store.record(LOGS, log)}, mlmd.Execution.FAILED)
        raise RuntimeError(f"task {name} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    outputs = {key: store.record(key, item) for key, item in _collect(name, message).items()}
    store.publish(place, name, outputs, mlmd.Execution.COMPLETE)
    if mark:
        store.remember(place, name, mark)


def _kubernetes_configs(
    documents: Sequence[Any], executors: Mapping[str, Any]
) -> dict[str, KubernetesExecutorConfig]:
    """Parse what is asked of Kubernetes as the driver does, for each executor."""
    if not documents:
        return {}
    (document,) = documents
    platform = json_format.ParseDict(document, pb.PlatformSpec(), ignore_unknown_fields=False)
    configs = platform.platforms["kubernetes"].deployment_spec.executors
    unknown = set(configs) - set(executors)
    if unknown:
        raise ValueError(f"the second document names executors that are not there: {unknown}")
    return {
        name: json_format.ParseDict(
            json_format.MessageToDict(config),
            KubernetesExecutorConfig(),
            ignore_unknown_fields=False,
        )
        for name, config in configs.items()
    }


def _pipeline_parameters(spec: Any, parameters: Mapping[str, str]) -> dict[str, Any]:
    declared = spec.root.input_definitions.parameters
    unknown = set(parameters) - set(declared)
    if unknown:
        raise ValueError(f"the pipeline has no parameter {sorted(unknown)}")
    values: dict[str, Any] = {}
    for name, item in declared.items():
        values[name] = type(item.default_value)()
        if name in parameters:
            values[name].string_value = parameters[name]
        elif item.is_optional:
            values[name].CopyFrom(item.default_value)
        else:
            raise ValueError(f"the pipeline needs parameter {name}")
    return values


def _in_order(dag: Any) -> Iterator[tuple[str, Any]]:
    """The tasks, each after those that it depends on."""
    waiting = dict(sorted(dag.tasks.items()))
    done: set[str] = set()
    while waiting:
        ready = [name for name, task in waiting.items() if done.issuperset(task.dependent_tasks)]
        if not ready:
            raise ValueError(f"these tasks wait for each other: {sorted(waiting)}")
        for name in ready:
            yield name, waiting.pop(name)
            done.add(name)


def _executor_input(
    name: str, task: Any, made: Any, values: Mapping[str, Any], run: PackageRun, place: Path
) -> Any:
    message = pb.ExecutorInput()
    for key, value in values.items():
        message.inputs.parameter_values[key].CopyFrom(value)
    for key, source in task.inputs.artifacts.items():
        wanted = source.task_output_artifact
        produced = run.metadata_store.outputs(run.context, wanted.producer_task)
        artifact = message.inputs.artifacts[key].artifacts.add()
        artifact.CopyFrom(produced[wanted.output_artifact_key])
        artifact.type.instance_schema = ""
    folder = place / name / str(uuid.uuid4())
    kinds = {key: item.artifact_type for key, item in made.output_definitions.artifacts.items()}
    kinds[LOGS] = pb.ArtifactTypeSchema(schema_title="system.Artifact")
    for key, kind in kinds.items():
        artifact = message.outputs.artifacts[key].artifacts.add()
        artifact.name = key
        artifact.type.CopyFrom(kind)
        artifact.uri = str(folder / key)
    message.outputs.output_file = str(place / ".outputs" / name / "output_metadata.json")
    return message


def _command(name: str, container: Mapping[str, Any], message: Any) -> list[str]:
    placeholders = {"{{$}}": json_format.MessageToJson(message, indent=None)}
    for key, value in message.inputs.parameter_values.items():
        text = value.string_value
        if value.HasField("number_value"):
            text = str(value.number_value)
        elif value.HasField("bool_value"):
            text = str(value.bool_value).lower()
        placeholders[f"{{{{$.inputs.parameters['{key}']}}}}"] = text
    template = [*container.get("command", []), *container.get("args", [])]
    command = [_replace(item, list(placeholders.items())) for item in template]
    backwards = [_replace(item, list(reversed(placeholders.items()))) for item in template]
    if command != backwards:
        raise RuntimeError(f"{name}: the command depends on the order of replacement")
    if command[0] != "paring":
        raise RuntimeError(f"{name}: the command is not paring: {command[0]}")
    return command


def _replace(text: str, placeholders: Sequence[tuple[str, str]]) -> str:
    for placeholder, value in placeholders:
        text = text.replace(placeholder, value)
    return text


def _collect(name: str, message: Any) -> dict[str, pb.RuntimeArtifact]:
    """Merge what the task reported into its outputs, and upload them."""
    result = pb.ExecutorOutput()
    output_file = Path(message.outputs.output_file)
    if output_file.exists():
        json_format.Parse(output_file.read_text(), result, ignore_unknown_fields=False)
    outputs: dict[str, pb.RuntimeArtifact] = {}
    for key, entries in message.outputs.artifacts.items():
        artifact = entries.artifacts[0]
        if key in result.artifacts:
            first = result.artifacts[key].artifacts[0]
            artifact.uri = first.uri or artifact.uri
            artifact.metadata.update(json_format.MessageToDict(first.metadata))
        _upload(Path(artifact.uri))
        outputs[key] = artifact
    uploaded = {Path(output.uri).name for output in outputs.values()}
    for left in Path(next(iter(outputs.values())).uri).parent.iterdir():
        if left.name not in uploaded:
            raise RuntimeError(f"task {name} left {left.name} beside its outputs")
    return outputs


def _upload(path: Path) -> None:
    """Leave of `path` what an object store would hold."""
    if path.is_dir():
        folders = sorted((item for item in path.rglob("*") if item.is_dir()), reverse=True)
        for folder in [*folders, path]:
            if not any(folder.iterdir()):
                shutil.rmtree(folder)
