"""Push of the selected model to its serving destination, as a new version."""

import json
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paring.artifacts import (
    RECORD,
    PushedModel,
    RuntimeConfiguration,
    SelectedModel,
    Selection,
    content_digest,
    read_record,
)
from paring.artifacts.reading import content_of
from paring.errors import ParameterError
from paring.selection.pareto import SOURCE
from paring.step import Attempted, Input, Output, step
from paring.system.trees import copy_tree

if TYPE_CHECKING:
    from paring.serving.versions import Version

SETTINGS = "runtime.json"
"""Beside the served files: the settings of a configuration."""

BATCHING = "batching_parameters.txt"
"""Beside a SavedModel: the same for TF Serving."""


@step(version="5", side_effects=True)
def push(
    selection: Input[Selection],
    selected: Input[SelectedModel],
    configuration: Attempted[RuntimeConfiguration | None],
    pushed: Output[PushedModel],
    *,
    destination: str = "",
    push_source: bool = False,
    run: str = "",
) -> None:
    """Push the selected model to a versioned destination, if it passed the gate.

    The layout is that of TF Serving: `DESTINATION/VERSION/saved_model.pb` with the other
    files of a SavedModel, or instead `model.tflite`, `model.onnx`, OpenVINO's
    `model.xml` or TensorRT's `model.engine`; VERSION is the newest one's number plus 1.
    `paring.json` beside it holds the lineage and, as `figures`, the model's row of
    `selection.json`. The version is written beside its place, read back, loaded, run on
    a batch of zeros where the signature states its shape, and then renamed to its place
    (`paring.serving.versions`).

    Nothing is pushed, which is no error, and `note` states the reason:

    - if nothing passes the gate and the budgets;
    - if the source is selected, since it is served already, unless `push_source`;
    - if there is no configuration, since no setting is within the limits;
    - if the model was pushed before and rolled back; `paring rollback --to` restores it.

    A model that is the newest version already gets no second one.

    The settings of a configuration are stored beside the served files as `runtime.json`, for a
    SavedModel as TF Serving's `batching_parameters.txt` too, and are part of the version:
    other settings give another version. `paring.json` has its figures as `configuration`.
    Beside a TFLite file with variable tensors, `runtime.json` also states `holds_state`:
    whoever serves it resets them before each sequence.

    Examples:
        >>> pushed = paring.push(selection, selected, destination="versions")
        >>> pushed.version
        1

    Args:
        selection: Record of a selection by `select`.
        selected: Selected model of the same selection.
        configuration: Result of `tune_batch` for this model.
        pushed: Result of the push, `push.json`.
        destination: A path, or a URI below gs://, s3:// or file://.
        push_source: Push the source model too, if it passes and nothing beats it.
        run: Name of the run that pushes, kept in the version's record.

    Raises:
        ParameterError: There is no destination, the inputs are of two selections, or
            the configuration is another model's.
        ArtifactTypeError: `selection.json` or a version's record can't be read, the
            configuration states none, or the selected model has been changed since.
        ModelError, UnsupportedError: The model can't be loaded or run from there.
        OutputError, StorageError: The destination can't be read or written.
    """
    if not destination:
        raise ParameterError(
            "push: there is no destination", remedy="give a folder, gs://, s3:// or file://"
        )
    for judged in (selection, selected):
        judged.verify(thoroughly=True)
    chosen = _chosen(selection)
    if selected.candidate != chosen["selected"]:
        raise ParameterError(
            "selected: this is not the selected model",
            received=f"{selected.candidate or 'a model without an id'}, not {chosen['selected']}",
            remedy="give both outputs of one run of select",
        )
    _check_pair(selection, selected)
    if configuration is not None and configuration.failure is None:
        configuration.check()
        _check_tuned(configuration, selected)
    pushed.destination = destination
    pushed.note = _objection(selection, configuration, push_source)
    if pushed.note is None:
        from paring.serving.versions import Version

        with tempfile.TemporaryDirectory(prefix="paring-push-") as temporary:
            folder = Path(temporary) / "version"
            copy_tree(selected.serving_dir, folder)
            settings = _settings(configuration, folder)
            about = Version(
                action="push",
                candidate=selected.candidate,
                source=chosen["source"]["digest"],
                run=run,
                model=content_digest(folder) if settings else "",
                writer=uuid.uuid4().hex,
            )
            if settings:
                _write_settings(settings, folder)
            _lay_out(selected, configuration, folder, chosen)
            _push(folder, about, pushed, selected)
    pushed.write_facts(pushed.file)


