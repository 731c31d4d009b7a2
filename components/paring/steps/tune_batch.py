"""Search for the batch size, threads and instances of the highest throughput."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Le

from paring.artifacts import Examples, RuntimeConfiguration, Servable
from paring.benchmarking.batch_search import Bounds, Search, Setting, Trial
from paring.errors import ParameterError, StepFailedError, UnsupportedError
from paring.step import Input, Output, step
from paring.system.hardware import describe, free_memory_bytes
from paring.system.step_limits import format_size

if TYPE_CHECKING:
    from paring.benchmarking.measure import Spec

_log = logging.getLogger(__name__)

_MIB = 1 << 20
# Batches that take turns: as many as hold so many examples, within limits.
_DRAWN_EXAMPLES = 512
_MIN_BATCHES, _MAX_BATCHES = 2, 16
# What is left to the system where no limit of memory is given.
_SHARE_OF_FREE = 0.9


@step(version="5", machine_dependent=True, runs_model=True)
def tune_batch(
    source: Input[Servable],
    candidate: Input[Servable | None],
    examples: Input[Examples],
    configuration: Output[RuntimeConfiguration],
    *,
    max_latency_ms: Annotated[float, Ge(0)] = 0.0,
    max_memory_mb: Annotated[int, Ge(0)] = 0,
    max_batch: Annotated[int, Ge(1), Le(65536)] = 1024,
    max_instances: Annotated[int, Ge(0), Le(4096)] = 0,
    gpu_memory_mb: Annotated[int, Ge(0)] = 0,
    max_trials: Annotated[int, Ge(1), Le(1000)] = 24,
    budget_seconds: Annotated[float, Gt(0)] = 900.0,
    trial_seconds: Annotated[float, Gt(0), Le(3600)] = 1.0,
    timeout_seconds: Annotated[float, Gt(0)] = 120.0,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Find the batch size, threads and instances of the highest throughput of `candidate`.

    Each trial runs `instances` fresh processes, which load the candidate, are called
    until steady and then timed at the same time. Its throughput is the sum of theirs:
    batch size over mean latency. The search (`paring.benchmarking.batch_search`) starts at the
    smallest batch, one thread and one process, doubles and halves the three while
    throughput rises by 3% or more, and refines the batch. Then the best setting is
    measured again, and the next best one should it not fit any more, and the first
    setting too; these are the figures that are stated.

    A trial does not fit if its latency or memory is over the limit, if a process
    crashes, is killed or runs out of memory, if it takes too long, or if the model does
    not take the batch. The search goes on below it.

    Examples:
        >>> converted = paring.convert_tflite(network, quantization="dynamic")
        >>> configuration = paring.tune_batch(network, converted, arrays, max_batch=2, max_trials=2)
        >>> configuration.throughput > 0
        True

    Args:
        source: The SavedModel that the candidate was built from, by whose signature
            examples are read.
        candidate: The model to tune, in any form that a runtime takes; the source itself
            if left out. Of a selected model with text work, its numeric core is tuned.
        examples: Inputs are drawn from its eval split.
        configuration: The best setting in `configuration.json`, with the table of all trials.
        max_latency_ms: Limit on the 99th percentile of one call's latency; 0 for no
            limit. The time of waiting for a batch to fill is not in it.
        max_memory_mb: Limit on the resident memory of all instances in sum, in MiB,
            the timed inputs included; 0 for nine tenths of the memory free at the start.
        max_batch: The largest batch to try.
        max_instances: The most processes to try; 0 for one for each usable core.
            Threads times instances never exceed the usable cores.
        gpu_memory_mb: MiB of each GPU's memory that TensorFlow may take in each process, for
            a SavedModel; 0 for what it needs.
        max_trials: Settings to try, the measurements in the end not counted.
        budget_seconds: After this time no other setting is tried.
        trial_seconds: Time for which a setting is timed once all is loaded; at least 10 calls.
        timeout_seconds: Time limit of a trial.
        seed: Seed of the drawn inputs.

    Raises:
        ParameterError: `gpu_memory_mb` for a candidate that does not run in TensorFlow.
        ModelError: Source and candidate don't take the same inputs, or can't be loaded.
        ExamplesError: The examples are not what the source takes.
        MissingDependencyError: The candidate was split over more GPUs than there are.
        UnsupportedError: No setting is within the limits.
        StepFailedError: Not even the first setting could be run.
    """
    from paring.runtimes import find_served

    candidate = (candidate or source).numeric_core()
    if gpu_memory_mb and not find_served(candidate.path).runtime.limits_gpu_memory:
        raise ParameterError(
            "gpu_memory_mb: only TensorFlow has this limit",
            received=f"{gpu_memory_mb} for {candidate.path}",
            remedy="leave it at 0, or give a SavedModel",
        )
    free = free_memory_bytes()
    memory_bytes = max_memory_mb * _MIB or int(_SHARE_OF_FREE * free)
    environment = {**describe(), "load_average": list(os.getloadavg())}
    cores = int(describe()["cores"])
    end = time.monotonic() + budget_seconds
    with tempfile.TemporaryDirectory(prefix="paring-tune-") as folder:
        trials = _Trials(
            source,
            candidate,
            examples,
            Path(folder),
            max_latency_ms=max_latency_ms,
            memory_bytes=memory_bytes,
            gpu_memory_mb=gpu_memory_mb,
            trial_seconds=trial_seconds,
            timeout_seconds=timeout_seconds,
            seed=seed,
        )
        fixed = trials.fixed_batch()
        bounds = Bounds(fixed or 1, fixed or max_batch, max_instances or cores, cores)
        search = Search(
            trials.attempt, bounds, max_trials=max_trials, may_go_on=lambda: time.monotonic() < end
        )
        fitting = search.run()
        best = _confirmed(fitting, trials.attempt)
        if best is None:
            raise _nothing_fits(candidate, trials.rows)
        baseline = trials.attempt(Setting(bounds.min_batch))
    configuration.batch_size = best.setting.batch_size
    configuration.threads = best.setting.threads
    configuration.instances = best.setting.instances
    configuration.gpu_memory_mb = gpu_memory_mb
    configuration.p50_ms, configuration.p99_ms = best.p50_ms, best.p99_ms
    configuration.throughput = best.throughput
    configuration.baseline_throughput = baseline.throughput or None
    configuration.peak_memory_bytes = best.peak_memory_bytes
    configuration.peak_device_memory_bytes = best.peak_device_memory_bytes
    configuration.trials = len(search.trials)
    details = {
        "limits": {
            "max_latency_ms": max_latency_ms or None,
            "max_memory_bytes": memory_bytes,
            "min_batch": bounds.min_batch,
            "max_batch": bounds.max_batch,
            "max_instances": bounds.max_instances,
        },
        "ended": search.ended,
        "table": trials.rows,
        "method": {
            "latency": "of one call, from NumPy arrays to NumPy arrays; the limit is on p99_ms",
            "throughput": "the sum over the processes of batch_size / mean latency",
            "peak_memory_bytes": "the sum of the processes' VmHWM",
            "peak_device_memory_bytes": trials.device_memory,
            "trial_seconds": trial_seconds,
            "seed": seed,
        },
        "environment": {**environment, "free_memory_bytes": free, **trials.seen},
    }
    configuration.write_facts(configuration.file, details)
    _log.info(
        "batch %d, %d threads, %d processes: %.0f examples a second",
        *(best.setting.batch_size, best.setting.threads, best.setting.instances),
        best.throughput,
    )


