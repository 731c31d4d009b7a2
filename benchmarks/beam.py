"""Throughput of `evaluate` with several workers against one.

    python benchmarks/beam.py [--workers N] [--repeats N] [--batches N] [--work DIR]

MobileNetV2 with random weights at 96x96 is compared with itself on random images, with
TensorFlow held to one thread a process, so that what scales is the processes. Both sides
run in fresh processes, in turns. A metric notes when each batch is done, in whatever
process that is, which tells the throughput without the start; and the processor time that
an example takes, which tells what it would be on cores that nobody else uses. Figures are
also written as JSON.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paring.execution import environment
from paring.system import hardware

SIZE = 96
BATCH = 64
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}
NOTES = "PARING_BEAM_NOTES"
"""The environment variable with the folder that `noted` writes to."""


def main() -> int:
    """Run both sides and print their throughput."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--batches", type=int, default=80)
    parser.add_argument("--work", type=Path, default=Path("out/beam"))
    given = parser.parse_args()
    work = given.work.absolute()
    if not (work / "mobilenet_v2").exists():
        save_model(work / "mobilenet_v2")
    save_examples(work / "examples", given.batches * BATCH)
    several = f"--direct_num_workers={given.workers} --direct_running_mode=multi_processing"
    sides = {"1 process": "", f"{given.workers} processes": several}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    costs: dict[str, list[float]] = {name: [] for name in sides}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(given.repeats):
        for name in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
            took, answer = measured(work, sides[name])
            seconds[name].append(took)
            rates[name].append(sum(rate for rate, _ in answer))
            costs[name].append(1000 * statistics.fmean(cost for _, cost in answer))
            print(
                f"{name:<12} {rates[name][-1]:7.1f} examples/s  {costs[name][-1]:5.2f} ms of a"
                f" processor each  {took:6.1f} s in all",
                flush=True,
            )
    ratio = ratio_of(rates)
    print(
        f"ratio        {ratio:7.2f} by throughput, {ratio_of(costs):.2f} by processor time,"
        f" {1 / ratio_of(seconds):.2f} with the start"
    )
    result = {
        "examples": given.batches * BATCH,
        "examples_per_second": rates,
        "processor_ms_per_example": costs,
        "seconds": seconds,
        "ratio": ratio,
        "machine": hardware.describe(),
        "versions": environment(),
    }
    (work / "beam.json").write_text(json.dumps(result, indent=2) + "\n")
    return 0


def noted(predictions: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Note both times of this process; called with the source's batch, then the candidate's."""
    with (Path(os.environ[NOTES]) / str(os.getpid())).open("a") as stream:
        stream.write(f"{time.time()} {time.process_time()}\n")
    right: NDArray[np.bool_] = predictions.argmax(axis=1) == labels
    return right


def save_model(folder: Path) -> None:
    """Write the SavedModel."""
    import keras

    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2((SIZE, SIZE, 3), weights=None, classes=10)
    model.export(folder, verbose=False)


def save_examples(examples: Path, rows: int) -> None:
    """Write random images in the layout that `evaluate` maps without a copy."""
    shutil.rmtree(examples, ignore_errors=True)
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("eval", rows)):
        folder = examples / f"Split-{split}"
        folder.mkdir(parents=True)
        np.save(folder / "x.npy", generator.random((count, SIZE, SIZE, 3), dtype=np.float32))
        np.save(folder / "label.npy", generator.integers(0, 10, count))


def measured(work: Path, beam_options: str) -> tuple[float, list[tuple[float, float]]]:
    """Seconds of one `paring step evaluate`, and `rate_and_cost` of each process."""
    notes = work / "notes"
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir()
    command = [sys.executable, "-m", "paring_pipelines.cli.main", "step", "evaluate"]
    command += [f"--source={work}/mobilenet_v2", f"--candidate={work}/mobilenet_v2"]
    command += [f"--examples={work}/examples", f"--evaluation={work}/evaluation"]
    command += [f"--batch-size={BATCH}", f"--metric={Path(__file__).stem}:noted"]
    command += [f"--beam-options={beam_options}"]
    surroundings = os.environ | ONE_THREAD | {NOTES: str(notes)}
    start = time.perf_counter()
    # The metric is looked for in the working directory.
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        env=surroundings,
        cwd=Path(__file__).parent,
    )
    took = time.perf_counter() - start
    return took, [rate_and_cost(file) for file in notes.iterdir()]


def rate_and_cost(file: Path) -> tuple[float, float]:
    """Examples a second, and processor seconds an example, after a process's first batch."""
    # The second of each two calls ends a batch. The first batch compiles.
    ends = [[float(part) for part in line.split()] for line in file.read_text().splitlines()][1::2]
    examples = (len(ends) - 1) * BATCH
    wall, processor = (last - first for first, last in zip(ends[0], ends[-1], strict=True))
    return examples / wall, processor / examples


def ratio_of(figures: dict[str, list[float]]) -> float:
    """The median with several processes over that with one."""
    item, several = (statistics.median(figure) for figure in figures.values())
    return several / item


if __name__ == "__main__":
    sys.exit(main())
