"""The child process of a measurement: `python -m paring.benchmarking.measure SPEC`.

A process of its own keeps out what the parent has loaded and started. The
tasks: "latency" times a candidate and its source alternately, "solo" loads the
candidate alone, for its cold load, first inference and peak memory, "throughput"
times the candidate at the same time as other such processes do, and "inspect" only
says which batch the candidate takes. The results are files in the spec's `folder`;
an expected error is one as well.
"""

import faulthandler
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from paring.artifacts import DEFAULT_SIGNATURE, SERVING_DIR, Servable
from paring.benchmarking.statistics import Array, has_settled, speedup
from paring.errors import ParingError
from paring.runtimes import (
    Features,
    Runtime,
    check_served,
    import_library,
    open_runtime,
    registered_runtimes,
)
from paring.system.distributions import installed_version
from paring.system.memory import release_memory

_log = logging.getLogger("paring.benchmarking.measure")

# When warming up ends at the latest, for each side: in the first round, which
# also raises the CPU's clock and fills the process's caches, and in the others.
_FIRST_WARM_UP_SECONDS = 2.0
_WARM_UP_SECONDS = 0.5
_WARM_UP_WINDOW_SECONDS = 0.02
_MAX_CALLS = 1 << 16

# A frozen graph takes about nine times the size of its constants once it is loaded, and twice
# that while it is.
_LARGE_GRAPH_BYTES = 32 << 20

# Of "throughput": calls that are timed at least, and how often it looks at the clock.
_MIN_CALLS = 10
_WINDOWS = 10

# Of "latency": rounds before an interval may end it. Over two, the interval is some ten
# times as wide as it would be for many.
_MIN_ROUNDS = 3

# The first that Linux ends where memory runs out.
_FIRST_TO_END = "1000"

DEVICE_MEMORY: dict[str | None, str | None] = {
    "allocator": "peak of TensorFlow's allocators, of all GPUs in sum, without CUDA's own context",
    "process": "of the process, by NVML after the last call, with CUDA's own context",
    "device": "what came on the GPU since before the model was loaded, by NVML after the last call",
    None: None,
}
"""Description of each way to count the memory on GPUs, for the record of a measurement."""

_SideName = Literal["source", "candidate"]

_parent = os.getppid()
"""Process that waits for the result."""


@dataclass(frozen=True)
class Spec:
    """Task of the measuring child process, passed to it as JSON.

    Attributes:
        task: "latency", "solo", "throughput" or "inspect".
        source, candidate: Paths of the artifacts.
        inputs: An .npz file whose array `i` [batches, batch, ...] belongs to
            the input `names[i]`.
        names: The signature's inputs.
        folder: Where the results go.
        threads: Threads for one call.
        gpu_memory_mb: MiB of each GPU that TensorFlow may take; 0 for what it needs.
        rounds: How often both models are loaded and timed, at most.
        precision: Relative half-width of the interval of the speed-up at which no further
            round follows; 0 for all rounds.
        windows: Window pairs in a round.
        window_seconds: What a window lasts at least; of "throughput", the whole time.
        seed: Seed of the draw of the side that comes first in each round and pair, and of
            the interval.
        trusted: Whether operators of the models that touch files or processes may run.
        engine_trusted: Whether a TensorRT engine may be loaded.
        source_signature, candidate_signature: Names of the models' signatures.
        compiled: Whether XLA compiles SavedModels, for a TPU where this host has one.
    """

    task: Literal["latency", "solo", "throughput", "inspect"]
    _: KW_ONLY
    source: str
    candidate: str
    inputs: str
    names: list[str]
    folder: str
    threads: int
    rounds: int = 0
    precision: float = 0.0
    windows: int = 0
    window_seconds: float = 0.0
    seed: int = 0
    gpu_memory_mb: int = 0
    trusted: bool = False
    engine_trusted: bool = False
    source_signature: str = DEFAULT_SIGNATURE
    candidate_signature: str = DEFAULT_SIGNATURE
    compiled: bool = False

    @property
    def result(self) -> Path:
        """Path of the JSON result, or of `error` with the fields of a ParingError."""
        return Path(self.folder) / f"{self.task}.json"

    @property
    def latencies(self) -> Path:
        """Path of an .npz with `source` and `candidate`, seconds [rounds, windows, calls].

        For "throughput" it has `candidate` alone, [calls].
        """
        return Path(self.folder) / "latencies.npz"

    @property
    def ready(self) -> Path:
        """Path of the file that "throughput" writes once the candidate is loaded and warm."""
        return Path(self.folder) / "ready"

    @property
    def start(self) -> Path:
        """Path of the file on which all "throughput" children of one parent folder wait."""
        return Path(self.folder).parent / "start"

    def write(self) -> Path:
        """Write the spec into its folder, and return the file."""
        file = Path(self.folder) / f"{self.task}-spec.json"
        file.write_text(json.dumps(asdict(self)))
        return file


