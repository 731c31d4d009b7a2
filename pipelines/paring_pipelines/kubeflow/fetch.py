"""The selected model and the report of a finished run, on this machine: `paring fetch`.

They are found by their records, see `paring_pipelines.kubeflow.run_artifacts`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from paring.artifacts import RECORD, content_digest, read_record
from paring.errors import ClusterError, OutputError, StorageError
from paring.storage import Entry, fetch, list_below, put
from paring_pipelines.kubeflow.run_artifacts import run_root
from paring_pipelines.kubeflow.types import FINISHED, Run

_WANTED = {
    "selected": ("select", "selected", ""),
    "selection.json": ("select", "selection", "selection.json"),
    "report.html": ("report", "report", "report.html"),
}
"""What is fetched: the task, its output, and the file in it, "" for the whole."""


@dataclass(frozen=True)
class Fetched:
    """Paths of the fetched results.

    Attributes:
        selected: The selected model's folder.
        selection: selection.json.
        report: report.html.
    """

    selected: Path
    selection: Path
    report: Path


def fetch_run(run: Run, out: Path, *, pipeline_root: str = "", pipeline: str = "") -> Fetched:
    """Download the results of `run` to `out`, each checked by its digest, then renamed.

    Args:
        run: A run of Paring's pipeline that has succeeded.
        out: Gets selected/, selection.json and report.html, as `paring run --out` does.
        pipeline_root: Where the run's artifacts lie; the run's own if not given.
        pipeline: The pipeline's name, where Kubeflow does not tell it.

    Raises:
        ClusterError: The run has not succeeded.
        ParameterError: Nobody says where its artifacts lie.
        StorageError: They are not there, or not as they were made.
        OutputError: `out` can't be written, or holds something else.
    """
    check_succeeded(run)
    root = run_root(run, pipeline_root, pipeline)
    _check_replaceable(out)
    entries = list(list_below(root))
    result = {
        name: _newest(root, entries, task=task, output=output)
        for name, (task, output, _) in _WANTED.items()
    }
    with TemporaryDirectory() as folder:
        fetched: dict[str, Path] = {}
        for name, (_, _, file) in _WANTED.items():
            local = fetch(result[name], Path(folder, name))
            _check_whole(result[name], local)
            fetched[name] = local / file if file else local
        for name, path in fetched.items():
            put(path, str(out / name))
    return Fetched(*(out / name for name in _WANTED))


def check_succeeded(run: Run) -> None:
    """Refuse a run that has no results.

    Raises:
        ClusterError: It has not succeeded.
    """
    if run.state != "SUCCEEDED":
        raise ClusterError(
            f"the run {run.name} has not succeeded",
            received=run.state or "not started",
            remedy="look at it with `paring status`"
            if run.state in FINISHED
            else "wait for it; `paring status` says how far it is",
        )


def _newest(root: str, entries: Sequence[Entry], *, task: str, output: str) -> str:
    """Return the URI of a task's output, of the last attempt that wrote it."""
    records = [
        entry
        for entry in entries
        if entry.uri.endswith(f"/{output}/{RECORD}") and f"/{task}/" in entry.uri
    ]
    if not records:
        raise StorageError(
            f"the task {task} left no {output} there",
            received=root,
            remedy="check --pipeline-root; if Kubeflow took it from its cache, it lies with"
            " the run that made it: fetch that one",
        )
    return max(records, key=lambda item: item.modified or 0.0).uri.removesuffix(f"/{RECORD}")


def _check_whole(uri: str, folder: Path) -> None:
    record = read_record(folder) or {}
    recorded = record.get("digest")
    result = content_digest(folder)
    if result != recorded:
        raise StorageError(
            f"{uri} has been changed since it was written",
            received=result,
            remedy=f"run the pipeline again; its record states {recorded}",
        )


def _check_replaceable(out: Path) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if read_record(out / "selected") is None:
        raise OutputError(
            "--out: this path holds something that Paring did not write",
            received=out,
            remedy="give a new or empty folder",
        )
