"""One run of the pipeline on this machine: from two paths to a folder of results."""

import fcntl
import hashlib
import importlib.util
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from paring import storage
from paring.artifacts import (
    RECORD,
    Artifact,
    PushedModel,
    RuntimeConfiguration,
    SelectedModel,
    content_digest,
)
from paring.errors import (
    ExamplesError,
    MissingDependencyError,
    ModelError,
    OutputError,
    ParingError,
)
from paring.evaluation.metrics import Metric, function_digest
from paring.execution import environment
from paring.models.quiet import quiet_tensorflow
from paring.selection.candidates import SelectionResult
from paring.system import hardware
from paring.system.documents import read_json
from paring_pipelines.pipeline.dag import Dag
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import Recipe
from paring_pipelines.pipeline.settings import LOCAL_DEFAULTS, LocalSettings, Settings
from paring_pipelines.runners.base import Observer, Runner, RunResult, ignore
from paring_pipelines.runners.locations import RESULTS, Destination
from paring_pipelines.runners.mlflow_tracking import log_results
from paring_pipelines.runners.recorded_run import find_recorded_run, record_run
from paring_pipelines.runners.scheduler import default_jobs

PIPELINE_DIR = "pipeline"
"""Below --out: the artifacts of every node, and the metadata store."""


@dataclass(frozen=True)
class PublishedRun:
    """Results of a run that were put in place.

    Attributes:
        selection: The selection.
        selected: The folder of the selected model.
        report: The report's file.
        cached: The nodes whose earlier result was taken.
        nodes: How many nodes there are.
        import_seconds: How long it took to load TFX and TensorFlow.
        uri: Where the results were put as well; "" for nowhere.
        tuned: Result of tuning the selected model; None if that was not requested.
        pushed: Result of pushing it; None if that was not requested.
    """

    selection: SelectionResult
    selected: Path
    report: Path
    cached: list[str]
    nodes: int
    import_seconds: float
    uri: str = ""
    tuned: RuntimeConfiguration | None = None
    pushed: PushedModel | None = None


@dataclass(frozen=True)
class Progress:
    """Callbacks on the progress of a run.

    Attributes:
        planned: Called with the Dag before anything runs.
        observed: Called at each node's start and end.
    """

    planned: Callable[[Dag], None] = lambda dag: None
    observed: Observer = ignore


def run(
    model: Path,
    examples: Path,
    *,
    recipes: Sequence[Recipe],
    settings: Settings,
    out: Path | Destination,
    local: LocalSettings = LOCAL_DEFAULTS,
    progress: Progress = Progress(),
) -> PublishedRun:
    """Try `recipes` on `model`, measure, choose, and write the results to `out`.

    Args:
        model: A SavedModel or TFX Model folder, or a .keras or .h5 file.
        examples: An .npz file, a folder or file of TFRecords, or a TFX
            Examples folder.
        recipes: What to try.
        settings: The gate and all else that shapes the pipeline.
        out: Gets report.html, selection.json, selected/ and pipeline/; of a
            `Destination` the folder gets them, and the store all but the last.
        local: The runner, and the limits of each step.
        progress: Callbacks on the progress of the run.

    Raises:
        ParingError: Of the class that fits; what `out` held before is intact.
    """
    dag = build(recipes, resolve_settings(settings, model))
    with opened(model, examples, out=out, local=local) as place:
        result = place.run(dag, progress)
        return place.publish(result)


def resolve_settings(settings: Settings, model: Path) -> Settings:
    """Return `settings` with defaults resolved: a title, and the metric's digest."""
    if Metric(settings.metric).is_function:
        settings = replace(settings, metric_digest=function_digest(settings.metric))
    return replace(settings, title=settings.title or model.name)


