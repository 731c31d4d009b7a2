"""The Dag on TFX: nodes as components, SQLite metadata, TFX's launcher or its Beam runner.

TFX's parts are imported one by one: `tfx.v1` would load every component of TFX and
Google Cloud's clients, which takes a third longer.
"""

import datetime
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import StandardOptions
from ml_metadata.errors import StatusError
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.compiler import constants
from tfx.dsl.compiler.compiler import Compiler
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration import metadata
from tfx.orchestration.beam.beam_dag_runner import BeamDagRunner
from tfx.orchestration.local import runner_utils
from tfx.orchestration.pipeline import Pipeline
from tfx.orchestration.portable import runtime_parameter_utils
from tfx.orchestration.portable.launcher import Launcher
from tfx.utils import telemetry_utils

from paring.adapters.step_processes import Execute
from paring.adapters.tfx import (
    RECORD_DIGEST,
    SOURCE_DIGEST,
    component,
    nodes_run_by,
    published_property,
    tfx_type,
)
from paring.artifacts import Artifact
from paring.errors import (
    ArtifactTypeError,
    OutputError,
    ParingError,
    StepFailedError,
    first_line,
)
from paring.execution import Call, execute
from paring.step import Step
from paring.system import interruption, logs
from paring_pipelines.pipeline.dag import Dag, Edge, Wire
from paring_pipelines.pipeline.settings import RunnerName
from paring_pipelines.runners.base import NodeEvent, Observer, RunResult, ignore
from paring_pipelines.runners.reuse import check_reusable
from paring_pipelines.runners.scheduler import Scheduler

_METADATA = "metadata.sqlite"


class TFXRunner:
    """Runner of graphs by TFX; see `paring_pipelines.runners.base.Runner`."""

    def __init__(
        self,
        paths: Mapping[str, Path],
        digests: Mapping[str, str],
        *,
        root: Path,
        kind: RunnerName = "local",
        execute: Execute = execute,
        jobs: int = 1,
    ) -> None:
        """Take the sources and the folder.

        Args:
            paths: Path of each source of the graphs.
            digests: Content digest of each; a file that changed at its old path is imported
                as a new artifact by it.
            root: Folder for the artifacts and the metadata.
            kind: `local`, TFX's launcher for one node after another or for several at the
                same time, or `beam`, its BeamDagRunner on Beam's in-process runner, which
                runs one node after another.
            execute: Runs the step of a node.
            jobs: Number of nodes to work on at the same time, with `local`. Steps whose
                result depends on the machine run alone.
        """
        self._paths = paths
        self._digests = digests
        self._root = root
        self._kind = kind
        self._execute = execute
        self._jobs = jobs

    def run(
        self,
        dag: Dag,
        identities: Mapping[str, str],
        observe: Observer = ignore,
        *,
        retry_failed: bool = True,
    ) -> RunResult:
        """Run `dag`; see `Runner.run`."""
        scheduler = Scheduler(self._jobs)
        run_node = _ObservedNodes(dag, observe, self._execute, scheduler)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                "--out: this folder can't be written",
                received=f"{self._root} ({error.strerror})",
                remedy="give a folder that you may write to",
            ) from error
        _forget_changed(self._root)
        pipeline = self._pipeline(dag, identities)
        with nodes_run_by(run_node, self._artifacts), _quiet(), _in_process_beam():
            try:
                if self._kind == "beam":
                    BeamDagRunner().run(pipeline)
                else:
                    _launch_nodes(dag, pipeline, scheduler)
            except Exception as error:
                interruption.raise_if_interrupted()
                if isinstance(run_node.error, ArtifactTypeError):
                    # By reading, since it passed when its times were looked at.
                    _forget_changed(self._root, thoroughly=True)
                # Beam wraps what a node raised; the node's own error says more.
                if run_node.error is not None:
                    raise run_node.error from None
                # It wraps Ctrl-C as well, wherever in its own code that fell.
                if _was_interrupted(error):
                    raise KeyboardInterrupt from None
                raise StepFailedError(
                    "the pipeline could not be run", received=f"{type(error).__name__}: {error}"
                ) from error
        return _result(dag, self._root, retry_failed)

    @property
    def _artifacts(self) -> Path:
        return self._root / "artifacts"

    def _pipeline(self, dag: Dag, identities: Mapping[str, str]) -> Pipeline:
        """Return `dag` as a TFX pipeline."""
        importers = {
            name: Importer(
                source_uri=str(self._paths[name]),
                artifact_type=tfx_type(kind),
                # Of another name than any fact of ours, which the type may have as well.
                custom_properties={SOURCE_DIGEST: self._digests[name]},
            ).with_id(name)
            for name, kind in dag.sources.items()
        }
        made: dict[str, Any] = {}

        def channel(edge: Edge) -> Any:
            if edge.node in importers:
                return importers[edge.node].outputs["result"]
            return made[edge.node].outputs[edge.output]

        def channels(wire: Wire) -> Any:
            if isinstance(wire, Edge):
                return channel(wire)
            return {key: channel(edge) for key, edge in wire.items()}

        for node in dag.nodes.values():
            made[node.id] = component(
                node.step,
                node_id=node.id,
                identity=identities[node.id],
                tolerate=node.tolerate,
                **{name: channels(wire) for name, wire in node.inputs.items()},
                **node.parameters,
            )
        return Pipeline(
            pipeline_name=dag.name,
            pipeline_root=str(self._artifacts),
            components=[*importers.values(), *made.values()],
            metadata_connection_config=_metadata_config(self._root),
            enable_cache=True,
        )


