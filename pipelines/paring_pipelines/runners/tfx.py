"""The Dag on TFX: nodes as components, SQLite metadata, local or Beam runner.

TFX's parts are imported one by one: `tfx.v1` would load every component of TFX and
Google Cloud's clients, which takes a third longer.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from apache_beam.options.pipeline_options import StandardOptions
from ml_metadata.metadata_store import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.components.common.importer import Importer
from tfx.orchestration import metadata
from tfx.orchestration.beam.beam_dag_runner import BeamDagRunner
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.pipeline import Pipeline

from paring.adapters.step_processes import Execute
from paring.adapters.tfx import NodeEvent, component, executors, observers, tfx_type
from paring.artifacts import Artifact
from paring.errors import OutputError, ParingError, StepFailedError
from paring.execution import execute
from paring.system import interruption, logs
from paring_pipelines.pipeline.dag import Dag, Edge, Wire

Runner = Literal["local", "beam"]

_RUNNERS = {"local": LocalDagRunner, "beam": BeamDagRunner}


@dataclass
class RunResult:
    """Outputs of a run.

    Attributes:
        outputs: The path of each output by node id and output name.
        cached: The ids of the nodes whose earlier result was taken.
        nodes: How many nodes there are.
    """

    outputs: dict[str, dict[str, Path]] = field(default_factory=dict)
    cached: list[str] = field(default_factory=list)
    nodes: int = 0


def to_pipeline(
    dag: Dag,
    paths: Mapping[str, Path],
    digests: Mapping[str, str],
    identities: Mapping[str, str],
    root: Path,
) -> Pipeline:
    """Return `dag` as a TFX pipeline below `root`.

    Args:
        dag: The wiring.
        paths: Where each of the Dag's sources lies.
        digests: The content digest of each; a file that changed at its old
            path is imported as a new artifact by it.
        identities: What `Dag.identities` gave.
        root: The folder for artifacts and metadata.
    """
    importers = {
        name: Importer(
            source_uri=str(paths[name]),
            artifact_type=tfx_type(kind),
            # Of another name than any fact of ours, which the type may have as well.
            custom_properties={"source_digest": digests[name]},
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
        pipeline_root=str(root / "artifacts"),
        components=[*importers.values(), *made.values()],
        metadata_connection_config=_metadata_config(root),
        enable_cache=True,
    )


def run(
    pipeline: Pipeline,
    dag: Dag,
    root: Path,
    runner: Runner = "local",
    observer: Callable[[NodeEvent], None] | None = None,
    *,
    executor: Execute = execute,
    retry_failed: bool = True,
) -> RunResult:
    """Run `pipeline` and say where its outputs lie.

    Args:
        pipeline: What `to_pipeline` made.
        dag: What it was made from.
        root: The folder given to `to_pipeline`.
        runner: `local`, TFX's LocalDagRunner, or `beam`, its BeamDagRunner on
            Beam's in-process runner. Both run one node after another.
        observer: Called when a node starts and ends.
        executor: Runs the step of a node.
        retry_failed: Whether the next run tries again what broke in this one.

    Raises:
        ParingError: A step raised it.
        StepFailedError: A node broke in another way.
    """
    failed: list[NodeEvent] = []

    def watch(event: NodeEvent) -> None:
        interruption.check()
        if event.error is not None:
            failed.append(event)
        if observer is not None:
            observer(event)

    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            "--out: this folder can't be written",
            received=f"{root} ({error.strerror})",
            remedy="give a folder that you may write to",
        ) from error
    _forget_changed(root)
    with _listed(observers, watch), _listed(executors, executor), _quiet(), _in_process_beam():
        try:
            _RUNNERS[runner]().run(pipeline)
        except Exception as error:
            interruption.check()
            # Beam wraps what a node raised; the node's own error says more.
            if failed and failed[0].error is not None:
                raise failed[0].error from None
            # It wraps Ctrl-C as well, wherever in its own code that fell.
            if _was_interrupted(error):
                raise KeyboardInterrupt from None
            raise StepFailedError(
                "the pipeline could not be run", received=f"{type(error).__name__}: {error}"
            ) from error
    return _result(dag, root, retry_failed)


def _was_interrupted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _metadata_config(root: Path) -> metadata_store_pb2.ConnectionConfig:
    return metadata.sqlite_metadata_connection_config(str(root / "metadata.sqlite"))


def _result(dag: Dag, root: Path, retry_failed: bool) -> RunResult:
    """Read the latest run's executions and their outputs from the metadata."""
    store = MetadataStore(_metadata_config(root))
    latest = max(run.id for run in store.get_contexts_by_type("pipeline_run"))
    executions = {one.id: one for one in store.get_executions_by_context(latest)}
    artifacts = {one.id: one for one in store.get_artifacts_by_context(latest)}
    nodes = {
        execution.id: context.name.removeprefix(f"{dag.name}.")
        for execution in executions.values()
        for context in store.get_contexts_by_execution(execution.id)
        if context.type == "node"
    }
    result = RunResult(nodes=len(dag.nodes))
    for event in store.get_events_by_execution_ids(list(executions)):
        node = nodes[event.execution_id]
        if event.type == metadata_store_pb2.Event.OUTPUT and node in dag.nodes:
            path = Path(artifacts[event.artifact_id].uri)
            result.outputs.setdefault(node, {})[event.path.steps[0].key] = path
    cached = {
        nodes[one.id]
        for one in executions.values()
        if one.last_known_state == metadata_store_pb2.Execution.CACHED
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
    broken = [one for one in artifacts if one.custom_properties["outcome"].string_value == "failed"]
    _abandon(store, broken)


def _abandon(store: MetadataStore, artifacts: Sequence[metadata_store_pb2.Artifact]) -> None:
    """Keep artifacts out of the cache."""
    for artifact in artifacts:
        artifact.state = metadata_store_pb2.Artifact.ABANDONED
    store.put_artifacts(artifacts)


def _forget_changed(root: Path) -> None:
    """Keep what is no longer what its step wrote out of the cache, so that it is made again."""
    if not (root / "metadata.sqlite").exists():
        return
    store = MetadataStore(_metadata_config(root))
    changed = [artifact for artifact in store.get_artifacts() if not _is_as_written(artifact)]
    for artifact in changed:
        logs.event("artifact changed since it was written", path=artifact.uri)
    _abandon(store, changed)


def _is_as_written(artifact: metadata_store_pb2.Artifact) -> bool:
    """Return whether an artifact in use has the digest that was published."""
    # Looking up a key that is not there would put an empty value there.
    named = (
        properties["digest"].string_value
        for properties in (artifact.properties, artifact.custom_properties)
        if "digest" in properties
    )
    digest = next((value for value in named if value), "")
    if artifact.state != metadata_store_pb2.Artifact.LIVE or not digest:
        return True
    try:
        found = Artifact.load(Path(artifact.uri))
        found.verify()
    except (ParingError, OSError):
        return False
    return found.digest == digest


@contextmanager
def _listed(ones: list[Any], one: Any) -> Iterator[None]:
    ones.append(one)
    try:
        yield
    finally:
        ones.remove(one)


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
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
