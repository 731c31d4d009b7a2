"""Size and latency of MobileNetV2 at 96x96 after `prune_channels`, as TFLite float32.

    python benchmarks/channels.py OUT [--threads N]

The weights are random, for they are of no matter to size and latency. What OUT holds
from an earlier run is not made again. The files take turns in one process, in an order
drawn again in each round; speed-ups are those over the file with all channels.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from paring.artifacts import TFLiteModel
from paring.benchmarking.statistics import Array, speedup
from paring.execution import Call, execute
from paring.step import Step
from paring.steps.convert_tflite import convert_tflite
from paring.steps.import_model import import_model
from paring.steps.profile import profile
from paring.steps.prune_channels import prune_channels

VARIANTS: dict[str, dict[str, float | int]] = {
    "0.3": {"ratio": 0.3},
    "0.3, multiples of 8": {"ratio": 0.3, "multiple_of": 8},
    "0.5": {"ratio": 0.5},
    "0.5, multiples of 8": {"ratio": 0.5, "multiple_of": 8},
}
SIZE, CLASSES, SECONDS, CALLS, WARM_UP = 96, 10, 60.0, 10, 20


def main() -> None:
    """Make the models that are not there yet, time them and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    out: Path = given.out
    if not (out / "few.npz").exists():
        write_source(out)
    made("source", out, import_model, {"original": out / "mobilenet_v2.keras"}, "model")
    names = {"all": "source"}
    for name, parameters in VARIANTS.items():
        inputs = {"model": out / "source", "examples": out / "few.npz"}
        names[name] = name.replace(", ", "-").replace(" ", "-")
        parameters = {**parameters, "importance": "l1", "epochs": 1, "batch_size": 8}
        made(names[name], out, prune_channels, inputs, "pruned", parameters)
    latencies = timed({name: lite(out, folder).file for name, folder in names.items()}, given)
    for name, folder in names.items():
        counted = made(f"{folder}-profile", out, profile, {"model": out / folder}, "profile")
        over = speedup(latencies["all"], latencies[name])
        print(
            f"{name:<20} {counted.parameters:9,} parameters {counted.flops / 1e6:6.1f} MFLOPs"
            f" {lite(out, folder).size_bytes / 1e6:5.2f} MB"
            f" {np.median(latencies[name]) * 1e3:6.3f} ms"
            f" {over.estimate:5.2f} [{over.low:.2f}, {over.high:.2f}]"
        )


def write_source(out: Path) -> None:
    """The Keras file, and 40 random images to fine-tune with."""
    import keras

    keras.utils.set_random_seed(0)
    shape = (SIZE, SIZE, 3)
    model = keras.applications.MobileNetV2(input_shape=shape, weights=None, classes=CLASSES)
    out.mkdir(parents=True)
    model.save(out / "mobilenet_v2.keras")
    x = np.random.default_rng(0).uniform(-1, 1, (40, *shape)).astype(np.float32)
    y = np.arange(40) % CLASSES
    np.savez(out / "few.npz", x_train=x, y_train=y, x_eval=x, y_eval=y)


def made(
    folder: str,
    out: Path,
    step: Step,
    inputs: dict[str, Path],
    output: str,
    parameters: dict[str, object] | None = None,
) -> Any:
    """The step's output in its folder below `out`, made if it is not there."""
    path = out / folder
    if path.exists():
        return step.outputs[output].load(path)
    return execute(step, Call(inputs, {output: path}, parameters or {}))[output]


def lite(out: Path, folder: str) -> TFLiteModel:
    """The model of that folder as a TFLite file in float32."""
    inputs, parameters = {"model": out / folder}, {"quantization": "none"}
    file: TFLiteModel = made(f"{folder}-lite", out, convert_tflite, inputs, "converted", parameters)
    return file


def timed(files: dict[str, Path], given: argparse.Namespace) -> dict[str, Array]:
    """Seconds for each file's calls, [rounds, 1, calls]."""
    generator = np.random.default_rng(0)
    image = generator.uniform(-1, 1, (1, SIZE, SIZE, 3)).astype(np.float32)
    interpreters = {}
    for name, file in files.items():
        interpreter = Interpreter(str(file), num_threads=given.threads)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        for _ in range(WARM_UP):
            interpreter.invoke()
        interpreters[name] = interpreter
    seconds: dict[str, list[list[list[float]]]] = {name: [] for name in files}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        for name in generator.permutation(list(files)).tolist():
            marks = [time.perf_counter()]
            for _ in range(CALLS):
                interpreters[name].invoke()
                marks.append(time.perf_counter())
            seconds[name].append([np.diff(marks).tolist()])
    return {name: np.array(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
