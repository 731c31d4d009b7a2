"""TensorFlow's quantizer against ai-edge-quantizer, on the models of compression.py.

    .venv/bin/uv pip install --python .venv/bin/python ai-edge-quantizer==0.10.0
    python benchmarks/quantizers.py [--work DIR]

For each model of benchmarks/compression.py and each kind of quantization, both make a
file of the same float model, calibrated on the same examples. Printed are the accuracy
on the eval split, the agreement with the float file and the root mean square of the
difference from its scores, the size, the size after gzip, the seconds that it took, and
the time of one call as a multiple of that of TensorFlow's file, the two in turns.
ai-edge-quantizer is no dependency of Paring: see docs/adr/0011-quantizer.md.
"""

import argparse
import gzip
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from numpy.typing import NDArray

from paring.artifacts import DEFAULT_SIGNATURE, Examples
from paring.converters.tflite.calibration import calibration_calls
from paring.converters.tflite.conversion import Calls, convert
from paring.data.examples import open_split
from paring.models.saved_model import SavedModel

KINDS: dict[str, Callable[[], Any]] = {
    "dynamic": recipe.dynamic_wi8_afp32,
    "int8": recipe.static_wi8_ai8,
    "int16x8": recipe.static_wi8_ai16,
}
CALIBRATED_ON = 200
ROUNDS, CALLS = 15, 200


def main() -> int:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--work", type=Path, default=Path("out/compression"))
    given = parser.parse_args()
    for folder in sorted(file.parent for file in given.work.glob("*/model")):
        compare(folder.name, folder / "model", folder / "examples.npz")
    return 0


def compare(name: str, model: Path, examples: Path) -> None:
    """Print both quantizers' figures on one model."""
    signature = SavedModel(model).signature()
    calls = calibration_calls(
        open_split(Examples(examples), "train", signature), signature, size=CALIBRATED_ON, seed=0
    )
    held_out = open_split(Examples(examples), "eval", signature)
    images, labels = next(iter(held_out.features.values())), held_out.labels
    whole = convert(SavedModel(model), "none", None).content
    reference = scores(whole, images)
    columns = ("accuracy", "agreement", "rms", "KB", "gzip KB", "seconds", "time")
    print(f"\n{name:<28}" + "".join(f"{column:>11}" for column in columns))
    print(f"{'float32':<28}{np.mean(reference.argmax(1) == labels):>11.2%}")
    for kind, make in KINDS.items():
        files = {}
        for maker, quantize in (
            ("tf.lite", lambda kind=kind: by_tensorflow(model, kind, calls)),
            ("ai-edge", lambda make=make: by_ai_edge(whole, make(), calls)),
        ):
            start = time.perf_counter()
            files[maker] = quantize()
            seconds = time.perf_counter() - start
            result = scores(files[maker], images)
            cells = (
                f"{np.mean(result.argmax(1) == labels):.2%}",
                f"{np.mean(result.argmax(1) == reference.argmax(1)):.2%}",
                f"{np.sqrt(np.mean(np.square(result - reference))):.4f}",
                f"{len(files[maker]) / 1000:.1f}",
                f"{len(gzip.compress(files[maker])) / 1000:.1f}",
                f"{seconds:.1f}",
                f"{time_ratio(files[maker], files['tf.lite'], images[:1]):.2f}x",
            )
            print(f"{f'{kind}, {maker}':<28}" + "".join(f"{cell:>11}" for cell in cells))


def by_tensorflow(model: Path, kind: Any, calls: Calls) -> bytes:
    """The file that the step convert_tflite makes."""
    return convert(SavedModel(model), kind, None if kind == "dynamic" else calls).content


def by_ai_edge(whole: bytes, wanted: Any, calls: Calls) -> bytes:
    """Quantize the float file by ai-edge-quantizer, with inputs and outputs in float."""
    worker = quantizer.Quantizer(bytearray(whole), wanted)
    result = None
    if worker.need_calibration:
        for operator in ("INPUT", "OUTPUT"):
            worker.update_quantization_recipe(".*", operator, algorithm_key="no_quantize")
        result = worker.calibrate({DEFAULT_SIGNATURE: list(calls())})
    return bytes(worker.quantize(result).quantized_model)


def scores(content: bytes, images: NDArray[Any]) -> NDArray[Any]:
    """The file's first output for all images, one at a time."""
    runner = Interpreter(model_content=content).get_signature_runner(DEFAULT_SIGNATURE)
    name = next(iter(runner.get_input_details()))
    return np.concatenate([next(iter(runner(**{name: image}).values())) for image in each(images)])


def each(images: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Batches of one."""
    return (np.asarray(images[row : row + 1]) for row in range(len(images)))


def time_ratio(content: bytes, other: bytes, image: NDArray[Any]) -> float:
    """The median time of a call of `content` over that of `other`, in turns."""
    sides = []
    for item in (content, other):
        interpreter = Interpreter(model_content=item, num_threads=2)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
        sides.append(interpreter)
    ratios = []
    for _ in range(ROUNDS):
        medians = []
        for interpreter in sides:
            times = []
            for _ in range(CALLS):
                start = time.perf_counter()
                interpreter.invoke()
                times.append(time.perf_counter() - start)
            medians.append(statistics.median(times))
        ratios.append(medians[0] / medians[1])
    return statistics.median(ratios)


if __name__ == "__main__":
    sys.exit(main())
