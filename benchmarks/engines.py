"""Throughput of `evaluate` on Flink and on Spark beside one process, on small models.

    python benchmarks/engines.py [--rows N] [--out FILE]

As root: the engines are those of tests/engines. Flink's two task managers start a worker process
each, Spark's executor one for both of its cores. Two classifiers of one layer are compared, so
that what is measured is Paring and Beam rather than TensorFlow. The metric of benchmarks/beam.py
notes when each batch is done in each process. Figures are also written as JSON.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import beam
import numpy as np
from tests.engines.engines import SLOTS, Engines, Flink, Spark, prepare, processes

from paring.execution import environment
from paring.system import hardware


def main() -> int:
    """Run all sides and print their throughput."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--out", type=Path, default=Path("out/engines.json"))
    given = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        save_inputs(work, given.rows)
        os.environ[beam.NOTES] = str(work / "notes")
        with Engines(prepare()) as engines:
            shutil.copy(beam.__file__, engines.folder)
            for name, words in {
                "in process": [],
                "Flink": flags(Flink(engines), work),
                "Spark": flags(Spark(engines), work),
            }.items():
                figures[name] = measured(engines, work, words)
                print(
                    f"{name:<12} {figures[name]['examples_per_second']:9.0f} examples/s"
                    f"  {figures[name]['processor_ms_per_example']:6.4f} ms of a processor each",
                    flush=True,
                )
    result = {
        "rows": given.rows,
        "figures": figures,
        "machine": hardware.describe(),
        "versions": environment(),
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0


def save_inputs(work: Path, rows: int) -> None:
    """Write two SavedModels and random examples."""
    import keras

    for seed, name in enumerate(("source", "candidate")):
        keras.utils.set_random_seed(seed)
        layers = [keras.Input((4,), name="x"), keras.layers.Dense(10, "softmax")]
        keras.Sequential(layers).export(work / name, verbose=False)
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("eval", rows)):
        folder = work / "examples" / f"Split-{split}"
        folder.mkdir(parents=True)
        np.save(folder / "x.npy", generator.random((count, 4), dtype=np.float32))
        np.save(folder / "label.npy", generator.integers(0, 10, count))


def flags(engine: Flink | Spark, work: Path) -> list[str]:
    """Start an engine, and return the flags of `evaluate` for it."""
    engine.start()
    words = f"--runner={engine.name} --job_endpoint=127.0.0.1:{engine.job_port}"
    words += f" {processes(engine.engines)}"
    if isinstance(engine, Flink):
        words += f" --parallelism={SLOTS}"
    return [f"--beam-options={words}", f"--shared-dir={work / 'shared'}"]


def measured(engines: Engines, work: Path, words: Sequence[str]) -> dict[str, float]:
    """Return the examples a second of all processes, and the processor time of an example."""
    notes = work / "notes"
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir()
    command = [sys.executable, "-m", "paring_pipelines.cli.main", "step", "evaluate"]
    command += [f"--source={work}/source", f"--candidate={work}/candidate"]
    command += [f"--examples={work}/examples", f"--evaluation={work}/evaluation"]
    command += [f"--batch-size={beam.BATCH}", "--metric=beam:noted", *words]
    if engines.start("evaluate", command).wait():
        raise RuntimeError(engines.log("evaluate").read_text())
    rates, costs = zip(*(beam.rate_and_cost(file) for file in notes.iterdir()), strict=True)
    return {
        "processes": len(rates),
        "examples_per_second": sum(rates),
        "processor_ms_per_example": 1000 * statistics.fmean(costs),
    }


if __name__ == "__main__":
    sys.exit(main())
