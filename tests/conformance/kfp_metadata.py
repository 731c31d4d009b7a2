"""ML Metadata as Kubeflow's driver and launcher use it: contexts, executions, events, cache.

The store is the real ml_metadata library, so that what it refuses on a cluster is refused
here too: one artifact under two inputs of a task, above all. The order of the calls, the
names of types and properties, and what the cache's fingerprint is made of follow the driver
and the launcher of Kubeflow Pipelines 2.17.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format, struct_pb2
from kfp.pipeline_spec import pipeline_spec_pb2 as pb
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

_PIPELINE, _RUN = "system.Pipeline", "system.PipelineRun"
_DAG, _CONTAINER, _IMPORTER = (
    f"system.{kind}Execution" for kind in ("DAG", "Container", "Importer")
)

OF_THE_LAUNCHER = ("display_name", "store_session_info")
"""What the launcher adds to each artifact's properties."""

_SESSION = '{"Provider":"file","Params":{"fromEnv":"true"}}'


@dataclass
class Run:
    """One run's place in the store.

    Attributes:
        pipeline, run: The contexts that each of its executions belongs to.
        dag: The id of the execution that stands for the whole.
        executions: The id of each task's execution.
    """

    pipeline: mlmd.Context
    run: mlmd.Context
    dag: int
    executions: dict[str, int] = field(default_factory=dict)

    @property
    def contexts(self) -> list[mlmd.Context]:
        return [self.pipeline, self.run]


