"""Run one step on paths: what every adapter does once its inputs are local.

Checks types and parameters, gives the step an empty folder for each output,
writes each output's record with its lineage, and puts the folders in place by
renaming, so that a step that fails or is interrupted leaves what was there.
"""

import platform
import shutil
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paring import storage
from paring.artifacts import (
    DEFAULT_SIGNATURE,
    RECORD,
    Artifact,
    Examples,
    Failure,
    Servable,
    content_digest,
    read_record,
    record_digest,
)
from paring.errors import (
    ArtifactTypeError,
    ExamplesError,
    MissingDependencyError,
    ModelError,
    OutOfMemoryError,
    OutputError,
    ParameterError,
    ParingError,
    StepFailedError,
    UnsupportedError,
    first_line,
    nearest,
)
from paring.step import (
    GENERAL,
    SIGNATURE,
    TRUST_ENGINE,
    TRUST_MODEL,
    InputSpec,
    Scalar,
    Step,
)
from paring.system import accelerators, interruption, logs, tracing
from paring.system.distributions import installed_version
from paring.system.supervision import process_number
from paring.system.tpu import require_tpu, skip_metadata_server
from paring.system.workers import read_workers, require_workers
from paring.tensorrt.driver import find_gpu

_LIBRARIES = (
    "tensorflow",
    "tf-keras",
    "keras",
    "tensorflow-model-optimization",
    "ai-edge-litert",
    "numpy",
    "paring",
)


@dataclass(frozen=True)
class Call:
    """One run of a step.

    Attributes:
        inputs: A path for each input, or a mapping of paths for a family.
        outputs: The folder that each output shall become.
        parameters: Values as received; text and doubles are converted.
        tolerate: Record a failure in the outputs instead of raising it, so
            that one candidate that can't be built does not end the others.
        identity: What the caller calls this work, kept in the record.
        records: Digests of the records of inputs, by path, where they are known.
        contents: Content digests of inputs from outside, by path, where they are known.
    """

    inputs: Mapping[str, Path | Mapping[str, Path]]
    outputs: Mapping[str, Path]
    parameters: Mapping[str, object] = field(default_factory=dict)
    tolerate: bool = False
    identity: str = ""
    records: Mapping[Path, str] = field(default_factory=dict)
    contents: Mapping[Path, str] = field(default_factory=dict)


def execute(step: Step, call: Call) -> dict[str, Artifact]:
    """Run `step` and return its outputs by name, with their facts.

    Where TF_CONFIG names several workers, the first one alone writes the outputs; the
    others take part in training, and are refused everything else.

    Raises:
        ParameterError: Names or values of the call don't fit the step, or another worker
            than the first has called it.
        ArtifactTypeError: An input is of another type, or was changed since it was written.
        OutputError: An output folder can't be written, or holds other things.
        ParingError: Whatever the step raised, unless `call.tolerate`.
        KeyboardInterrupt: The user has interrupted, whatever became of the step.
    """
    start = time.monotonic()
    logs.event("step started", step=step.name)
    try:
        with tracing.span(step.name, step=step.name, version=step.version) as note:
            outputs = _execute(step, call)
            note(outcome=next((o.failure.outcome for o in outputs.values() if o.failure), "made"))
    except BaseException as error:
        logs.failure("step failed", step=step.name, seconds=_since(start), error=_described(error))
        raise
    for name, output in outputs.items():
        failure = output.failure
        logs.event(
            "step ended",
            step=step.name,
            seconds=_since(start),
            output=name,
            outcome=failure.outcome if failure else "made",
            reason=failure.reason if failure else "",
            digest=output.digest,
            facts=output.facts(),
        )
    return outputs


def failing(step: Step, error: BaseException) -> Step:
    """Return `step` with a function that raises `error`.

    Executed, it records or raises what has ended another process that executed the step, and
    removes what that process left unfinished.
    """

    def fail(**_: Any) -> None:
        raise error

    return replace(step, function=fail)


def _since(start: float) -> float:
    return round(time.monotonic() - start, 3)


def _described(error: BaseException) -> str:
    return str(error) if isinstance(error, ParingError) else f"{type(error).__name__}: {error}"


