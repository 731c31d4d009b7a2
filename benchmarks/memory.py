"""Peak memory of each step, on three networks of keras.applications.

    python benchmarks/memory.py [--model NAME] [--step NAME] [--images N] [--work DIR]

Builds each network for images of 224x224, with weights of its initializers, and random
images, and runs each step on them as a container does: `paring step`, in a process of its
own. Prints the most memory that was resident at once in that process and those that it
started, in a table. Trainings and measurements are short, which changes their results and
not their memory. What was measured already, in this folder, is not measured again. Figures
are also written as JSON.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from paring.artifacts import read_record
from paring.execution import environment
from paring.system import hardware

NETWORKS = ("MobileNetV2", "EfficientNetB0", "ResNet50")
SIZE, CLASSES = 224, 1000

_LOOK_SECONDS = 0.1
_SHORT_TRAINING = "--epochs 1"
_SHORT_TIMING = "--rounds 2 --windows 1 --min-seconds 0.5"


@dataclass(frozen=True)
class Row:
    """A step, with what it is given.

    Attributes:
        name: What the table calls it, and the folder of its output.
        inputs: Names of rows, by the step's inputs; of families, by KEY after the colon.
        output: The step's output that others take.
        options: Further options.
        others: The step's further outputs.
    """

    name: str
    inputs: dict[str, str]
    output: str
    options: str = ""
    others: tuple[str, ...] = field(default=())

    @property
    def step(self) -> str:
        """The step's name."""
        return self.name.partition(" ")[0]


_SOURCE = {"model": "import_model"}
_BOTH = {**_SOURCE, "examples": "import_examples"}
_CALIBRATED = {**_BOTH, "calibration": "draw_calibration"}
_COMPARED = {"source": "import_model", "examples": "import_examples"}
# Nobody learns anything from random labels: int8 may change what it likes.
_ANY = "--max-difference 1"

ROWS = (
    Row("import_model", {"original": "network"}, "model"),
    Row("import_examples", {"original": "images", "model": "import_model"}, "examples"),
    Row("draw_calibration", _BOTH, "calibration"),
    Row("profile", _SOURCE, "profile"),
    Row("check_tpu", _SOURCE, "readiness"),
    Row("convert_tflite none", _BOTH, "converted"),
    Row("convert_tflite int8", _CALIBRATED, "converted", "--quantization int8"),
    Row("convert_mixed", _CALIBRATED, "converted", "--max-difference 0.5"),
    Row("export_onnx fp32", _BOTH, "exported"),
    Row("export_onnx fp16", _BOTH, "exported", f"--precision fp16 {_ANY}"),
    Row("export_onnx int8", _CALIBRATED, "exported", f"--precision int8 {_ANY}"),
    Row(
        "convert_openvino",
        {"model": "export_onnx fp32", "examples": "import_examples"},
        "converted",
    ),
    Row(
        "build_tensorrt",
        {"model": "export_onnx int8"},
        "engine",
        "--product rtx --compute-capability 8.9",
    ),
    Row("optimize_savedmodel", _BOTH, "optimized", _SHORT_TIMING),
    Row("split_model", _BOTH, "split", "--device-type CPU"),
    Row("prune", _BOTH, "pruned", _SHORT_TRAINING),
    Row("prune_channels", _BOTH, "pruned", _SHORT_TRAINING),
    Row("cluster", _BOTH, "clustered", _SHORT_TRAINING),
    Row("quantize", _BOTH, "quantized", _SHORT_TRAINING),
    Row("distill", _BOTH, "distilled", _SHORT_TRAINING),
    Row(
        "benchmark",
        {**_COMPARED, "candidate": "convert_tflite none"},
        "metrics",
        _SHORT_TIMING,
    ),
    # The constants of a frozen graph take many times their size when it is loaded.
    Row(
        "benchmark optimize_savedmodel",
        {**_COMPARED, "candidate": "optimize_savedmodel"},
        "metrics",
        _SHORT_TIMING,
    ),
    Row("evaluate", {**_COMPARED, "candidate": "convert_tflite none"}, "evaluation"),
    Row(
        "tune_batch",
        {**_COMPARED, "candidate": "convert_tflite none"},
        "configuration",
        "--max-batch 8 --budget-seconds 60",
    ),
    Row(
        "select",
        {
            "candidates:source": "import_model",
            "candidates:float": "convert_tflite none",
            "benchmarks:float": "benchmark",
            "benchmarks:source": "benchmark",
            "evaluations:float": "evaluate",
            "evaluations:source": "evaluate",
        },
        "selection",
        others=("selected",),
    ),
)