class Metadata:
    """A metadata store and the cache beside it, shared by all runs of a Kubeflow."""

    def __init__(self, file: Path | None = None) -> None:
        """Open the store in an SQLite file, or one in memory."""
        config = mlmd.ConnectionConfig()
        if file is None:
            config.fake_database.SetInParent()
        else:
            config.sqlite.filename_uri = str(file)
            config.sqlite.connection_mode = (
                mlmd.SqliteMetadataSourceConfig.ConnectionMode.READWRITE_OPENCREATE
            )
        self.store = metadata_store.MetadataStore(config)
        # Kubeflow keeps this in a table of its API server.
        self._cache: dict[tuple[str, str], int] = {}

    def open_run(self, pipeline: str, run_id: str, root: str, parameters: Mapping[str, Any]) -> Run:
        """Put the run's contexts and the execution of its root DAG there."""
        parent = self._context(_PIPELINE, pipeline, {})
        properties = {"pipeline_root": root, "store_session_info": _SESSION}
        child = self._context(_RUN, run_id, properties)
        if not self.store.get_parent_contexts_by_context(child.id):
            link = mlmd.ParentContext(child_id=child.id, parent_id=parent.id)
            self.store.put_parent_contexts([link])
        run = Run(parent, child, dag=0)
        run.dag = self._execution(run, _DAG, "", parameters, {}, {}, name=f"run/{run_id}")
        return run

    def create(
        self,
        run: Run,
        task: str,
        parameters: Mapping[str, Any],
        inputs: Mapping[str, Iterable[pb.RuntimeArtifact]],
        fingerprint: str = "",
    ) -> None:
        """Put a container's execution there, with an event for each artifact that it takes.

        Raises:
            ml_metadata.errors.AlreadyExistsError: It takes one artifact twice.
        """
        ids = {name: [int(item.name) for item in given] for name, given in inputs.items()}
        extra = {"cache_fingerprint": fingerprint} if fingerprint else {}
        extra |= {"pod_name": "", "pod_uid": "", "namespace": "", "image": ""}
        run.executions[task] = self._execution(run, _CONTAINER, task, parameters, ids, extra)

    def start(self, run: Run, task: str, pod: str) -> None:
        """Note which pod works on the task, as the launcher does first."""
        execution = self._get(run, task)
        for name, value in (("pod_name", pod), ("pod_uid", pod), ("namespace", "tests")):
            execution.custom_properties[name].string_value = value
        execution.last_known_state = mlmd.Execution.RUNNING
        self.store.put_execution(execution, [], [])

    def publish(
        self, run: Run, task: str, outputs: Mapping[str, int], state: "mlmd.Execution.State"
    ) -> None:
        """End the task's execution, with the ids of the artifacts that it gave."""
        execution = self._get(run, task)
        execution.last_known_state = state
        pairs = [
            (None, _event(mlmd.Event.OUTPUT, name, identity)) for name, identity in outputs.items()
        ]
        self.store.put_execution(execution, pairs, run.contexts)

    def record(self, name: str, artifact: pb.RuntimeArtifact) -> int:
        """Put an output's artifact there, with its metadata as properties.

        Returns:
            Its id.

        Raises:
            ValueError: A value of the metadata has no form in ML Metadata.
        """
        # The compiled package names its types by their titles.
        kind = mlmd.ArtifactType(name=artifact.type.schema_title)
        properties = {key: _property(key, value) for key, value in artifact.metadata.fields.items()}
        properties.setdefault("display_name", mlmd.Value(string_value=name))
        properties.setdefault("store_session_info", mlmd.Value(string_value=_SESSION))
        entry = mlmd.Artifact(
            type_id=self.store.put_artifact_type(kind),
            uri=artifact.uri,
            state=mlmd.Artifact.LIVE,
            custom_properties=properties,
        )
        (identity,) = self.store.put_artifacts([entry])
        return int(identity)

    def import_artifact(self, run: Run, task: str, title: str, uri: str) -> None:
        """Do an importer's work: an artifact that this pipeline knows by its URI is reused."""
        run.executions[task] = self._execution(run, _IMPORTER, task, {}, {}, {})
        kind = self.store.put_artifact_type(mlmd.ArtifactType(name=title))
        properties = {"store_session_info": mlmd.Value(string_value=_SESSION)}
        entry = mlmd.Artifact(
            type_id=kind, uri=uri, state=mlmd.Artifact.LIVE, custom_properties=properties
        )
        result = next(
            (
                item.id
                for item in self.store.get_artifacts_by_uri(uri)
                if (item.type_id, item.state) == (entry.type_id, entry.state)
                and item.custom_properties["store_session_info"].string_value == _SESSION
                and any(
                    context.id == run.pipeline.id
                    for context in self.store.get_contexts_by_artifact(item.id)
                )
            ),
            None,
        )
        if result is None:
            (result,) = self.store.put_artifacts([entry])
        self.publish(run, task, {"artifact": int(result)}, mlmd.Execution.COMPLETE)

    def outputs(self, run: Run, task: str) -> dict[str, pb.RuntimeArtifact]:
        """Return the task's outputs by name, as later tasks get them: named by id, untyped."""
        return self._outputs(run.executions[task])

    def _outputs(self, execution: int) -> dict[str, pb.RuntimeArtifact]:
        names = {
            event.artifact_id: event.path.steps[0].key
            for event in self.store.get_events_by_execution_ids([execution])
            if event.type == mlmd.Event.OUTPUT
        }
        return {
            names[item.id]: _runtime_artifact(item)
            for item in self.store.get_artifacts_by_id(list(names))
        }

    def state(self, run: Run, task: str) -> str:
        """The last known state of the task's execution."""
        name: str = mlmd.Execution.State.Name(self._get(run, task).last_known_state)
        return name

    def cached(self, run: Run, fingerprint: str) -> dict[str, pb.RuntimeArtifact] | None:
        """The outputs of the last task of this pipeline with that fingerprint, if any."""
        execution = self._cache.get((run.pipeline.name, fingerprint))
        return None if execution is None else self._outputs(execution)

    def remember(self, run: Run, task: str, fingerprint: str) -> None:
        """Let this task's outputs answer for later ones with the same fingerprint."""
        self._cache[run.pipeline.name, fingerprint] = run.executions[task]

    def _context(self, kind: str, name: str, properties: Mapping[str, str]) -> mlmd.Context:
        result = self.store.get_context_by_type_and_name(kind, name)
        if result is None:
            context = mlmd.Context(
                type_id=self.store.put_context_type(mlmd.ContextType(name=kind)), name=name
            )
            for key, value in properties.items():
                context.custom_properties[key].string_value = value
            self.store.put_contexts([context])
            result = self.store.get_context_by_type_and_name(kind, name)
        return result

    def _execution(
        self,
        run: Run,
        kind: str,
        task: str,
        parameters: Mapping[str, Any],
        inputs: Mapping[str, list[int]],
        properties: Mapping[str, str],
        name: str = "",
    ) -> int:
        execution = mlmd.Execution(
            type_id=self.store.put_execution_type(mlmd.ExecutionType(name=kind)),
            last_known_state=mlmd.Execution.RUNNING,
            **({"name": name} if name else {}),
        )
        for key, value in {"display_name": task, "task_name": task, **properties}.items():
            execution.custom_properties[key].string_value = value
        if run.dag:
            execution.custom_properties["parent_dag_id"].int_value = run.dag
        if parameters:
            given = execution.custom_properties["inputs"].struct_value
            for key, value in parameters.items():
                given.fields[key].CopyFrom(value)
        pairs = [
            (None, _event(mlmd.Event.INPUT, key, identity))
            for key, ids in inputs.items()
            for identity in ids
        ]
        identity, _, _ = self.store.put_execution(execution, pairs, run.contexts)
        return int(identity)

    def _get(self, run: Run, task: str) -> mlmd.Execution:
        (result,) = self.store.get_executions_by_id([run.executions[task]])
        return result


