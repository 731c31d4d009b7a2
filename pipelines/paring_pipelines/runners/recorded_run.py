"""Record of the last complete run, which answers for a run of exactly the same work.

TFX takes seconds to import and to look up each node in its cache. Where nothing has changed
since the last run, its record and the records of the artifacts say all that is needed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paring import storage
from paring.artifacts import Artifact, record_digest
from paring.errors import ParingError
from paring.system.documents import read_json
from paring_pipelines.pipeline.dag import Dag
from paring_pipelines.runners.base import RunResult
from paring_pipelines.runners.reuse import check_reusable

_FILE = "last_run.json"
_METADATA = "metadata.sqlite"


def record_run(root: Path, dag: Dag, *, identities: Mapping[str, str], result: RunResult) -> None:
    """Write the record of a run, unless a part of it has to be tried again.

    Args:
        root: Folder of the artifacts and the metadata store.
        dag: The graph.
        identities: Result of `Dag.identities`.
        result: Outputs of the run.
    """
    file = root / _FILE
    file.unlink(missing_ok=True)
    if any(node.step.side_effects for node in dag.nodes.values()):
        return
    nodes: dict[str, Any] = {}
    for node in dag.nodes:
        outputs: dict[str, Any] = {}
        for name, path in result.outputs[node].items():
            artifact = Artifact.load(path)
            if artifact.failure is not None and artifact.failure.outcome == "failed":
                return
            outputs[name] = {
                "path": str(path.relative_to(root)),
                "digest": artifact.digest,
                "record": record_digest(path),
            }
        nodes[node] = {"identity": identities[node], "outputs": outputs}
    with storage.written_beside(file) as staged:
        staged.write_text(json.dumps(nodes, indent=2) + "\n")
        storage.replace(staged, file)


def find_recorded_run(root: Path, dag: Dag, identities: Mapping[str, str]) -> RunResult | None:
    """Return the outputs of the last run if it was of the same work and they are intact.

    Args:
        root: Folder of the artifacts and the metadata store.
        dag: The graph.
        identities: Result of `Dag.identities`.

    Returns:
        The result, with all nodes cached; None if a node has to be looked up or run.
    """
    if not (root / _METADATA).is_file():
        return None
    try:
        recorded = read_json(root / _FILE)
        if {node: item["identity"] for node, item in recorded.items()} != dict(identities):
            return None
        outputs = {
            node: {name: _intact(root, known) for name, known in item["outputs"].items()}
            for node, item in recorded.items()
        }
    except (ParingError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    if any(set(outputs[node.id]) != set(node.step.outputs) for node in dag.nodes.values()):
        return None
    return RunResult(outputs, list(dag.nodes), len(dag.nodes))


def _intact(root: Path, known: Mapping[str, str]) -> Path:
    """Return the path of an output.

    Raises:
        ParingError, OSError: It is not what was recorded.
    """
    path = root / known["path"]
    check_reusable(path, digest=known["digest"], record=known["record"])
    return path