class _Side:
    """One model under test: its runtime, and its place in the list of inputs."""

    def __init__(self, name: _SideName, batches: list[Features], spec: Spec) -> None:
        self.model = _servable(name, spec)
        self.batches = batches
        self.spec = spec
        self.runtime: Runtime | None = None
        self.encoded: list[Features] = []
        self.calls = 0
        self._warm_up_calls = 1
        self._next = 0
        self.is_large = _is_large_graph(self.model.path)
        """Whether it is a frozen graph with large constants."""

    def open(self) -> None:
        self.runtime = _open(self.model, self.spec)
        self.encoded = [self.runtime.encode(batch) for batch in self.batches]
        if self.is_large:
            # What loading and the first call have left behind.
            self.runtime.run(self.encoded[0])
            release_memory()

    def close(self) -> None:
        if self.runtime is not None:
            self.runtime.close()
        self.runtime = None

    def time_calls(self, calls: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the seconds of each of so many calls, one after another."""
        if self.runtime is None:
            raise RuntimeError(f"{self.model.path} is not open")
        run, batches, first = self.runtime.run, self.encoded, self._next
        clock = time.perf_counter
        seconds = np.empty(calls)
        # One call that is not counted brings this side back into the caches
        # and lets the other side's threads go to sleep.
        run(batches[first % len(batches)])
        gc.disable()
        try:
            for index in range(calls):
                batch = batches[(first + index) % len(batches)]
                start = clock()
                run(batch)
                seconds[index] = clock() - start
        finally:
            gc.enable()
        self._next = (first + calls) % len(batches)
        return seconds

    def warm_up(self, seconds: float) -> bool:
        """Call until successive windows stop getting faster, and return whether they did.

        Args:
            seconds: When to stop at the latest, after three windows though.
        """
        end = time.perf_counter() + seconds
        medians: list[float] = []
        while not has_settled(medians):
            if time.perf_counter() > end and len(medians) >= 3:
                return False
            timed = self.time_calls(self._warm_up_calls)
            _stop_if_orphaned()
            if (
                timed.sum() < _WARM_UP_WINDOW_SECONDS
                and self._warm_up_calls < _MAX_CALLS
                and time.perf_counter() < end
            ):
                self._warm_up_calls *= 2
            else:
                medians.append(float(np.median(timed)))
        return True

    def calibrate(self, window_seconds: float) -> None:
        """Choose how many calls make a window of at least `window_seconds`."""
        item = float(np.median(self.time_calls(5)))
        self.calls = min(_MAX_CALLS, max(1, int(np.ceil(window_seconds / max(item, 1e-9)))))


def time_latency(spec: Spec) -> dict[str, Any]:
    """Time the two sides alternately; writes `spec.latencies`.

    Both are loaded at once, and their windows alternate. Two large frozen graphs are loaded one
    after the other, and alternate by rounds.
    """
    batches = _read_batches(spec)
    source = _Side("source", batches, spec)
    candidate = _Side("candidate", batches, spec)
    sides = {"source": source, "candidate": candidate}
    rows: dict[str, list[Any]] = {"source": [], "candidate": []}
    steady = {"source": 0, "candidate": 0}
    at_once = not (source.is_large and candidate.is_large)
    # Which side goes first is drawn once and alternates from there, so that
    # each is first equally often.
    swap = int(np.random.default_rng(spec.seed).integers(2))
    for number in range(spec.rounds):
        order = _order(number + swap)
        windows: dict[str, list[Any]] = {"source": [], "candidate": []}
        for loaded in [order] if at_once else [(name,) for name in order]:
            # While it is loaded, a large graph takes twice of what it takes then.
            for name in sorted(loaded, key=lambda name: not sides[name].is_large):
                sides[name].open()
            for name in loaded:
                limit = _WARM_UP_SECONDS if number else _FIRST_WARM_UP_SECONDS
                steady[name] += sides[name].warm_up(limit)
                if not sides[name].calls:
                    sides[name].calibrate(spec.window_seconds)
            for pair in range(spec.windows):
                for name in _order(pair + number + swap):
                    if name in loaded:
                        windows[name].append(sides[name].time_calls(sides[name].calls))
                        _stop_if_orphaned()
            for name in loaded:
                sides[name].close()
            gc.collect()
            # What libraries hold for ever: each model that is closed later has garbage collected
            # several times, and each time all of that would be visited.
            gc.freeze()
        for name, row in rows.items():
            row.append(windows[name])
        _log.info("round %d of %d", number + 1, spec.rounds)
        arrays: dict[str, Any] = {side: np.array(row) for side, row in rows.items()}
        if _is_precise(arrays["source"], arrays["candidate"], spec):
            break
    np.savez(spec.latencies, **arrays)
    return {
        "steady_rounds": steady,
        "libraries": _libraries(),
        "accelerators": _accelerators(),
    }


def _is_precise(source: Array, candidate: Array, spec: Spec) -> bool:
    """Return whether the interval of the speed-up is as narrow as `spec.precision` demands."""
    if not spec.precision or len(source) < _MIN_ROUNDS:
        return False
    ratio = speedup(source, candidate, seed=spec.seed)
    return ratio.high <= ratio.estimate * (1 + spec.precision)


def run_solo(spec: Spec) -> dict[str, Any]:
    """Load and run the candidate alone; times in ms, memory in bytes."""
    batches = _read_batches(spec)
    baseline = peak_memory_bytes()
    artifact = _servable("candidate", spec)
    start = time.perf_counter()
    import_library(artifact)
    imported = time.perf_counter()
    # A server that trusts its model loads it without this.
    check_served(artifact)
    moments = [time.perf_counter()]
    runtime = _open(artifact, spec)
    moments.append(time.perf_counter())
    runtime.run(batches[0])
    moments.append(time.perf_counter())
    for batch in batches:
        runtime.run(batch)
    load_ms, first_ms = (1e3 * float(gap) for gap in np.diff(moments))
    return {
        "import_ms": 1e3 * (imported - start),
        "load_ms": load_ms,
        "first_ms": first_ms,
        "peak_memory_bytes": peak_memory_bytes(),
        "baseline_memory_bytes": baseline,
        **_device_memory(runtime),
        "runtime": runtime.name,
        "imports_tensorflow": "tensorflow" in sys.modules,
        "accelerators": _accelerators(),
        "libraries": _libraries(),
    }


def time_throughput(spec: Spec) -> dict[str, Any]:
    """Time the candidate once `spec.start` is there; writes `spec.latencies`.

    Those that run at the same time begin together, each loaded and warm, and go on for
    `spec.window_seconds`, or longer where that is less than 10 calls.
    """
    side = _Side("candidate", _read_batches(spec), spec)
    side.open()
    side.warm_up(_FIRST_WARM_UP_SECONDS)
    side.calibrate(spec.window_seconds / _WINDOWS)
    spec.ready.touch()
    while not spec.start.exists():
        time.sleep(0.002)
        _stop_if_orphaned()
    end = time.perf_counter() + spec.window_seconds
    windows: list[Any] = []
    while time.perf_counter() < end or len(windows) * side.calls < _MIN_CALLS:
        windows.append(side.time_calls(side.calls))
        _stop_if_orphaned()
    seconds: Any = np.concatenate(windows)
    np.savez(spec.latencies, candidate=seconds)
    return {
        "peak_memory_bytes": peak_memory_bytes(),
        **_device_memory(side.runtime),
        "runtime": side.runtime.name if side.runtime else "",
        "libraries": _libraries(),
        "accelerators": _accelerators(),
    }


def inspect(spec: Spec) -> dict[str, Any]:
    """Load the candidate, and say which batch it takes; None for any."""
    runtime = _open(_servable("candidate", spec), spec)
    return {
        "batch_size": runtime.batch_size,
        "runtime": runtime.name,
        "accelerators": _accelerators(),
    }


def peak_memory_bytes() -> int:
    """Return the highest resident memory of this process so far.

    On Linux VmHWM, since ru_maxrss there also counts what the parent had in
    memory when it forked.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _device_memory(runtime: Runtime | None) -> dict[str, Any]:
    """Return the peak memory of a loaded model on GPUs or TPUs, and what counted it."""
    memory = runtime.peak_device_memory() if runtime else None
    return {
        "peak_device_memory_bytes": memory.bytes if memory else None,
        "device_memory_counted": memory.counted if memory else None,
    }


def run(file: Path) -> int:
    """Run the task of a spec in this process, and return the exit code.

    Args:
        file: What `Spec.write` has returned.
    """
    # A crash in native code leaves Python's stack on stderr, for the parent; also
    # while descriptor 2 itself is silenced, as it is when TensorFlow is imported.
    faulthandler.enable(os.dup(2))
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    spec = Spec(**json.loads(file.read_text()))
    _log.info("%s of %s", spec.task, spec.candidate)
    # The parent goes on without a child that memory runs out for. Some containers have
    # no such file, or no right to write it.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_END)
    global _parent
    _parent = os.getppid()
    code = 0
    try:
        answer = _TASKS[spec.task](spec)
    except ParingError as error:
        answer = {
            "error": {
                "type": type(error).__name__,
                "what": error.what,
                "received": error.received,
                "remedy": error.remedy,
            }
        }
        code = error.exit_code
    spec.result.write_text(json.dumps(answer))
    return code


def _open(model: Servable, spec: Spec) -> Runtime:
    return open_runtime(
        model,
        threads=spec.threads,
        gpu_memory_mb=spec.gpu_memory_mb,
        # What users see is measured: loading and memory. The latency does not depend on it.
        whole=spec.task != "latency",
        compiled=spec.compiled,
    )


def _is_large_graph(path: Path) -> bool:
    """Return whether the path holds a SavedModel whose graph has large constants."""
    files = (path / place / "saved_model.pb" for place in (SERVING_DIR, "."))
    return any(file.is_file() and file.stat().st_size > _LARGE_GRAPH_BYTES for file in files)


def _servable(name: _SideName, spec: Spec) -> Servable:
    is_source = name == "source"
    return Servable(
        Path(spec.source if is_source else spec.candidate),
        signature=spec.source_signature if is_source else spec.candidate_signature,
        trusted=spec.trusted,
        engine_trusted=spec.engine_trusted,
    )


def _order(number: int) -> tuple[str, str]:
    return ("candidate", "source") if number % 2 else ("source", "candidate")


def _read_batches(spec: Spec) -> list[Features]:
    with np.load(spec.inputs, allow_pickle=False) as arrays:
        columns = {name: arrays[str(index)] for index, name in enumerate(spec.names)}
    count = len(next(iter(columns.values())))
    return [{name: column[i] for name, column in columns.items()} for i in range(count)]


def _stop_if_orphaned() -> None:
    """End where the parent was killed: nobody will read the result."""
    if os.getppid() != _parent:
        raise SystemExit("the parent process is gone")


def _accelerators() -> list[str]:
    """Return the models of the GPUs and TPUs that TensorFlow sees, and so runs models on."""
    if "tensorflow" not in sys.modules:
        return []
    import tensorflow as tf

    return [
        str(
            tf.config.experimental.get_device_details(device).get("device_name", device.device_type)
        )
        for device in tf.config.list_physical_devices()
        # TPU_SYSTEM is there with the library for TPUs alone, without a TPU.
        if device.device_type not in ("CPU", "TPU_SYSTEM")
    ]


def _libraries() -> dict[str, str]:
    """Return the versions of the libraries that were really used."""
    modules = {"numpy": "numpy"}
    for spec in registered_runtimes():
        modules |= spec.libraries
    return {
        name: installed_version(name) or "absent"
        for name, module in modules.items()
        if module in sys.modules
    }


_TASKS: dict[str, Callable[[Spec], dict[str, Any]]] = {
    "latency": time_latency,
    "solo": run_solo,
    "throughput": time_throughput,
    "inspect": inspect,
}


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