@dataclass
class _Trials:
    """Trials of settings, with a row for each.

    Attributes:
        source, candidate, examples, folder: As the step has them; a temporary folder.
        max_latency_ms, memory_bytes: The limits; 0 for no limit of latency.
        gpu_memory_mb, trial_seconds, timeout_seconds, seed: As the step has them.
        rows: What was tried, in order, for JSON.
        seen: The accelerators and libraries that the last process had.
        device_memory: Description of how the memory on GPUs was counted; None on the CPU.
    """

    source: Servable
    candidate: Servable
    examples: Examples
    folder: Path
    max_latency_ms: float
    memory_bytes: int
    gpu_memory_mb: int
    trial_seconds: float
    timeout_seconds: float
    seed: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    seen: dict[str, Any] = field(default_factory=dict)
    device_memory: str | None = None

    def fixed_batch(self) -> int | None:
        """Return the only batch that the candidate takes; None if it takes any."""
        from paring.benchmarking.devices import check_devices
        from paring.benchmarking.measure import Spec
        from paring.benchmarking.process import measure

        spec = Spec("inspect", **self._common("", [], folder=self.folder, threads=1))
        result = measure(spec, timeout_seconds=self.timeout_seconds)
        check_devices(self.candidate, result["accelerators"])
        self.seen["runtime"] = result["runtime"]
        return None if result["batch_size"] is None else int(result["batch_size"])

    def attempt(self, setting: Setting) -> Trial:
        """Measure one setting.

        Raises:
            ParingError: It can't be measured, and no smaller one could be.
        """
        trial = self._attempt(setting)
        self.rows.append(
            {
                **asdict(setting),
                "p50_ms": trial.p50_ms,
                "p99_ms": trial.p99_ms,
                "throughput": trial.throughput or None,
                "peak_memory_bytes": trial.peak_memory_bytes,
                "peak_device_memory_bytes": trial.peak_device_memory_bytes,
                "why_not": trial.why_not or None,
            }
        )
        _log.info("%s: %s", setting, trial.why_not or f"{trial.throughput:.0f} a second")
        return trial

    def _attempt(self, setting: Setting) -> Trial:
        from paring.benchmarking.measure import Spec
        from paring.benchmarking.process import measure_together

        inputs, names = self._inputs(setting.batch_size)
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        specs = []
        for number in range(setting.instances):
            own = folder / str(number)
            own.mkdir()
            common = self._common(str(inputs), names, folder=own, threads=setting.threads)
            specs.append(Spec("throughput", **common, window_seconds=self.trial_seconds))
        try:
            result = measure_together(
                specs, timeout_seconds=self.timeout_seconds, memory_bytes=self.memory_bytes
            )
            return self._judged(setting, specs, result)
        except (StepFailedError, UnsupportedError) as error:
            # The rest of a crash stands in the log of the first trial alone.
            if not self.rows:
                raise
            return Trial(setting, why_not=error.what)
        finally:
            shutil.rmtree(folder)

    def _judged(self, setting: Setting, specs: list["Spec"], result: list[dict[str, Any]]) -> Trial:
        import numpy as np

        from paring.benchmarking.measure import DEVICE_MEMORY
        from paring.benchmarking.statistics import percentiles

        milliseconds = []
        for spec in specs:
            with np.load(spec.latencies, allow_pickle=False) as arrays:
                milliseconds.append(1e3 * arrays["candidate"])
        pooled = percentiles(np.concatenate(milliseconds))
        memory = sum(item["peak_memory_bytes"] for item in result)
        self.device_memory = DEVICE_MEMORY[result[0]["device_memory_counted"]]
        self.seen |= {name: result[0][name] for name in ("accelerators", "libraries")}
        why_not = ""
        if self.max_latency_ms and pooled.p99 > self.max_latency_ms:
            why_not = f"a p99 of {pooled.p99:.3g} ms is over {self.max_latency_ms:g} ms"
        elif memory > self.memory_bytes:
            why_not = f"{format_size(memory)} are over {format_size(self.memory_bytes)}"
        return Trial(
            setting,
            pooled.p50,
            pooled.p99,
            sum(setting.batch_size * 1e3 / float(item.mean()) for item in milliseconds),
            memory,
            device_memory(result),
            why_not,
        )

    def _common(
        self, inputs: str, names: list[str], *, folder: Path, threads: int
    ) -> dict[str, Any]:
        return {
            "source": str(self.source.path.absolute()),
            "candidate": str(self.candidate.path.absolute()),
            "inputs": inputs,
            "names": names,
            "folder": str(folder),
            "threads": threads,
            "gpu_memory_mb": self.gpu_memory_mb,
            "source_signature": self.source.signature,
            "candidate_signature": self.candidate.signature,
            "trusted": self.source.trusted,
            "engine_trusted": self.source.engine_trusted,
        }

    def _inputs(self, batch_size: int) -> tuple[Path, list[str]]:
        """Return the file with batches of this size, and the names of the inputs."""
        from paring.benchmarking.timed_inputs import draw_inputs

        file = self.folder / f"inputs-{batch_size}.npz"
        listed = file.with_suffix(".json")
        if not listed.exists():
            # No other batch is kept: a large one of images takes a gigabyte.
            for old in self.folder.glob("inputs-*"):
                old.unlink()
            batches = min(max(_DRAWN_EXAMPLES // batch_size, _MIN_BATCHES), _MAX_BATCHES)
            names = draw_inputs(
                self.source,
                self.examples,
                batch_size=batch_size,
                batches=batches,
                seed=self.seed,
                file=file,
            )
            listed.write_text(json.dumps(names))
        return file, json.loads(listed.read_text())


def device_memory(results: list[dict[str, Any]]) -> int | None:
    """Return the peak memory on GPUs of processes that ran together; None if it is not known.

    What the driver counts for a whole GPU can't be divided among several processes.
    """
    peaks = [result["peak_device_memory_bytes"] for result in results]
    if None in peaks:
        return None
    whole = any(result["device_memory_counted"] == "device" for result in results)
    return None if whole and len(results) > 1 else sum(peaks)


def _confirmed(fitting: list[Trial], attempt: Callable[[Setting], Trial]) -> Trial | None:
    """Return the first of `fitting` that fits when it is measured again.

    Of many measurements the best is so by luck too, and another one is not.
    """
    for trial in fitting:
        again = attempt(trial.setting)
        if not again.why_not:
            return again
    return None


def _nothing_fits(candidate: Servable, rows: list[dict[str, Any]]) -> UnsupportedError:
    tried = "; ".join(
        f"batch {row['batch_size']}, {row['threads']} threads, {row['instances']} processes:"
        f" {row['why_not'] or 'fits, and did not when measured again'}"
        for row in rows
    )
    return UnsupportedError(
        f"{candidate.path}: no setting keeps to the limits",
        received=tried,
        remedy="raise max_latency_ms or max_memory_mb",
    )
