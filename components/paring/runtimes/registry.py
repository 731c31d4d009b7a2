"""Registry of the runtimes, and the choice of the one that loads a model.

Which one fits is read from the files at the path. Only its library is imported: a process that
runs a TFLite file never imports TensorFlow, so its start and its memory are the file's own.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from paring.artifacts import SERVING_DIR, Servable
from paring.errors import ModelError, ParameterError
from paring.runtimes.base import LoadOptions, Runtime, RuntimeSpec
from paring.system.trees import describe_path

_MODULES = (
    "savedmodel",
    "tflite",
    "onnx",
    "openvino",
    "tensorrt",
)
"""Modules of this package that hold a runtime's record, `RUNTIME`.

Where a folder holds the files of several runtimes, the first in this order loads it.
"""

_REGISTRY: dict[str, RuntimeSpec] = {}


def register_runtime(spec: RuntimeSpec) -> None:
    """Add a runtime, after those that are there already.

    Raises:
        ParameterError: Another runtime has its name, or serves files of that name or suffix.
    """
    for other in _REGISTRY.values():
        same_file = other.served_files[0] == spec.served_files[0] or (
            _suffix(other) is not None and _suffix(other) == _suffix(spec)
        )
        if other.name == spec.name or same_file:
            raise ParameterError(
                f"the runtime {spec.name!r} can't be registered beside {other.name!r}",
                received=f"{spec.served_files[0]}, which {other.name!r} serves"
                if same_file
                else f"the name {spec.name!r} a second time",
                remedy="choose a name and a suffix of files that no other runtime has",
            )
    _REGISTRY[spec.name] = spec


def registered_runtimes() -> tuple[RuntimeSpec, ...]:
    """Return the records of all runtimes, in the order in which a folder is searched."""
    return tuple(_REGISTRY.values())


@dataclass(frozen=True)
class ServedModel:
    """The files of a model, and the runtime that loads it.

    Attributes:
        runtime: Record of the runtime.
        file: The file by which it was recognized.
    """

    runtime: RuntimeSpec
    file: Path

    @property
    def path(self) -> Path:
        """The file or the folder that is served: all of it, and nothing else."""
        return self.file.parent if len(self.runtime.served_files) > 1 else self.file


def find_served(path: Path) -> ServedModel:
    """Return the model at or below `path`, without reading it.

    Args:
        path: A file, a folder with the files of a model, or a folder of Paring's or TFX's that
            holds these below `Format-Serving/`.

    Raises:
        ModelError: There are no files that a runtime loads.
    """
    if path.is_file():
        for spec in registered_runtimes():
            if path.suffix == _suffix(spec):
                return ServedModel(spec, path)
    for folder in (path / SERVING_DIR, path):
        for spec in registered_runtimes():
            if (folder / spec.served_files[0]).is_file():
                return ServedModel(spec, folder / spec.served_files[0])
    names = [spec.served_files[0] for spec in registered_runtimes()]
    raise ModelError(
        f"{path} holds no model that a runtime loads",
        received=describe_path(path),
        remedy=f"give a folder with {', '.join(names[:-1])} or {names[-1]}, or import a Keras"
        " file with import_model",
    )


def open_runtime(
    artifact: Servable,
    *,
    threads: int = 0,
    gpu_memory_mb: int = 0,
    whole: bool = False,
    compiled: bool = False,
) -> Runtime:
    """Check what `artifact` serves, and load it into the runtime for it.

    Args:
        artifact: A TFLite or ONNX file, a TensorRT engine, a folder that holds one of
            these or OpenVINO's files, a SavedModel, or a folder of Paring's or TFX's that
            holds one of them below `Format-Serving/`.
        threads: Threads for one call; 0 leaves the number to the runtime.
        gpu_memory_mb: Of a SavedModel: MiB of each GPU's memory that TensorFlow may
            take in this process; with 0 it takes what it needs. The other runtimes have
            no such limit.
        whole: Whether all functions of a SavedModel are loaded, as by `tf.saved_model.load`,
            and not just those that its signatures call.
        compiled: Of a SavedModel: whether XLA compiles it for each shape of batch, for a TPU
            where this host has one. The other runtimes compute where they do in any case.

    Raises:
        ModelError: The path holds none of them, or it can't be read.
        ParameterError: TensorFlow already started with other threads or another limit.
        UntrustedModelError: It holds code of its own, or names code that is not known to be
            harmless, and is not trusted.
        MissingDependencyError: OpenVINO is not installed, or an engine's GPU or library
            is missing.
        UnsupportedError: An engine was built for another GPU, driver or version.
    """
    served = find_served(artifact.path)
    served.runtime.check(served.file, artifact)
    options = LoadOptions(threads, gpu_memory_mb, whole, compiled)
    return served.runtime.load(served.file, artifact, options)


def check_served(artifact: Servable) -> None:
    """Check what `artifact` serves, as `open_runtime` does before it loads it.

    The result is kept until the files change; this is for timing the load by itself.

    Raises:
        ModelError, UntrustedModelError: See `open_runtime`.
    """
    served = find_served(artifact.path)
    served.runtime.check(served.file, artifact)


def import_library(artifact: Servable) -> None:
    """Import the library that `open_runtime` needs for `artifact`.

    It does so itself; this is for timing the import apart from the load.

    Raises:
        ModelError, MissingDependencyError: See `open_runtime`.
    """
    served = find_served(artifact.path)
    if served.runtime.import_library is not None:
        served.runtime.import_library(served.file)
        return
    for module in served.runtime.libraries.values():
        import_module(module)


def served_path(artifact: Servable) -> Path:
    """Return the file or the folder that `artifact` serves: all of it, and nothing else.

    Raises:
        ModelError: The path holds nothing that a runtime takes.
    """
    return find_served(artifact.path).path


def _suffix(spec: RuntimeSpec) -> str | None:
    """Return the suffix of files that stand by themselves; None where a model has several."""
    return Path(spec.served_files[0]).suffix if len(spec.served_files) == 1 else None


for _name in _MODULES:
    register_runtime(import_module(f"paring.runtimes.{_name}").RUNTIME)
