"""Types of findings about models: figures, a selection, a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from paring.artifacts.artifact import Artifact, Highlight
from paring.errors import ArtifactTypeError


class Findings(Artifact):
    """Base class of what was found in figures, which Kubeflow draws as a table."""


@dataclass
class ModelProfile(Findings):
    """`profile.json`: weights, operations and memory of a model, and findings on its graph.

    Attributes:
        parameters: Number of weights.
        flops: Floating-point operations for one example (a multiply-add is 2).
        activation_bytes: Peak of the live activations for one example.
        findings: How many things the audit of the graph found to change.
    """

    parameters: int = 0
    flops: int = 0
    activation_bytes: int = 0
    findings: Annotated[int, Highlight("findings: {}")] = 0

    @property
    def file(self) -> Path:
        """The JSON file."""
        return self.path / "profile.json"


@dataclass
class TPUReadiness(Findings):
    """`tpu.json`: readiness of a model for TPUs, and the cost of its padding there.

    Attributes:
        ready: Whether nothing in it is refused.
        refused: The operators and inputs that are, with the reason.
        compute_waste: Share of the operations of products and convolutions that is on
            padding, at least; None where there are none.
        memory_waste: The same of the bytes that they read and write.
    """

    ready: bool = False
    refused: Annotated[tuple[str, ...], Highlight("a TPU refuses {}")] = ()
    compute_waste: Annotated[float | None, Highlight("{:.0%} of a TPU's operations on padding")] = (
        None
    )
    memory_waste: float | None = None

    @property
    def file(self) -> Path:
        """The JSON file."""
        return self.path / "tpu.json"


@dataclass
class BenchmarkMetrics(Findings):
    """`benchmark.json`: latency and memory beside the source, in one run.

    Attributes:
        p50_ms, p90_ms, p99_ms: Percentiles of one call's latency.
        source_p50_ms: The source's median in the same run.
        speedup: The source's median over the candidate's.
        speedup_low, speedup_high: Its 95% confidence interval.
        throughput: Examples a second.
        peak_memory_bytes: Peak resident memory of a process that only loads
            the runtime and runs the model.
        peak_device_memory_bytes: Peak memory on GPUs or TPUs of the same process; None where
            the model ran on the CPU.
        load_ms, first_ms: Cold load, and the first inference.
        size_bytes, gzip_bytes: Of the served files.
        text_work_p50_ms: Median time of the text work before a numeric core, in TensorFlow; None
            where the source was not cut.
        whole_speedup: Speed-up of the whole, by the sums of the medians of text work and core;
            None for the source beside itself.
    """

    p50_ms: Annotated[float | None, Highlight("p50 {:.3f} ms")] = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    source_p50_ms: float | None = None
    speedup: Annotated[float | None, Highlight("{:.2f} times as fast")] = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    throughput: float | None = None
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None
    load_ms: float | None = None
    first_ms: float | None = None
    size_bytes: Annotated[int | None, Highlight("{:,} bytes")] = None
    gzip_bytes: int | None = None
    text_work_p50_ms: float | None = None
    whole_speedup: Annotated[float | None, Highlight("{:.2f} times with its text work")] = None

    @property
    def file(self) -> Path:
        """The JSON file."""
        return self.path / "benchmark.json"


@dataclass
class RuntimeConfiguration(Findings):
    """`configuration.json`: settings of the highest throughput of a model.

    Attributes:
        batch_size: Examples in one call.
        threads: Threads for one call.
        instances: Processes that serve side by side.
        gpu_memory_mb: MiB of each GPU's memory that TensorFlow may take in each of
            them; 0 for what it needs.
        p50_ms, p99_ms: Percentiles of one call's latency, of all instances together.
        throughput: Examples a second, of all instances together.
        baseline_throughput: The same in the same run of the smallest batch that the
            model takes, one thread and one process.
        peak_memory_bytes: Peak resident memory of all instances, in sum.
        peak_device_memory_bytes: Peak memory on GPUs or TPUs of all instances, in sum; None
            where the model ran on the CPU.
        trials: How many settings were tried.
    """

    batch_size: Annotated[int, Highlight("batch {}")] = 0
    threads: Annotated[int, Highlight("threads {}")] = 0
    instances: Annotated[int, Highlight("processes {}")] = 0
    gpu_memory_mb: int = 0
    p50_ms: Annotated[float | None, Highlight("p50 {:.3f} ms")] = None
    p99_ms: float | None = None
    throughput: float | None = None
    baseline_throughput: float | None = None
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None
    trials: int | None = None

    @property
    def file(self) -> Path:
        """The JSON file, with the table of all trials."""
        return self.path / "configuration.json"

    def check(self) -> None:
        """Refuse a folder that states no configuration.

        Raises:
            ArtifactTypeError: It has no record, or another tool's.
        """
        if min(self.batch_size, self.threads, self.instances) < 1:
            raise ArtifactTypeError(
                f"{self.path} states no batch size, threads and instances",
                remedy="give the output of tune_batch",
            )


@dataclass
class EvaluationMetrics(Findings):
    """`evaluation.json`: accuracy of a candidate, and its agreement with the source.

    Attributes:
        count: Examples looked at.
        sample_weights: Column of the sample weights; "" if all examples count the same.
        metric: Metric of the accuracy gate; see `paring.evaluation.metrics.Metric`.
        higher_is_better: False for errors.
        score: Of that metric.
        source_score: The source's, on the same examples.
        drop: How much worse than the source's: by how much it is less, or by
            which share of the source's an error is larger.
        drop_low, drop_high: Its 95% confidence interval, where there is one.
        no_interval: Reason why there is none; "" where there is one.
        gated_outputs: How many outputs the gate is on. The figures here are of
            the first of them; those of the others are in the file.
        accuracy: Top-1 accuracy; None without labels, and of values.
        source_accuracy: The source's, on the same examples.
        agreement: Share of examples or tokens with the source's top-1 class; of
            values the share of the variance of the source's.
    """

    count: int = 0
    sample_weights: str = ""
    metric: str = ""
    higher_is_better: bool = True
    score: float | None = None
    source_score: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    no_interval: str = ""
    gated_outputs: int = 1
    accuracy: Annotated[float | None, Highlight("accuracy {:.2%}")] = None
    source_accuracy: float | None = None
    agreement: Annotated[float | None, Highlight("agreement {:.2%}")] = None

    @property
    def file(self) -> Path:
        """The JSON file."""
        return self.path / "evaluation.json"


@dataclass
class Selection(Findings):
    """`selection.json`: every candidate, its outcome and the reasons.

    Attributes:
        selected: The id of the chosen candidate.
        candidates: How many there were.
        passed: How many passed the gate.
        sample_weights: The column of the weights by which the examples count in the gate's
            metric; "" if all count the same.
    """

    selected: Annotated[str, Highlight("{}")] = ""
    candidates: int = 0
    passed: int = 0
    sample_weights: str = ""

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
