"""Overhead of the pipeline: `paring run` against the same work by direct library calls.

    python benchmarks/overhead.py [--repeats N] [--jobs N] [--work DIR]

Each repeat runs both sides in fresh processes, one after the other, and swaps which
goes first; the ratio is that of the medians. The direct calls follow one another, and the
run works on `--jobs` nodes at the same time, on its default number if not given. Then the run
is repeated on unchanged input, which takes all of it from the cache. Figures are also
written as JSON.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from paring.execution import environment
from paring.system import hardware
from paring_pipelines.demo import train_digits_model, write_digits_examples

LIMIT = 1.05
CACHED_LIMIT_SECONDS = 4.0

MEASURING = re.compile(r"(?:benchmark-\S+|measuring) +([\d.]+) s")
"""What both sides say of the time that their measurements took."""


def main() -> int:
    """Run both sides and print the ratio; 1 if it is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("out/overhead"))
    given = parser.parse_args()
    model, examples = given.work / "digits", given.work / "digits.npz"
    if not model.exists():
        write_digits_examples(examples)
        train_digits_model(model)
    paring_out, direct_out = given.work / "paring", given.work / "direct"
    run = [sys.executable, "-m", "paring_pipelines.cli.main", "run"]
    run += ["--model", str(model), "--examples", str(examples), "--out", str(paring_out)]
    run += ["--jobs", str(given.jobs)]
    direct = [sys.executable, str(Path(__file__).with_name("direct.py"))]
    direct += [str(model), str(examples), str(direct_out)]
    sides = {"paring run": (run, paring_out), "direct calls": (direct, direct_out)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    others: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(given.repeats):
        for name in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
            command, out = sides[name]
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            whole, shown = timed(command)
            measuring = sum(float(text) for text in MEASURING.findall(shown))
            seconds[name].append(whole)
            others[name].append(whole - measuring)
            print(f"{name:<14} {whole:7.1f} s  {measuring:.1f} s of it to measure", flush=True)
    ratio, other = ratio_of(seconds), ratio_of(others)
    cached = cached_seconds(run)
    print(f"ratio          {ratio:7.3f}    limit {LIMIT}")
    print(f"not measuring  {other:7.3f}    the same without the time to measure")
    print(f"cached again   {cached:7.2f} s  limit {CACHED_LIMIT_SECONDS:g}")
    result = {
        "seconds": seconds,
        "ratio": ratio,
        "ratio_without_measuring": other,
        "cached_seconds": cached,
        "machine": hardware.describe(),
        "versions": environment(),
    }
    (given.work / "overhead.json").write_text(json.dumps(result, indent=2) + "\n")
    return int(ratio > LIMIT or cached > CACHED_LIMIT_SECONDS)


def ratio_of(seconds: dict[str, list[float]]) -> float:
    """The median of `paring run` over that of the direct calls."""
    return statistics.median(seconds["paring run"]) / statistics.median(seconds["direct calls"])


def timed(command: list[str]) -> tuple[float, str]:
    """Seconds of wall time, and what the command printed."""
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - start, done.stdout


def cached_seconds(run: list[str]) -> float:
    """Return the seconds of wall time of a fully cached run."""
    seconds, shown = timed(run)
    if "nodes were cached" not in shown:
        raise RuntimeError(f"the second run was not taken from the cache:\n{shown}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