def _launch_nodes(dag: Dag, pipeline: Pipeline, scheduler: Scheduler) -> None:
    """Run a pipeline as TFX's LocalDagRunner does, with nodes at the same time."""
    compiled = Compiler().compile(pipeline)
    runtime_parameter_utils.substitute_runtime_parameter(
        compiled,
        {constants.PIPELINE_RUN_ID_PARAMETER_NAME: datetime.datetime.now().isoformat()},
    )
    nodes = {item.pipeline_node.node_info.id: item.pipeline_node for item in compiled.nodes}
    deployment = runner_utils.extract_local_deployment_config(compiled)
    connection = deployment.metadata_connection_config
    connection_config = getattr(connection, connection.WhichOneof("connection_config"))

    def launch(node: str) -> None:
        # The labels belong to a thread.
        with telemetry_utils.scoped_labels({telemetry_utils.LABEL_TFX_RUNNER: "local"}):
            Launcher(
                pipeline_node=nodes[node],
                mlmd_connection=metadata.Metadata(connection_config),
                pipeline_info=compiled.pipeline_info,
                pipeline_runtime_spec=compiled.runtime_spec,
                executor_spec=runner_utils.extract_executor_spec(deployment, node),
            ).launch()

    upstream = {name: node.upstream_nodes for name, node in nodes.items()}
    alone = [node.id for node in dag.nodes.values() if node.step.machine_dependent]
    scheduler.run(upstream, alone, launch)


class _ObservedNodes:
    """Runs the steps of a graph's nodes and reports their starts and ends.

    Attributes:
        error: First error that ended a node; None if there was none.
    """

    def __init__(self, dag: Dag, observe: Observer, execute: Execute, scheduler: Scheduler) -> None:
        self._dag = dag
        self._observe = observe
        self._execute = execute
        self._scheduler = scheduler
        self.error: BaseException | None = None

    def __call__(self, node_id: str, step: Step, call: Call) -> dict[str, Artifact]:
        node = self._dag.nodes[node_id]
        self._report(NodeEvent(node))
        start = time.monotonic()
        try:
            with logs.about(candidate=node.candidate):
                outputs = self._scheduler.work(lambda: self._execute(step, call))
        except BaseException as error:
            if self.error is None:
                self.error = error
            self._report(NodeEvent(node, time.monotonic() - start, error=error))
            raise
        self._report(NodeEvent(node, time.monotonic() - start, tuple(outputs.values())))
        return outputs

    def _report(self, event: NodeEvent) -> None:
        interruption.raise_if_interrupted()
        self._observe(event)


def _was_interrupted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _metadata_config(root: Path) -> metadata_store_pb2.ConnectionConfig:
    return metadata.sqlite_metadata_connection_config(str(root / _METADATA))