def main() -> int:
    """Measure what has not been measured, and print the table; 1 if a step failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", action="append", choices=NETWORKS, default=[])
    parser.add_argument("--step", action="append", choices=sorted({r.step for r in ROWS}))
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--work", type=Path, default=Path("out/memory"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    _in_process(_write_images, given.work / f"images-{given.images}.npz")
    failed = False
    for network in given.model or NETWORKS:
        folder = given.work / network
        folder.mkdir(exist_ok=True)
        _in_process(_write_network, folder / "network")
        for row in ROWS:
            known = peaks(given.work, network)
            if row.name in known or (given.step and row.step not in given.step):
                continue
            peak, reason = measure(row, folder, given.work / f"images-{given.images}.npz")
            failed = failed or bool(reason)
            result = f"{peak / 1e9:.2f} GB" if peak else "-"
            print(f"{network}  {row.name:<34} {result}  {reason}", flush=True)
            known[row.name] = peak
            document = {
                "peak_bytes": known,
                "machine": hardware.describe(),
                "versions": environment(),
            }
            (folder / "memory.json").write_text(json.dumps(document, indent=2) + "\n")
    print(table(given.work))
    return int(failed)


def peaks(work: Path, network: str) -> dict[str, int | None]:
    """Return the measured peaks on a network in bytes; None where a step can't take it."""
    file = work / network / "memory.json"
    if not file.is_file():
        return {}
    result: dict[str, int | None] = json.loads(file.read_text())["peak_bytes"]
    return result


def table(work: Path) -> str:
    """All that was measured, in Markdown; a dash where a step can't take the network."""
    known = {network: peaks(work, network) for network in NETWORKS}
    lines = ["| Step | " + " | ".join(NETWORKS) + " |", "| --- |" + " ---: |" * len(NETWORKS)]
    for row in ROWS:
        texts = [_cell(known[network], row.name) for network in NETWORKS]
        lines.append(f"| `{row.step}`{row.name[len(row.step) :]} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def _cell(known: dict[str, int | None], name: str) -> str:
    if name not in known:
        return ""
    peak = known[name]
    return "–" if peak is None else f"{peak / 1e9:.1f}"


def measure(row: Row, folder: Path, images: Path) -> tuple[int | None, str]:
    """Run a row's step; its peak in bytes, and why there is none."""

    def place(name: str) -> Path:
        return images if name == "images" else folder / name.replace(" ", "-")

    command = [sys.executable, "-m", "paring_pipelines.cli.main", "step", row.step]
    for name, source in row.inputs.items():
        flag, _, key = name.partition(":")
        path = place(source)
        record = read_record(path)
        if record is not None and record.get("failure"):
            return None, f"{source} could not be made"
        command += [f"--{flag}", f"{key}={path}" if key else str(path)]
    out = place(row.name)
    for name in (row.output, *row.others):
        target = out if name == row.output else out.with_name(f"{out.name}-{name}")
        shutil.rmtree(target, ignore_errors=True)
        command += [f"--{name}", str(target)]
    command += ["--tolerate", *row.options.split()]
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        peak, code = watch(child)
        log.seek(0)
        if code:
            return None, log.read()[-1000:]
    record = read_record(out)
    failure = (record or {}).get("failure")
    return (None, failure["reason"]) if failure else (peak, "")


def watch(child: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> tuple[int, int]:
    """Wait for a child; the most that it and its children had resident at once, in bytes.

    Looked at ten times a second. Of the child itself the kernel remembers the peak. Files that
    are mapped, the same libraries in each process, are counted for the process that maps most.

    Returns:
        The peak, and the exit code.
    """
    process = psutil.Process(child.pid)
    peak = 0
    while True:
        number, status, used = os.wait4(child.pid, os.WNOHANG)
        if number:
            child.returncode = os.waitstatus_to_exitcode(status)
            return max(peak, used.ru_maxrss << 10), child.returncode
        own, mapped = 0, 0
        for item in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                memory = item.memory_info()
                own += memory.rss - memory.shared
                mapped = max(mapped, memory.shared)
        peak = max(peak, own + mapped)
        time.sleep(_LOOK_SECONDS)


def _in_process(write: Callable[[Path], None], path: Path) -> None:
    """Have a child write what is not there, so that this process stays small."""
    if path.exists():
        return
    command = [sys.executable, __file__, "--write", write.__name__, str(path)]
    subprocess.run(command, check=True)


def _write_images(path: Path) -> None:
    import numpy as np

    count = int(path.stem.rpartition("-")[2])
    generator = np.random.default_rng(0)
    images = generator.random((count, SIZE, SIZE, 3), dtype=np.float32)
    np.savez(path, image=images, label=generator.integers(0, CLASSES, count))


def _write_network(path: Path) -> None:
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((SIZE, SIZE, 3), name="image")
    build = getattr(tf_keras.applications, path.parent.name)
    build(weights=None, input_tensor=image, classes=CLASSES).save(path, save_format="tf")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        globals()[sys.argv[2]](Path(sys.argv[3]))
    else:
        sys.exit(main())
