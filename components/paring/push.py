"""Push the selected model to where it is served, as a new version."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from paring.artifacts import RECORD, PushedModel, SelectedModel, Selection, read_record
from paring.errors import ArtifactTypeError, ParameterError
from paring.pareto import SOURCE
from paring.step import Input, Output, step
from paring.versions import Version, publish, rolled_back, versions


@step(version="1", acts=True)
def push(
    selection: Input[Selection],
    selected: Input[SelectedModel],
    pushed: Output[PushedModel],
    *,
    destination: str = "",
    push_source: bool = False,
    run: str = "",
) -> None:
    """Push the selected model to a versioned destination, if it passed the gate.

    The layout is that of TF Serving: `DESTINATION/VERSION/saved_model.pb` and what
    belongs to it, `DESTINATION/VERSION/model.tflite` or `DESTINATION/VERSION/model.engine`;
    VERSION is the newest one's number plus 1. `paring.json` beside it holds the lineage
    and, as `figures`, the model's row of `selection.json`. The version is written beside
    its place, read back, loaded, run on a batch of zeros where the signature says its
    shape, and then put in place (`paring.versions`).

    Nothing is pushed, which is no error, and `note` says why:

    - if nothing passes the gate and the budgets;
    - if the source is kept, since it is what is served already, unless `push_source`;
    - if the model was pushed before and rolled back; `paring rollback --to` brings it
      back.

    A model that is the newest version already gets no second one.

    Args:
        selection: Of `select`.
        selected: Of the same `select`.
        pushed: `push.json`: what became of it.
        destination: A path, or a URI below gs://, s3:// or file://.
        push_source: Push the source model too, where it passes and nothing beats it.
        run: What started this, kept in the version's record.

    Raises:
        ParameterError: There is no destination, or the inputs are of two selections.
        ArtifactTypeError: `selection.json` or a version's record can't be read.
        ModelError, UnsupportedError: The model can't be loaded or run from there.
        OutputError, StorageError: The destination can't be read or written.
    """
    if not destination:
        raise ParameterError(
            "push: there is no destination", remedy="give a folder, gs://, s3:// or file://"
        )
    chosen = _chosen(selection)
    if selected.candidate != chosen["selected"]:
        raise ParameterError(
            "selected: this is not what was selected",
            received=f"{selected.candidate or 'a model without an id'}, not {chosen['selected']}",
            remedy="give both outputs of one run of select",
        )
    pushed.destination = destination
    pushed.note = _objection(selection, push_source)
    if pushed.note is None:
        with tempfile.TemporaryDirectory(prefix="paring-push-") as temporary:
            folder = Path(temporary) / "version"
            content = _lay_out(selected, folder, chosen)
            _push(content, folder, chosen, pushed, run)
    facts = {name: value for name, value in pushed.facts().items() if name != "digest"}
    pushed.file.write_text(json.dumps(facts, indent=2) + "\n")


def _chosen(selection: Selection) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(selection.file.read_text())
        content["row"] = next(
            row for row in content["candidates"] if row["id"] == content["selected"]
        )
        content["source"]["digest"]
    except (OSError, ValueError, LookupError, TypeError, StopIteration) as error:
        raise ArtifactTypeError(
            f"{selection.file} can't be read", received=error, remedy="make the artifact anew"
        ) from error
    return content


def _objection(selection: Selection, push_source: bool) -> str | None:
    """Why the selected model is not to be pushed, if there is a reason."""
    if not selection.passed:
        return "nothing passes the gate and the budgets"
    if selection.selected == SOURCE and not push_source:
        return "the source is kept, and push_source is off"
    return None


def _lay_out(selected: SelectedModel, folder: Path, chosen: dict[str, Any]) -> SelectedModel:
    """Write what a version's folder holds: the served files, and a record of them."""
    shutil.copytree(selected.serving_dir, folder)
    content = SelectedModel(
        folder,
        candidate=selected.candidate,
        size_bytes=selected.size_bytes,
        note=selected.note,
        lineage=selected.lineage,
    )
    content.save()
    figures = {name: value for name, value in chosen["row"].items() if name != "artifact"}
    record = (read_record(folder) or {}) | {"figures": figures}
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    return content


def _push(
    content: SelectedModel, folder: Path, chosen: dict[str, Any], pushed: PushedModel, run: str
) -> None:
    known = versions(pushed.destination)
    withdrawn = rolled_back(known)
    if content.digest in withdrawn:
        pushed.note = "this model was pushed before and rolled back"
        if number := withdrawn[content.digest]:
            pushed.note += f"; paring rollback {pushed.destination} --to {number} brings it back"
        return
    about = Version(
        action="push",
        candidate=content.candidate,
        source=chosen["source"]["digest"],
        run=run,
    )
    made = publish(pushed.destination, folder, about)
    pushed.version, pushed.model_digest = made.number, made.digest
    pushed.made = int(made.number not in [one.number for one in known])
