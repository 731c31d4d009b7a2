"""What passes between steps: a path, and the facts measured about it.

An artifact is a file or folder. Each one that Paring writes is a folder with a
record, `paring.json`, which holds its type, its facts, the digest of its bytes
and its lineage; so an artifact explains itself wherever it is copied to.
Models keep TFX's layout, `Format-Serving/`, so that TFX's Pusher, TF Serving
and KFP take them as they are; `Format-Keras/model.keras` beside it is what the
training steps go on from.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self, get_args, get_type_hints

from paring.errors import ArtifactTypeError

RECORD = "paring.json"
SERVING_DIR = "Format-Serving"
KERAS_FILE = "Format-Keras/model.keras"

Fact = str | int | float


@dataclass(frozen=True)
class Failure:
    """Why an artifact could not be made.

    Attributes:
        outcome: "unsupported" (the method does not fit the model) or "failed".
        step: The step that failed first.
        reason: What it said, for the user.
    """

    outcome: str
    step: str
    reason: str


@dataclass
class Artifact:
    """A path, and the facts measured about it: the fields after `path`.

    A fact is a str, int or float, or None where it was not measured; facts
    become TFX properties and KFP metadata under their field's name.

    Attributes:
        path: The file or folder. A step's output folder exists when it starts.
        digest: `content_digest` of `path`, "" until it is known.
        failure: Set if the artifact could not be made; then `path` is empty.
        lineage: How it was made; see `paring.execution.execute`.
    """

    path: Path
    digest: str = ""
    failure: Failure | None = field(default=None, repr=False)
    lineage: Mapping[str, Any] = field(default_factory=dict, repr=False)

    _NO_FACTS: ClassVar[frozenset[str]] = frozenset({"path", "failure", "lineage"})

    @classmethod
    def fact_types(cls) -> dict[str, type]:
        """The facts of this type and the Python type of each."""
        hints = get_type_hints(cls)
        found: dict[str, type] = {}
        for one in fields(cls):
            if one.name not in cls._NO_FACTS:
                hint = hints[one.name]
                # `float | None` is a float that may not have been measured.
                found[one.name] = next(iter(get_args(hint)), hint)
        return found

    def facts(self) -> dict[str, Fact]:
        """The facts that were measured, by name."""
        values = {name: getattr(self, name) for name in self.fact_types()}
        return {name: value for name, value in values.items() if value is not None}

    @classmethod
    def load(cls, path: Path) -> Self:
        """The artifact at `path`, as the type its record states.

        Without a record (a user's own file, or another tool's artifact) it is
        taken to be a `cls` with no facts.

        Raises:
            ArtifactTypeError: The record states a type that is no `cls`.
        """
        record = read_record(path)
        if record is None:
            return cls(path)
        type_name = str(record.get("type"))
        kind = artifact_types().get(type_name)
        if kind is None or not issubclass(kind, cls):
            raise ArtifactTypeError(
                f"{path} is not a {cls.__name__}",
                received=type_name,
                remedy=f"give a path to a {cls.__name__}",
            )
        known = kind.fact_types()
        facts = {k: v for k, v in record.get("facts", {}).items() if k in known}
        failure = record.get("failure")
        return kind(
            path,
            **facts,
            failure=Failure(**failure) if failure else None,
            lineage=record.get("lineage", {}),
        )

    def described(self) -> dict[str, Any]:
        """Type, digest and lineage, or the path of what Paring did not make."""
        named: dict[str, Any] = {"type": type(self).__name__, "digest": self.digest}
        return named | ({"lineage": self.lineage} if self.lineage else {"path": str(self.path)})

    def copied_from(self, original: "Artifact") -> None:
        """Note that the content is a copy of `original`'s, however that was made."""
        self.lineage = {**self.lineage, "copy_of": original.described()}

    def save(self) -> None:
        """Write the record, with the digest of what the folder holds now."""
        self.digest = "" if self.failure else content_digest(self.path)
        record = {
            "type": type(self).__name__,
            "facts": self.facts(),
            "failure": vars(self.failure) if self.failure else None,
            "lineage": self.lineage,
        }
        (self.path / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def read_record(path: Path) -> dict[str, Any] | None:
    """The record of the artifact at `path`, None where there is none."""
    try:
        record = json.loads((path / RECORD).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ArtifactTypeError(
            f"{path / RECORD} is not readable",
            received=error,
            remedy="make the artifact anew; its record was cut off or edited",
        ) from error
    if not isinstance(record, dict):
        raise ArtifactTypeError(f"{path / RECORD} is no artifact's record")
    return record


def content_digest(path: Path) -> str:
    """SHA-256 over the names and bytes below `path`, its record left out."""
    total = hashlib.sha256()
    for name, file in _files(path):
        with file.open("rb") as stream:
            inner = hashlib.file_digest(stream, "sha256")
        total.update(f"{name}\0{inner.hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"


def content_bytes(path: Path) -> int:
    """The size in bytes of all files below `path`, its record left out."""
    return sum(file.stat().st_size for _, file in _files(path))


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield "", path
        return
    for file in sorted(path.rglob("*")):
        name = file.relative_to(path).as_posix()
        if file.is_file() and name != RECORD:
            yield name, file


def artifact_types() -> dict[str, type[Artifact]]:
    """Every artifact type by its name."""
    found: dict[str, type[Artifact]] = {}
    queue: list[type[Artifact]] = [Artifact]
    while queue:
        kind = queue.pop()
        found[kind.__name__] = kind
        queue.extend(kind.__subclasses__())
    return found


@dataclass
class Servable(Artifact):
    """Anything that a runtime can load and run, below `Format-Serving/`.

    Attributes:
        size_bytes: The size of what is served, without the training form.
    """

    size_bytes: int = 0

    @property
    def serving_dir(self) -> Path:
        """The folder of the served form."""
        return self.path / SERVING_DIR


@dataclass
class Model(Servable):
    """A TensorFlow model: a SavedModel, and its Keras form where it has one.

    A model that a user hands in may also be a bare SavedModel folder, or a
    `.keras` or `.h5` file; `paring.tf.loading` reads all of them.

    Attributes:
        keras: "tf_keras" where the Keras form is there, "none" where not.
        trusted: 1 if the user allowed the model's own code to run.
        rebuilt_difference: Largest absolute difference of outputs from the Keras 3
            model that this one was rebuilt from; None if it was not.
    """

    keras: str = ""
    trusted: int = 0
    rebuilt_difference: float | None = None

    @property
    def keras_file(self) -> Path:
        """The file of the Keras form; may not exist."""
        return self.path / KERAS_FILE


@dataclass
class PrunedModel(Model):
    """A model with its smallest weights set to zero.

    Attributes:
        sparsity: The share of zeros among the prunable weights, measured.
        left_dense: The layers whose weights can't be pruned, separated by commas.
    """

    sparsity: float | None = None
    left_dense: str = ""


@dataclass
class ClusteredModel(Model):
    """A model whose kernels share a few values each.

    Attributes:
        distinct_weights: The most distinct values in any clustered kernel, measured.
        sparsity: The share of zeros among the clustered weights, measured.
        left_unclustered: The layers whose weights can't be clustered, by commas.
    """

    distinct_weights: int | None = None
    sparsity: float | None = None
    left_unclustered: str = ""


@dataclass
class QuantizedModel(Model):
    """A model trained with fake quantization (QAT); its weights are float.

    Attributes:
        in_float: The layers that have no quantized form and compute in float, each
            with the reason, separated by semicolons.
    """

    in_float: str = ""


@dataclass
class TFLiteModel(Servable):
    """One `model.tflite` file.

    Attributes:
        quantization: none, fp16, dynamic, int8 or int16x8.
        batch_size: The only batch that the file takes, where converting fixed it.
        gzip_bytes: The file's size after gzip.
    """

    quantization: str = ""
    batch_size: int | None = None
    gzip_bytes: int = 0

    @property
    def file(self) -> Path:
        """The TFLite file."""
        return self.serving_dir / "model.tflite"


@dataclass
class SelectedModel(Servable):
    """The chosen candidate: a SavedModel or a TFLite file.

    Attributes:
        candidate: The id of the candidate.
    """

    candidate: str = ""


@dataclass
class Examples(Artifact):
    """Labelled examples in splits.

    In Paring's form, `Split-train/` and `Split-eval/` hold one `.npy` file for
    each model input, named for it, and `label.npy` where there are labels; a
    user may also hand in an `.npz` file, TFRecords of tf.Example, or a TFX
    Examples artifact. `paring.tf.examples` reads all of them.

    Attributes:
        train_count: Examples in the train split.
        eval_count: Examples in the eval split.
        labelled: 1 if there are labels.
    """

    train_count: int = 0
    eval_count: int = 0
    labelled: int = 0


@dataclass
class ModelProfile(Artifact):
    """`profile.json`: what a model is made of and what it costs.

    Attributes:
        parameters: Number of weights.
        flops: Floating-point operations for one example (a multiply-add is 2).
        activation_bytes: Peak of the live activations for one example.
    """

    parameters: int = 0
    flops: int = 0
    activation_bytes: int = 0


@dataclass
class BenchmarkMetrics(Artifact):
    """`benchmark.json`: latency and memory beside the source, in one run.

    Attributes:
        p50_ms, p90_ms, p99_ms: Percentiles of one call's latency.
        source_p50_ms: The source's median in the same run.
        speedup: The source's median over the candidate's.
        speedup_low, speedup_high: Its 95% confidence interval.
        throughput: Examples a second.
        peak_memory_bytes: Peak resident memory of a process that only loads
            the runtime and runs the model.
        load_ms, first_ms: Cold load, and the first inference.
        size_bytes, gzip_bytes: Of the served files.
    """

    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    source_p50_ms: float | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    throughput: float | None = None
    peak_memory_bytes: int | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    size_bytes: int | None = None
    gzip_bytes: int | None = None

    @property
    def file(self) -> Path:
        """The JSON file."""
        return self.path / "benchmark.json"


@dataclass
class EvaluationMetrics(Artifact):
    """`evaluation.json`: how well a candidate predicts.

    Attributes:
        count: Examples looked at.
        accuracy: Top-1 accuracy; None without labels.
        source_accuracy: The source's, on the same examples.
        agreement: Share of examples with the source's top-1 class.
    """

    count: int = 0
    accuracy: float | None = None
    source_accuracy: float | None = None
    agreement: float | None = None

    @property
    def file(self) -> Path:
        """The JSON file."""
        return self.path / "evaluation.json"


@dataclass
class Selection(Artifact):
    """`selection.json`: every candidate, its outcome and the reasons.

    Attributes:
        selected: The id of the chosen candidate.
        candidates: How many there were.
        passed: How many passed the gate.
    """

    selected: str = ""
    candidates: int = 0
    passed: int = 0

    @property
    def file(self) -> Path:
        """The JSON file."""
        return self.path / "selection.json"


@dataclass
class Report(Artifact):
    """`report.html`: one self-contained page."""

    @property
    def file(self) -> Path:
        """The HTML file."""
        return self.path / "report.html"