class Workspace:
    """Locked folder for the results of runs.

    Attributes:
        root: Holds the artifacts of every node and the metadata store.
        digests: The content digest of each source.
        machine: A digest of the hardware and libraries that measurements depend on.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        out: Destination,
        *,
        local: LocalSettings,
        resources: ExitStack,
    ) -> None:
        self._paths = paths
        self._out = out
        self._local = local
        self._resources = resources
        self._opened: Runner | None = None
        self._import_seconds = 0.0
        self.root = out.folder / PIPELINE_DIR
        errors: dict[str, type[ParingError]] = {"model": ModelError, "examples": ExamplesError}
        self.digests = {name: content_digest(path, errors[name]) for name, path in paths.items()}
        self.machine = _machine()

    def identities(self, dag: Dag) -> dict[str, str]:
        """Compute the identity of each node's work; see `Dag.identities`."""
        return dag.identities(self.digests, self.machine)

    def run(
        self, dag: Dag, progress: Progress = Progress(), *, retry_failed: bool = True
    ) -> RunResult:
        """Run `dag`; what was there before is not touched.

        Args:
            dag: Takes the sources `model` and `examples`.
            progress: Callbacks on the progress of the run.
            retry_failed: Whether the next run tries again what broke in this one.

        Raises:
            ParingError: Of the class that fits.
        """
        identities = self.identities(dag)
        _check_tfx()
        progress.planned(dag)
        recorded = find_recorded_run(self.root, dag, identities)
        if recorded is not None:
            return recorded
        # TFX takes many seconds to import: all that can fail fast is behind us.
        result = self._runner().run(dag, identities, progress.observed, retry_failed=retry_failed)
        if retry_failed:
            record_run(self.root, dag, identities=identities, result=result)
        return result

    def _runner(self) -> Runner:
        """Return the runner, which is opened at the first call and closed with the folder."""
        start = time.monotonic()
        if self._opened is None:
            from paring.adapters.step_processes import step_processes

            # Its process imports TensorFlow meanwhile.
            jobs = 1 if self._local.runs_one_at_a_time else self._local.jobs or default_jobs()
            processes = step_processes(self._local.limits, jobs=jobs)
            execute = self._resources.enter_context(processes)
            quiet_tensorflow()
            from paring_pipelines.runners.tfx import TFXRunner

            self._opened = TFXRunner(
                self._paths,
                self.digests,
                root=self.root,
                kind=self._local.runner,
                execute=execute,
                jobs=jobs,
            )
            self._import_seconds = time.monotonic() - start
        return self._opened

    def publish(self, result: RunResult) -> PublishedRun:
        """Put the results of a run in place, each by a rename; then into the store, and to MLflow.

        Raises:
            ArtifactTypeError: One has been changed since its step wrote it.
            OutputError, StorageError: A place can't be written.
        """
        made = {
            "report.html": result.outputs["report"]["report"] / "report.html",
            "selection.json": result.outputs["select"]["selection"] / "selection.json",
            "selected": result.outputs["select"]["selected"],
        }
        for path in (result.outputs["report"]["report"], *result.outputs["select"].values()):
            Artifact.load(path).verify(thoroughly=True)
        folder = self._out.folder
        for name in RESULTS:
            storage.put(made[name], str(folder / name))
        for name in RESULTS:
            self._out.publish(name)
        selection = SelectionResult.read(folder / "selection.json")
        log_results(selection, [folder / "selection.json", folder / "report.html"])
        return PublishedRun(
            selection=selection,
            selected=folder / "selected",
            report=folder / "report.html",
            cached=result.cached,
            nodes=result.nodes,
            import_seconds=self._import_seconds,
            uri=self._out.uri,
            tuned=RuntimeConfiguration.load(result.outputs["tune_batch"]["configuration"])
            if "tune_batch" in result.outputs
            else None,
            pushed=PushedModel.load(result.outputs["push"]["pushed"])
            if "push" in result.outputs
            else None,
        )


@contextmanager
def opened(
    model: Path,
    examples: Path,
    *,
    out: Path | Destination,
    local: LocalSettings = LOCAL_DEFAULTS,
) -> Iterator[Workspace]:
    """Make `out` ours, for one run or several on the same sources.

    Raises:
        ModelError: There is nothing at `model`.
        ExamplesError: There is nothing at `examples`.
        OutputError: `out` can't be written, is in use, or is not Paring's.
        ParameterError: A local setting is invalid.
        StorageError: The store can't be reached.
    """
    local.check()
    given = out if isinstance(out, Destination) else Destination(out)
    out = replace(given, folder=given.folder.absolute())
    paths = {"model": model.absolute(), "examples": examples.absolute()}
    check_sources(model, examples)
    out.check()
    with lock_workspace(out.folder), ExitStack() as resources:
        yield Workspace(paths, out, local=local, resources=resources)


def check_sources(model: Path, examples: Path) -> None:
    """Refuse paths that hold nothing, by the option that they were given with.

    Raises:
        ModelError, ExamplesError: One of them does.
    """
    _check_source(
        "--model", model, error=ModelError, wanted="a SavedModel folder, .keras or .h5 file"
    )
    _check_source("--examples", examples, error=ExamplesError, wanted="an .npz file or TFRecords")


def _check_source(
    option: str, path: Path, *, error: type[ModelError] | type[ExamplesError], wanted: str
) -> None:
    if not path.exists():
        raise error(f"{option}: path does not exist", received=path, remedy=f"give {wanted}")


def _check_tfx() -> None:
    if importlib.util.find_spec("tfx") is None:
        raise MissingDependencyError(
            "TFX, which runs pipelines on one machine, is not installed here",
            remedy="install it by `make setup`; an image runs single steps, and pipelines on a "
            "cluster (`paring step`, `paring compile`)",
        )


def _machine() -> str:
    """Return a digest of the hardware and libraries that measurements depend on."""
    facts = json.dumps([hardware.describe(), environment()], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


@contextmanager
def lock_workspace(out: Path) -> Iterator[None]:
    """Make the folder `out` ours for now.

    Raises:
        OutputError: It can't be written, is in use, or is not Paring's.
    """
    root = out / PIPELINE_DIR
    taken = [name for name in (*RESULTS, PIPELINE_DIR) if (out / name).exists()]
    if taken and not (root / "lock").exists() and not _has_results(out):
        raise OutputError(
            "--out: this folder holds files that Paring did not write",
            received=f"{out} ({', '.join(taken)})",
            remedy="give a new or empty folder",
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / "lock").open("w")
    except OSError as error:
        raise OutputError(
            "--out: this folder can't be written",
            received=f"{out} ({error.strerror})",
            remedy="give a folder that you may write to",
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(
                "--out: another run is using this folder",
                received=out,
                remedy="wait for it, or give another folder",
            ) from error
        yield


def _has_results(out: Path) -> bool:
    """Return whether a run has left its results in `out`, from which pipeline/ was removed."""
    try:
        SelectedModel.load(out / "selected").verify(thoroughly=True)
        # Not as a SelectionResult, since another release may have written other figures.
        selected = read_json(out / "selection.json")["selected"]
    except (ParingError, OSError, ValueError, KeyError, TypeError):
        return False
    return isinstance(selected, str) and (out / "selected" / RECORD).is_file()
