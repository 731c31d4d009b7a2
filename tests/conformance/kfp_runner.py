"""Runs a compiled Kubeflow package as Kubeflow's driver and launcher do.

No Kubernetes: one real process a task, one after another. What those two do
that a step could trip over is done here as well:

- the package is parsed as the backend's own messages, strictly, with what its second
  document asks of Kubernetes, which nothing here acts on;
- a component's defaults are filled in by the launcher, and every number is a
  double;
- placeholders are replaced in no fixed order;
- inputs come with an empty type;
- of the outputs' paths only the parent folders exist, and the folder of the
  output file does not;
- the output file is parsed strictly, and only its URIs and metadata are kept;
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec import pipeline_spec_pb2 as pb
from tests.conformance import warm_paring

Paring = Callable[[Sequence[str]], subprocess.CompletedProcess[str]]
"""What stands for the image's `paring`: runs it with these arguments, to its end."""


def command_paring(*command: str) -> Paring:
    """`paring` as a process of that command, or of this interpreter."""
    start = command or (sys.executable, "-m", "paring_pipelines.main")

    def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*start, *arguments], capture_output=True, text=True, check=False, env=_environment()
        )

    return run


@contextmanager
def forked_paring() -> Iterator[Paring]:
    """`paring` as a process that has imported TensorFlow before; see `warm_paring`."""
    with (
        tempfile.TemporaryDirectory(prefix="warm-paring-") as folder,
        subprocess.Popen(
            [sys.executable, warm_paring.__file__, str(Path(folder, "output"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_environment(),
        ) as server,
    ):
        if server.stdin is None or server.stdout is None:
            raise RuntimeError("a process without its pipes")
        asked, told = server.stdin, server.stdout

        def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
            asked.write(json.dumps(list(arguments)) + "\n")
            asked.flush()
            code = told.readline()
            if not code:
                raise RuntimeError(f"the process that forks ended with {server.wait()}")
            shown = Path(folder, "output").read_text(errors="replace")
            return subprocess.CompletedProcess(list(arguments), int(code), shown, "")

        # Its input ends with this block, and with that the process.
        yield run


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@dataclass
class PackageRun:
    """What a run made.

    Attributes:
        artifacts: Each task's outputs by name.
        arguments: The command of each task, as it was run.
    """

    artifacts: dict[str, dict[str, pb.RuntimeArtifact]] = field(default_factory=dict)
    arguments: dict[str, list[str]] = field(default_factory=dict)

    def path(self, task: str, output: str) -> Path:
        """Where an output lies."""
        return Path(self.artifacts[task][output].uri)

    def metadata(self, task: str, output: str) -> dict[str, Any]:
        """What the metadata store would hold of an output."""
        found: dict[str, Any] = json_format.MessageToDict(self.artifacts[task][output].metadata)
        return found


def run_package(
    package: Path, root: Path, parameters: Mapping[str, str], paring: Paring | None = None
) -> PackageRun:
    """Run the pipeline in the file `package` below the folder `root`.

    Args:
        package: What the compiler wrote.
        root: The pipeline root.
        parameters: The pipeline's own, as a user submits them.
        paring: What stands for `paring`; fresh processes of this interpreter if not given.

    Raises:
        RuntimeError: A task failed; its output is in the message.
    """
    first, *more = yaml.safe_load_all(package.read_text())
    spec = json_format.ParseDict(first, pb.PipelineSpec(), ignore_unknown_fields=False)
    given = _pipeline_parameters(spec, parameters)
    executors = json_format.MessageToDict(spec.deployment_spec)["executors"]
    _check_platform(more, executors)
    run = PackageRun()
    paring = paring or command_paring()
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
            uri = values[executor["importer"]["artifactUri"]["runtimeParameter"]].string_value
            run.artifacts[name] = {"artifact": pb.RuntimeArtifact(name=f"{name}-artifact", uri=uri)}
            continue
        executor_input = _executor_input(name, task, made, values, run, root)
        _start(name, executor["container"], executor_input, run, paring)
        run.artifacts[name] = _collect(name, executor_input)
    return run


def _check_platform(documents: Sequence[Any], executors: Mapping[str, Any]) -> None:
    """Parse what is asked of Kubernetes as the driver does, for each executor."""
    if not documents:
        return
    (document,) = documents
    platform = json_format.ParseDict(document, pb.PlatformSpec(), ignore_unknown_fields=False)
    configs = platform.platforms["kubernetes"].deployment_spec.executors
    for name, config in configs.items():
        if name not in executors:
            raise ValueError(f"the second document names an executor that is not there: {name}")
        json_format.ParseDict(
            json_format.MessageToDict(config),
            KubernetesExecutorConfig(),
            ignore_unknown_fields=False,
        )


def _pipeline_parameters(spec: Any, parameters: Mapping[str, str]) -> dict[str, Any]:
    declared = spec.root.input_definitions.parameters
    unknown = set(parameters) - set(declared)
    if unknown:
        raise ValueError(f"the pipeline has no parameter {sorted(unknown)}")
    values: dict[str, Any] = {}
    for name, one in declared.items():
        values[name] = type(one.default_value)()
        if name in parameters:
            values[name].string_value = parameters[name]
        elif one.is_optional:
            values[name].CopyFrom(one.default_value)
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
    name: str, task: Any, made: Any, values: Mapping[str, Any], run: PackageRun, root: Path
) -> Any:
    message = pb.ExecutorInput()
    for key, value in values.items():
        message.inputs.parameter_values[key].CopyFrom(value)
    for key, one in made.input_definitions.parameters.items():
        if key not in values:
            message.inputs.parameter_values[key].CopyFrom(one.default_value)
    for key, source in task.inputs.artifacts.items():
        wanted = source.task_output_artifact
        artifact = message.inputs.artifacts[key].artifacts.add()
        artifact.CopyFrom(run.artifacts[wanted.producer_task][wanted.output_artifact_key])
        artifact.type.instance_schema = ""
    for key, output in made.output_definitions.artifacts.items():
        artifact = message.outputs.artifacts[key].artifacts.add()
        artifact.name = f"{name}-{key}"
        artifact.type.CopyFrom(output.artifact_type)
        artifact.uri = str(root / name / key)
        Path(artifact.uri).parent.mkdir(parents=True, exist_ok=True)
    message.outputs.output_file = str(root / ".outputs" / name / "output_metadata.json")
    return message


def _start(
    name: str, container: Mapping[str, Any], message: Any, run: PackageRun, paring: Paring
) -> None:
    placeholders = {"{{$}}": json_format.MessageToJson(message, indent=None)}
    for key, value in message.inputs.parameter_values.items():
        text = value.string_value
        if value.HasField("number_value"):
            text = str(value.number_value)
        elif value.HasField("bool_value"):
            text = str(value.bool_value).lower()
        placeholders[f"{{{{$.inputs.parameters['{key}']}}}}"] = text
    template = [*container.get("command", []), *container.get("args", [])]
    arguments = [_replace(one, list(placeholders.items())) for one in template]
    backwards = [_replace(one, list(reversed(placeholders.items()))) for one in template]
    if arguments != backwards:
        raise RuntimeError(f"{name}: the command depends on the order of replacement")
    if arguments[0] != "paring":
        raise RuntimeError(f"{name}: the command is not paring: {arguments[0]}")
    run.arguments[name] = arguments
    done = paring(arguments[1:])
    if done.returncode:
        raise RuntimeError(f"task {name} ended with {done.returncode}\n{done.stdout}{done.stderr}")


def _replace(text: str, placeholders: Sequence[tuple[str, str]]) -> str:
    for placeholder, value in placeholders:
        text = text.replace(placeholder, value)
    return text


def _collect(name: str, message: Any) -> dict[str, pb.RuntimeArtifact]:
    """Merge what the task told into its outputs, and upload them."""
    told = pb.ExecutorOutput()
    output_file = Path(message.outputs.output_file)
    if output_file.exists():
        json_format.Parse(output_file.read_text(), told, ignore_unknown_fields=False)
    outputs: dict[str, pb.RuntimeArtifact] = {}
    for key, entries in message.outputs.artifacts.items():
        artifact = entries.artifacts[0]
        if key in told.artifacts:
            first = told.artifacts[key].artifacts[0]
            artifact.uri = first.uri or artifact.uri
            artifact.metadata.update(json_format.MessageToDict(first.metadata))
        _upload(Path(artifact.uri))
        outputs[key] = artifact
    uploaded = {Path(one.uri).name for one in outputs.values()}
    for left in Path(next(iter(outputs.values())).uri).parent.iterdir():
        if left.name not in uploaded:
            raise RuntimeError(f"task {name} left {left.name} beside its outputs")
    return outputs


def _upload(path: Path) -> None:
    """Leave of `path` what an object store would hold."""
    if path.is_dir():
        folders = sorted((one for one in path.rglob("*") if one.is_dir()), reverse=True)
        for folder in [*folders, path]:
            if not any(folder.iterdir()):
                shutil.rmtree(folder)