def _execute(step: Step, call: Call) -> dict[str, Artifact]:
    find_accelerator()
    parameters = step.parse_parameters(call.parameters)
    _check_names(step, "output", call.outputs, known=set(step.outputs), required=set(step.outputs))
    required = {n for n, s in step.inputs.items() if not (s.optional or s.family)}
    _check_names(step, "input", call.inputs, known=set(step.inputs), required=required)
    writes = _writes(step, parameters)
    inputs = {name: _load_input(name, spec, call) for name, spec in step.inputs.items()}
    trusted = bool(parameters.get(TRUST_MODEL))
    _trust(inputs, trusted=trusted, engine_trusted=bool(parameters.get(TRUST_ENGINE)))
    _choose_signature(inputs, str(parameters.get(SIGNATURE, "")))
    lineage = {
        "step": step.name,
        "version": step.version,
        "identity": call.identity,
        "parameters": parameters,
        "inputs": {name: _describe(value) for name, value in inputs.items()},
        "environment": environment(),
    }
    with _staged(call.outputs, keep=writes) as staged:
        outputs = {
            name: kind(staged[name], lineage={**lineage, "output": name})
            for name, kind in step.outputs.items()
        }
        # What is made of a trusted model may have to be opened by the step too.
        _trust(outputs, trusted=trusted, engine_trusted=True)
        _carry_signature(inputs, outputs)
        with _final_paths(staged, call.outputs):
            failure = _attempt(step, inputs, outputs, parameters=parameters, tolerate=call.tolerate)
        if failure is not None:
            failure = replace(failure, reason=_renamed(failure.reason, staged, call.outputs))
        # The step may have gone on without what was interrupted, or taken it for a failure.
        interruption.raise_if_interrupted()
        for output in outputs.values():
            if failure is not None:
                _empty(output.path)
                output.failure = failure
            output.save()
    for name, output in outputs.items():
        output.path = call.outputs[name]
    return outputs


def find_accelerator() -> None:
    """Look for the accelerator that the caller requests, before anything is computed without it.

    Raises:
        MissingDependencyError: It is not there.
    """
    skip_metadata_server()
    name, kind = accelerators.requested()
    try:
        if kind == "nvidia":
            find_gpu()
        elif kind == "tpu":
            require_tpu()
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"{accelerators.VARIABLE} requests {name}: {error.what}",
            received=error.received,
            remedy=error.remedy,
        ) from error


def _writes(step: Step, parameters: Mapping[str, Scalar]) -> bool:
    """Return whether this process writes the outputs: the first of workers that train together."""
    workers = read_workers()
    if workers is None or workers.leads:
        return True
    if parameters.get("strategy") in ("auto", "multi_worker"):
        return False
    raise ParameterError(
        f"TF_CONFIG names {len(workers.addresses)} workers; {step.name} runs on the first alone",
        received=f"worker {workers.index}, {workers.addresses[workers.index]}",
        remedy="run it on the first, or unset TF_CONFIG here; workers share trainings with"
        " strategy auto or multi_worker",
    )


def _attempt(
    step: Step,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Artifact],
    *,
    parameters: Mapping[str, Scalar],
    tolerate: bool,
) -> Failure | None:
    """Call the function; the failure to record, or None where it worked."""
    failed = [
        item.failure
        for name, item in inputs.items()
        if isinstance(item, Artifact) and item.failure and not step.inputs[name].attempted
    ]
    if failed:
        if tolerate:
            return failed[0]
        raise StepFailedError(
            f"an input of {step.name} could not be made: {failed[0].reason}",
            remedy=f"look at step {failed[0].step}",
        )
    try:
        # Before TensorFlow is imported, which takes seconds.
        if parameters.get("strategy") == "tpu":
            require_tpu()
        elif parameters.get("strategy") == "multi_worker":
            require_workers()
        own = {name: value for name, value in parameters.items() if name not in GENERAL}
        with _models_ready(step, inputs) as ready:
            step.function(**ready, **outputs, **own)
    except UnsupportedError as error:
        if not tolerate:
            raise
        return Failure("unsupported", step.name, str(error))
    except ParingError as error:
        if not tolerate:
            raise
        return Failure("failed", step.name, str(error))
    except MemoryError as error:
        raised = OutOfMemoryError(
            f"out of memory: the system refused more ({first_line(error)})",
            remedy="free memory on this machine, raise the limit on the step's memory, or lower"
            " batch_size",
        )
        if not tolerate:
            raise raised from error
        return Failure("failed", step.name, str(raised))
    except Exception as error:
        # Whatever a library throws at one candidate must not end the others;
        # where nothing is tolerated it goes up as it is, for --debug.
        if not tolerate:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{first_line(error)} ({Path(last.filename).name}:{last.lineno})"
        return Failure("failed", step.name, reason)
    return None


