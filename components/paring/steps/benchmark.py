"""Latency, memory and size of a candidate beside its source, measured in one run."""

import logging
import os
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le, Lt

from paring.artifacts import (
    BenchmarkMetrics,
    Examples,
    RuntimeConfiguration,
    Servable,
    content_bytes,
)
from paring.benchmarking.timing import TimingOptions
from paring.errors import ParameterError
from paring.step import Input, Output, step
from paring.system.child_calls import call_in_child
from paring.system.hardware import describe

if TYPE_CHECKING:
    from paring.benchmarking.statistics import Array

_log = logging.getLogger(__name__)

# Different inputs, so that no data-dependent path is timed alone.
_BATCHES = 16
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@step(version="8", machine_dependent=True, runs_model=True)
def benchmark(
    source: Input[Servable],
    candidate: Input[Servable | None],
    examples: Input[Examples],
    configuration: Input[RuntimeConfiguration | None],
    metrics: Output[BenchmarkMetrics],
    *,
    batch_size: Annotated[int, Ge(0), Le(65536)] = 0,
    threads: Annotated[int, Ge(0), Le(4096)] = 0,
    gpu_memory_mb: Annotated[int, Ge(0)] = 0,
    rounds: Annotated[int, Ge(2), Le(1000)] = 8,
    precision: Annotated[float, Ge(0), Lt(1)] = 0.05,
    windows: Annotated[int, Ge(1), Le(1000)] = 4,
    min_seconds: Annotated[float, Ge(0), Le(3600)] = 3.0,
    timeout_seconds: Annotated[float, Gt(0)] = 1800.0,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Measure the latency of `candidate` against `source`, and its memory and size.

    One fresh process loads the candidate alone, for its cold load, first
    inference and peak memory, on the host and on GPUs. A second one alternates the two: in each of
    `rounds` both are loaded again and called until steady, then timed in pairs of
    windows, the order swapped from pair to pair. It ends early once the speed-up is known
    to within `precision`. The speed-up is the ratio of
    the pooled medians, with a 95% interval that resamples rounds and pairs
    (`paring.benchmarking.statistics`). A call goes from NumPy arrays to NumPy arrays.

    Where `import_model` cut the source, both sides are numeric cores. The text work before them is
    timed besides, by itself in TensorFlow with its own threads, and `whole_speedup` is the
    speed-up of the two together, by the sums of their medians.

    On a host with a TPU SavedModels run on one core of it, each compiled by XLA for the shape
    of the batch, after they were compiled on the processor for a check.

    Examples:
        >>> converted = paring.convert_tflite(network)
        >>> metrics = paring.benchmark(network, converted, arrays, rounds=3, min_seconds=0.5)
        >>> metrics.speedup > 1
        True

    Args:
        source: The model that candidates are compared with: a SavedModel.
        candidate: The model to time, in any form that a runtime takes; the source itself
            if left out.
        examples: Inputs are drawn from its eval split.
        configuration: Result of `tune_batch`, whose batch size, threads and GPU memory are
            used then. Both sides have one process, whatever instances it names.
        metrics: Figures in `benchmark.json`; times in ms, memory and sizes in bytes.
        batch_size: Examples in one call; 0 for the configuration's, or 1 without one.
        threads: Threads for one call; 0 for the configuration's, or without one for one
            for each usable core.
        gpu_memory_mb: MiB of each GPU's memory that TensorFlow may take, on both sides;
            0 for the configuration's, or without one for what it needs.
        rounds: Number of times that both models are loaded and timed, at most.
        precision: Relative half-width of the speed-up's interval, such as 0.05 for 5%, at
            which no further round follows, after three at the earliest; 0 for all rounds.
        windows: Pairs of windows in a round.
        min_seconds: Time that all rounds spend in timed windows, at least; a window also
            lasts 20 ms or one call.
        timeout_seconds: Time limit of either process.
        seed: Seed of the drawn inputs, the order of the sides, and the resampling.

    Raises:
        ParameterError: A parameter is given that the configuration states too.
        UnsupportedError: The candidate does not take a batch of this size, or XLA can't compile
            a SavedModel for a TPU.
        ModelError: The two models don't take the same inputs, or can't be loaded.
        MissingDependencyError: The candidate was split over more GPUs than there are.
        StepFailedError: A process crashed, was killed or ran out of time.
    """
    from paring.models.tpu import leave_tpu_to_child

    on_tpu = leave_tpu_to_child()
    import numpy as np

    from paring.benchmarking.devices import check_devices
    from paring.benchmarking.measure import DEVICE_MEMORY, Spec
    from paring.benchmarking.process import measure
    from paring.benchmarking.statistics import percentiles, speedup
    from paring.benchmarking.text_work import text_work_ms
    from paring.benchmarking.timed_inputs import draw_inputs
    from paring.data.raw_sample import SAMPLE
    from paring.graphs.xla import check_before_tpu
    from paring.runtimes import served_path

    if configuration is not None:
        _refuse_given(batch_size=batch_size, threads=threads, gpu_memory_mb=gpu_memory_mb)
        configuration.check()
        batch_size, threads = configuration.batch_size, configuration.threads
        gpu_memory_mb = configuration.gpu_memory_mb
    batch_size = batch_size or 1
    candidate = candidate or source
    served = served_path(candidate)
    if on_tpu:
        check_before_tpu([source, candidate], batch_size)
    cores = int(describe()["cores"])
    timing = TimingOptions(
        threads=threads or cores,
        rounds=rounds,
        windows=windows,
        min_seconds=min_seconds,
        seed=seed,
        precision=precision,
    )
    environment: dict[str, Any] = {
        **describe(),
        "threads": timing.threads,
        "load_average": list(os.getloadavg()),
        "cpu_governor": _GOVERNOR.read_text().strip() if _GOVERNOR.is_file() else None,
    }
    with tempfile.TemporaryDirectory(prefix="paring-benchmark-") as folder:
        inputs = Path(folder) / "inputs.npz"
        names = draw_inputs(
            source, examples, batch_size=batch_size, batches=_BATCHES, seed=seed, file=inputs
        )
        common: dict[str, Any] = {
            "source": str(source.path.absolute()),
            "candidate": str(candidate.path.absolute()),
            "inputs": str(inputs),
            "names": names,
            "folder": folder,
            "gpu_memory_mb": gpu_memory_mb,
            "source_signature": source.signature,
            "candidate_signature": candidate.signature,
            "trusted": source.trusted,
            "engine_trusted": source.engine_trusted,
            "compiled": on_tpu,
        }
        # The cheap one first: a candidate that can't be run is found at once.
        alone = Spec("solo", **common, threads=timing.threads)
        solo = measure(alone, timeout_seconds=timeout_seconds)
        check_devices(candidate, solo["accelerators"])
        latency = Spec("latency", **common, **timing.spec_fields())
        timed = measure(latency, timeout_seconds=timeout_seconds)
        with np.load(latency.latencies, allow_pickle=False) as arrays:
            source_ms, candidate_ms = 1e3 * arrays["source"], 1e3 * arrays["candidate"]
    ratio = speedup(source_ms, candidate_ms, seed=seed)
    own, base = percentiles(candidate_ms), percentiles(source_ms)
    metrics.p50_ms, metrics.p90_ms, metrics.p99_ms = own.p50, own.p90, own.p99
    metrics.source_p50_ms = base.p50
    metrics.speedup = ratio.estimate
    metrics.speedup_low, metrics.speedup_high = ratio.low, ratio.high
    metrics.throughput = _throughput(candidate_ms, batch_size)
    metrics.peak_memory_bytes = solo["peak_memory_bytes"]
    metrics.peak_device_memory_bytes = solo["peak_device_memory_bytes"]
    metrics.load_ms, metrics.first_ms = solo["load_ms"], solo["first_ms"]
    metrics.size_bytes = content_bytes(served)
    metrics.gzip_bytes = gzip_size(served)
    if source.parts_dir.is_dir() and (examples.path / SAMPLE).is_file():
        metrics.text_work_p50_ms = call_in_child(
            text_work_ms,
            source.parts_dir.absolute(),
            (examples.path / SAMPLE).absolute(),
            batch_size=batch_size,
            seconds=min_seconds,
            trusted=source.trusted,
        )
        if candidate is not source:
            before, after = base.p50 + metrics.text_work_p50_ms, own.p50 + metrics.text_work_p50_ms
            metrics.whole_speedup = before / after
    details = {
        "batch_size": batch_size,
        "gpu_memory_mb": gpu_memory_mb,
        "source": _side(source_ms, batch_size, timed["steady_rounds"]["source"]),
        "candidate": _side(candidate_ms, batch_size, timed["steady_rounds"]["candidate"]),
        "solo": solo,
        "method": {
            "rounds": len(source_ms),
            "max_rounds": rounds,
            "precision": precision,
            "windows": windows,
            "window_seconds": timing.window_seconds,
            "seed": seed,
            "interval": "95%, paired two-level bootstrap over rounds and window pairs",
            "throughput": "examples a second of one caller: batch_size / mean latency",
            "gzip_bytes": "each served file by itself, gzip level 9, summed",
            "peak_memory_bytes": "VmHWM of a process that loads the candidate alone",
            "peak_device_memory_bytes": DEVICE_MEMORY[solo["device_memory_counted"]],
            "load_ms": "in a fresh process, after its library was imported and the file checked",
        },
        "environment": {
            **environment,
            "accelerators": timed["accelerators"],
            "libraries": timed["libraries"],
            "compiled": on_tpu,
        },
    }
    metrics.write_facts(metrics.file, details)
    _log.info(
        "%.3f ms a call, %.2f times the source's speed (%.2f to %.2f)",
        own.p50,
        ratio.estimate,
        ratio.low,
        ratio.high,
    )


def _refuse_given(**parameters: int) -> None:
    """Refuse parameters that the configuration states too."""
    for name, value in parameters.items():
        if value:
            raise ParameterError(
                f"{name}: the configuration states it",
                received=value,
                remedy=f"leave out {name}, or the configuration",
            )


def gzip_size(path: Path) -> int:
    """Return the sum of the sizes of all files at or below `path` after gzip -9, in bytes.

    Each file is compressed by itself, without a name or time, so that the sum depends on
    nothing but the files' bytes.
    """
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    total = 0
    for file in files:
        # 31: a window of 2^15 bytes, in gzip's format.
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                total += len(packer.compress(block))
        total += len(packer.flush())
    return total


def _throughput(milliseconds: "Array", batch_size: int) -> float:
    return batch_size * 1e3 / float(milliseconds.mean())


def _side(milliseconds: "Array", batch_size: int, steady_rounds: int) -> dict[str, Any]:
    """Return the recorded figures of one side, times in ms."""
    import numpy as np

    from paring.benchmarking.statistics import percentiles

    result = percentiles(milliseconds)
    return {
        "p50_ms": result.p50,
        "p90_ms": result.p90,
        "p99_ms": result.p99,
        "mean_ms": float(milliseconds.mean()),
        "throughput": _throughput(milliseconds, batch_size),
        "calls": int(milliseconds.size),
        "steady_rounds": steady_rounds,
        "window_p50_ms": np.median(milliseconds, axis=2).tolist(),
    }