def _result(dag: Dag, root: Path, retry_failed: bool) -> RunResult:
    """Read the latest run's executions and their outputs from the metadata."""
    store = MetadataStore(_metadata_config(root))
    latest = max(run.id for run in store.get_contexts_by_type("pipeline_run"))
    executions = {item.id: item for item in store.get_executions_by_context(latest)}
    artifacts = {item.id: item for item in store.get_artifacts_by_context(latest)}
    # TFX names the context of a node for the pipeline and the node; an importer has one too.
    ids = {f"{dag.name}.{node}": node for node in (*dag.nodes, *dag.sources)}
    nodes = {
        execution.id: ids[context.name]
        for execution in executions.values()
        for context in store.get_contexts_by_execution(execution.id)
        if context.type == "node"
    }
    result = RunResult(nodes=len(dag.nodes))
    for event in store.get_events_by_execution_ids(list(executions)):
        node = nodes[event.execution_id]
        if event.type != metadata_store_pb2.Event.OUTPUT or node not in dag.nodes:
            continue
        name = event.path.steps[0].key
        if name in dag.nodes[node].step.outputs:
            result.outputs.setdefault(node, {})[name] = Path(artifacts[event.artifact_id].uri)
    cached = {
        nodes[item.id]
        for item in executions.values()
        if item.last_known_state == metadata_store_pb2.Execution.CACHED
    }
    result.cached = [node for node in dag.nodes if node in cached]
    if retry_failed:
        _forget_failures(store, artifacts.values())
    return result


def _forget_failures(
    store: MetadataStore, artifacts: Iterable[metadata_store_pb2.Artifact]
) -> None:
    """Keep what broke out of the cache, so that the next run tries it again.

    What a method does not support stays cached: it won't work next time.
    """
    broken = [
        artifact
        for artifact in artifacts
        if artifact.custom_properties["outcome"].string_value == "failed"
    ]
    _abandon(store, broken)


def _abandon(store: MetadataStore, artifacts: Sequence[metadata_store_pb2.Artifact]) -> None:
    """Keep artifacts out of the cache."""
    for artifact in artifacts:
        artifact.state = metadata_store_pb2.Artifact.ABANDONED
    store.put_artifacts(artifacts)


def _forget_changed(root: Path, *, thoroughly: bool = False) -> None:
    """Keep what is no longer what its step wrote out of the cache, so that it is made again.

    Args:
        root: Folder of the artifacts and the metadata.
        thoroughly: Read all files, those too that are older than their record.
    """
    file = root / _METADATA
    if not file.exists():
        return
    try:
        store = MetadataStore(_metadata_config(root))
        artifacts = store.get_artifacts()
    except (RuntimeError, StatusError) as error:
        raise OutputError(
            "--out: the metadata store of earlier runs can't be read",
            received=f"{file} ({first_line(error)})",
            remedy=f"remove {root}, then the run makes all results again",
        ) from error
    changed = [item for item in artifacts if not _is_as_written(item, thoroughly=thoroughly)]
    for artifact in changed:
        logs.event("artifact changed since it was written", path=artifact.uri)
    _abandon(store, changed)


def _is_as_written(artifact: metadata_store_pb2.Artifact, *, thoroughly: bool) -> bool:
    """Return whether an artifact in use has the digests that were published."""
    digest = published_property(artifact, "digest")
    record = published_property(artifact, RECORD_DIGEST)
    if artifact.state != metadata_store_pb2.Artifact.LIVE or not (digest or record):
        return True
    try:
        check_reusable(Path(artifact.uri), digest=digest, record=record, thoroughly=thoroughly)
    except (ParingError, OSError):
        return False
    return True


@contextmanager
def _in_process_beam() -> Iterator[None]:
    """Let Beam run in this process.

    BeamDagRunner takes no Beam options, and Beam's default, DirectRunner,
    first tries to download its Prism runner.
    """
    default = StandardOptions.DEFAULT_RUNNER
    StandardOptions.DEFAULT_RUNNER = "FnApiRunner"
    try:
        yield
    finally:
        StandardOptions.DEFAULT_RUNNER = default


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep TFX's and Beam's own logs back while a pipeline runs.

    Errors too: they tell of what `run` raises itself, Beam's with tracebacks.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "apache_beam", "tensorflow", "root")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for item, level in zip(loggers, levels, strict=True):
            item.setLevel(level)