@contextmanager
def _final_paths(staged: Mapping[str, Path], outputs: Mapping[str, Path]) -> Iterator[None]:
    """Replace the paths of staged outputs in errors by the outputs' own paths."""
    try:
        yield
    except ParingError as error:
        for name, path in staged.items():
            error.rename(str(path), str(outputs[name]))
        raise


def _renamed(text: str, staged: Mapping[str, Path], outputs: Mapping[str, Path]) -> str:
    for name, path in staged.items():
        text = text.replace(str(path), str(outputs[name]))
    return text


@contextmanager
def _models_ready(step: Step, inputs: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs as the step takes them: Keras files in Paring's layout."""
    given = [member for value in inputs.values() for member in _members(value)]
    files = any(isinstance(item, Servable) and item.path.is_file() for item in given)
    if step.imports_models or not step.opens_models or not files:
        yield inputs
        return
    from paring.models.importing import imported

    with imported(inputs) as ready:
        yield ready


def _members(value: Artifact | Mapping[str, Artifact] | None) -> list[Artifact]:
    if isinstance(value, Mapping):
        return list(value.values())
    return [] if value is None else [value]


def _check_names(
    step: Step, what: str, given: Mapping[str, object], *, known: set[str], required: set[str]
) -> None:
    for name in given:
        if name not in known:
            raise ParameterError(
                f"step {step.name} has no {what} {name!r}", remedy=nearest(name, known)
            )
    missing = sorted(required - set(given))
    if missing:
        raise ParameterError(
            f"step {step.name} needs {what} {', '.join(missing)}",
            remedy=f"give --{missing[0].replace('_', '-')} PATH",
        )


def _load_input(name: str, spec: InputSpec, call: Call) -> Artifact | dict[str, Artifact] | None:
    given = call.inputs.get(name)
    if isinstance(given, Mapping):
        return {key: _load_one(f"{name} {key}", spec, path, call) for key, path in given.items()}
    if given is None:
        return {} if spec.family else None
    return _load_one(name, spec, given, call)


def _load_one(name: str, spec: InputSpec, path: Path, call: Call) -> Artifact:
    if not path.exists():
        raise ParameterError(
            f"{name}: path does not exist",
            received=path,
            remedy=f"give the path of a {spec.type.__name__}",
        )
    known = call.records.get(path, "")
    if known and record_digest(path) != known:
        raise ArtifactTypeError(
            f"{name}: the record {path / RECORD} has been changed since its step wrote it",
            received=record_digest(path) or "no record",
            remedy="run the pipeline again, which re-runs the step that produced this artifact",
        )
    artifact = spec.type.load(path)
    artifact.verify()
    if not artifact.digest and artifact.failure is None:
        artifact.digest = content_digest(path, _source_error(spec.type))
    expected = call.contents.get(path, "")
    if expected and artifact.failure is None and artifact.digest != expected:
        raise _source_error(spec.type)(
            f"{name}: {path} has been changed since the run was started",
            received=f"{artifact.digest}, not {expected}",
            remedy="wait until it is written, and start the run again",
        )
    return artifact


def _source_error(kind: type[Artifact]) -> type[ParingError]:
    """Return the error class for an input of this type that can't be taken as it is."""
    return ExamplesError if issubclass(kind, Examples) else ModelError


def _trust(artifacts: Mapping[str, Any], *, trusted: bool, engine_trusted: bool) -> None:
    """Mark the models among the artifacts, by the options alone; no record of theirs counts."""
    for value in artifacts.values():
        for member in _members(value):
            if isinstance(member, Servable):
                member.trusted = trusted
                member.engine_trusted = trusted or engine_trusted


def _choose_signature(artifacts: Mapping[str, Any], signature: str) -> None:
    """Set the signature of the models that no record describes.

    Raises:
        ParameterError: The record of a model states another signature.
    """
    if not signature:
        return
    models = (m for value in artifacts.values() for m in _members(value) if isinstance(m, Servable))
    for model in models:
        if model.signature == signature or model.failure is not None:
            continue
        if _is_keras_file(model.path):
            raise ParameterError(
                f"{SIGNATURE}: {model.path} is a Keras file, which has no signatures",
                received=signature,
                remedy=f"leave it out: Paring exports the model as {DEFAULT_SIGNATURE}",
            )
        if read_record(model.path) is not None:
            raise ParameterError(
                f"{SIGNATURE}: {model.path} was made for another signature",
                received=f"{signature}; its record states {model.signature}",
                remedy="leave it out, or import the original model again with import_model"
                f" --signature {signature}",
            )
        model.signature = signature


def _is_keras_file(path: Path) -> bool:
    if not path.is_file():
        return False
    from paring.models.importing import is_keras_file

    return is_keras_file(path)


def _carry_signature(inputs: Mapping[str, Any], outputs: Mapping[str, Artifact]) -> None:
    """Set the signature of the models that are made to that of the model they are made of."""
    source = next((item for item in inputs.values() if isinstance(item, Servable)), None)
    if source is None:
        return
    for output in outputs.values():
        if isinstance(output, Servable):
            output.signature = source.signature
            output.dropped_signatures = source.dropped_signatures


def _describe(value: Artifact | Mapping[str, Artifact] | None) -> Any:
    """Return an input for the record.

    The members of a family are named by their digests alone: with the lineage of
    each, the record of what was chosen among them would outgrow the model.
    """
    if isinstance(value, Mapping):
        return {
            key: {"type": type(item).__name__, "digest": item.digest} for key, item in value.items()
        }
    return value.described() if value else None


@contextmanager
def _staged(outputs: Mapping[str, Path], *, keep: bool) -> Iterator[dict[str, Path]]:
    """Yield empty folders beside the outputs, which are renamed onto them at the end.

    Without `keep` they are removed instead: of the workers that train a model together
    all make it, and one writes it.
    """
    staged: dict[str, Path] = {}
    try:
        for name, path in outputs.items():
            _check_replaceable(name, path)
            # On a folder that all share, processes of several machines may have one number.
            owner = f"{process_number()}-{platform.node()}"
            staged[name] = path.with_name(f".{path.name}.partial-{owner}")
            try:
                # Of a process that had this number before, and was killed.
                shutil.rmtree(staged[name], ignore_errors=True)
                staged[name].mkdir(parents=True)
            except OSError as error:
                raise OutputError(
                    f"{name}: this folder can't be written",
                    received=f"{path} ({error.strerror})",
                    remedy="give a folder that you may write to",
                ) from error
        yield staged
        if keep:
            for name, path in outputs.items():
                storage.replace(staged[name], path)
    finally:
        for folder in staged.values():
            shutil.rmtree(folder, ignore_errors=True)


def _check_replaceable(name: str, path: Path) -> None:
    if path.name in ("", ".."):
        raise OutputError(
            f"{name}: this folder can't be replaced",
            received=path,
            remedy="give a path with a name, such as a folder in it",
        )
    if not path.exists():
        return
    if path.is_dir() and (not any(path.iterdir()) or read_record(path) is not None):
        return
    raise OutputError(
        f"{name}: this path holds something that Paring did not write",
        received=path,
        remedy="give a new or empty folder",
    )


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def environment() -> dict[str, str]:
    """Return the versions that lineage records, by distribution name."""
    installed = {name: installed_version(name) or "absent" for name in _LIBRARIES}
    return {"python": platform.python_version(), **installed}