def _chosen(selection: Selection) -> dict[str, Any]:
    with content_of(selection.file) as content:
        rows = {row["id"]: row for row in content["candidates"]}
        content["source"]["digest"]
        return {**content, "row": rows[content["selected"]]}


def _objection(
    selection: Selection, configuration: RuntimeConfiguration | None, push_source: bool
) -> str | None:
    """Return the reason why the selected model is not pushed, if there is one."""
    if not selection.passed:
        return "nothing passes the gate and the budgets"
    if selection.selected == SOURCE and not push_source:
        return "the source is kept, and push_source is off"
    if configuration is not None and configuration.failure is not None:
        # The list of what was tried stands in the configuration and the report.
        return f"it could not be tuned: {configuration.failure.reason.splitlines()[0]}"
    return None


def _check_pair(selection: Selection, selected: SelectedModel) -> None:
    """Refuse a model that its record states to be a copy of another one than was chosen."""
    candidates = (selection.lineage.get("inputs") or {}).get("candidates") or {}
    chosen = candidates.get(selected.candidate, {}).get("digest")
    copied = selected.lineage.get("copy_of", {}).get("digest")
    if chosen and copied and copied != chosen:
        raise ParameterError(
            f"selected: this {selected.candidate} is not the one that the selection chose",
            received=f"a copy of {copied}, not of {chosen}",
            remedy="give both outputs of one run of select",
        )


def _check_tuned(configuration: RuntimeConfiguration, selected: SelectedModel) -> None:
    """Refuse a configuration that its record states to be another model's."""
    inputs = configuration.lineage.get("inputs", {})
    tuned = (inputs.get("candidate") or inputs.get("source", {})).get("digest")
    copied = selected.lineage.get("copy_of", {}).get("digest")
    if tuned and tuned not in (selected.digest, copied):
        raise ParameterError(
            "configuration: it is the configuration of another model",
            received=tuned,
            remedy="run tune_batch on the selected model",
        )


def _lay_out(
    selected: SelectedModel,
    configuration: RuntimeConfiguration | None,
    folder: Path,
    chosen: dict[str, Any],
) -> None:
    """Add the other files of a version's folder to the served files, and a record of all."""
    added: dict[str, Any] = {
        "figures": {name: value for name, value in chosen["row"].items() if name != "artifact"}
    }
    if configuration is not None:
        added["configuration"] = {"digest": configuration.digest, **configuration.facts()}
    content = SelectedModel(
        folder,
        candidate=selected.candidate,
        size_bytes=selected.size_bytes,
        note=selected.note,
        signature=selected.signature,
        dropped_signatures=selected.dropped_signatures,
        lineage=selected.lineage,
    )
    content.save()
    record = (read_record(folder) or {}) | added
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def _settings(configuration: RuntimeConfiguration | None, folder: Path) -> dict[str, Any]:
    """Return the settings for a server, without figures, which differ from run to run."""
    from paring.models.tflite_files import holds_state

    settings: dict[str, Any] = {}
    if configuration is not None:
        names = ("batch_size", "threads", "instances", "gpu_memory_mb")
        settings = {name: getattr(configuration, name) for name in names}
    file = folder / "model.tflite"
    if file.is_file() and holds_state(file):
        settings["holds_state"] = True
    return settings


def _write_settings(settings: dict[str, Any], folder: Path) -> None:
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")
    if (folder / "saved_model.pb").is_file():
        (folder / BATCHING).write_text(
            "# tensorflow_model_server --enable_batching --batching_parameters_file=THIS_FILE"
            f" --tensorflow_intra_op_parallelism={settings['threads']}\n"
            f"max_batch_size {{ value: {settings['batch_size']} }}\n"
            f"num_batch_threads {{ value: {settings['instances']} }}\n"
        )


def _push(folder: Path, about: "Version", pushed: PushedModel, selected: SelectedModel) -> None:
    from paring.serving.versions import publish, versions, withdrawn_version

    known = versions(pushed.destination)
    digest = content_digest(folder)
    number = withdrawn_version(known, digest, about.model or digest)
    if number is not None:
        pushed.note = "this model was pushed before and rolled back"
        if number:
            pushed.note += f"; paring rollback {pushed.destination} --to {number} brings it back"
        return
    made = publish(
        pushed.destination,
        folder,
        about,
        signature=selected.signature,
        trusted=selected.trusted,
        engine_trusted=selected.engine_trusted,
    )
    pushed.version, pushed.model_digest = made.number, made.digest
    pushed.made = made.writer == about.writer