def fingerprint(message: Any, container: Mapping[str, Any]) -> str:
    """Return the key of a task in Kubeflow's cache.

    Args:
        message: The ExecutorInput, before the component's defaults are filled in.
        container: The image and the command as they are in the package, with placeholders.
    """
    inputs = message.inputs
    key = {
        "inputArtifactNames": {
            name: [artifact.name for artifact in given.artifacts]
            for name, given in inputs.artifacts.items()
        },
        "inputParameterValues": {
            name: json_format.MessageToDict(value)
            for name, value in inputs.parameter_values.items()
        },
        "outputArtifactsSpec": {
            name: [artifact.name, json_format.MessageToDict(artifact.type)]
            for name, given in message.outputs.artifacts.items()
            for artifact in given.artifacts
        },
        "containerSpec": [
            container["image"],
            [*container.get("command", []), *container.get("args", [])],
        ],
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _event(kind: "mlmd.Event.Type", name: str, artifact: int) -> mlmd.Event:
    event = mlmd.Event(artifact_id=artifact, type=kind)
    event.path.steps.add().key = name
    return event


def _property(name: str, value: struct_pb2.Value) -> mlmd.Value:
    """A value of an artifact's metadata, in the form that the launcher gives it."""
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return mlmd.Value(string_value=value.string_value)
    if kind == "number_value":
        return mlmd.Value(double_value=value.number_value)
    if kind == "bool_value":
        return mlmd.Value(int_value=int(value.bool_value))
    wrapped = {"list_value": "list", "struct_value": "struct"}.get(str(kind))
    if wrapped is None:
        raise ValueError(f"the metadata {name} is null, which the launcher can't record")
    result = mlmd.Value()
    result.struct_value.fields[wrapped].CopyFrom(value)
    return result


def _runtime_artifact(artifact: mlmd.Artifact) -> pb.RuntimeArtifact:
    result = pb.RuntimeArtifact(name=str(artifact.id), uri=artifact.uri)
    for key, value in artifact.custom_properties.items():
        kind = value.WhichOneof("value")
        given = getattr(value, kind)
        result.metadata.update(
            {key: json_format.MessageToDict(given) if kind == "struct_value" else given}
        )
    return result
