"""Latency of each runtime, for three networks of keras.applications.

    python benchmarks/runtimes.py [--model NAME] [--batch-size N] [--candidate NAME]
        [--work DIR]

Builds each network for images of 224x224, makes every candidate by Paring's own steps,
measures each beside the SavedModel, in turns in one run, and prints a row a candidate: the
median latency, how many times as fast as the SavedModel, the peak of memory, the size, and
the share of images with the same class. Images are crops of the two photographs that come
with scikit-learn. Each network is trained for some minutes, on smaller crops, to tell which
part of which photograph it sees, in 16 of its 1,000 classes: one of random weights loses
more by rounding than a trained one. Candidates that are there already are not made again.
Figures are also written as JSON.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from paring.artifacts import EvaluationMetrics
from paring.catalog import find
from paring.converters.savedmodel.serving_forms import GraphVariant, GraphVariants
from paring.errors import ParingError
from paring.execution import Call, environment, execute
from paring.models.quiet import quiet_tensorflow
from paring.models.saved_model import SavedModel
from paring.system import hardware

SIZE = 224
TRAIN, EVAL = 256, 256
NETWORKS = ("MobileNetV2", "EfficientNetB0", "ResNet50")
BATCH_SIZES = (1, 32)

# Training, on crops of this size; the networks average over positions.
_SMALL, _STEPS, _BATCH, _LEARNING_RATE = 96, 200, 32, 2e-3
# Forward passes that the statistics of batch normalization are averaged over.
_PASSES = 16
# Parts of a photograph, from top to bottom and from left to right.
_PARTS = (2, 4)
# A call of the largest takes seconds.
_TIMING = {"rounds": 3, "windows": 4, "min_seconds": 4.0}
_MAX_DISAGREEMENT = 0.1

Link = tuple[str, Mapping[str, object]]

# How much int8 may change a score is left to the accuracy gate.
_ONNX_INT8 = {"precision": "int8", "int8_runtime": "onnxruntime", "max_difference": 1.0}

# Forms of the SavedModel that `optimize_savedmodel` tries, whether or not they help.
FORMS = {
    "savedmodel-xla": GraphVariant(compiled=True),
    "savedmodel-bfloat16": GraphVariant("bfloat16"),
}

CANDIDATES: dict[str, list[Link]] = {
    # Its trials are printed.
    "savedmodel-optimized": [("optimize_savedmodel", {"max_minutes": 5.0})],
    "tflite-float32": [("convert_tflite", {})],
    "tflite-float16": [("convert_tflite", {"quantization": "fp16"})],
    "tflite-dynamic": [("convert_tflite", {"quantization": "dynamic"})],
    "tflite-int8": [("convert_tflite", {"quantization": "int8"})],
    "onnx-float32": [("export_onnx", {})],
    "onnx-int8": [("export_onnx", _ONNX_INT8)],
    "openvino-float32": [("export_onnx", {}), ("convert_openvino", {})],
    "openvino-int8": [
        ("export_onnx", _ONNX_INT8),
        ("convert_openvino", {}),
    ],
}


def main() -> int:
    """Print a table for each network and batch size; 1 if a candidate could not be made."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", choices=NETWORKS, action="append")
    parser.add_argument("--batch-size", type=int, action="append")
    names = [*FORMS, *CANDIDATES]
    # Besides the source.
    parser.add_argument("--candidate", choices=names, action="append")
    parser.add_argument("--work", type=Path, default=Path("out/runtimes"))
    given = parser.parse_args()
    examples = given.work / "examples.npz"
    if not examples.exists():
        given.work.mkdir(parents=True, exist_ok=True)
        np.savez(examples, x_train=crops(TRAIN, seed=0)[0], x_eval=crops(EVAL, seed=1)[0])
    tables: dict[str, dict[str, Any]] = {}
    for name in given.model or NETWORKS:
        folder = given.work / name
        folder.mkdir(exist_ok=True)
        if not (folder / "model").exists():
            build(name, folder / "network")
            run("import_model", {"original": folder / "network"}, folder / "model")
        made = candidates(folder, examples)
        judge(folder, made, examples)
        for batch_size in given.batch_size or BATCH_SIZES:
            title = f"{name}, batch {batch_size}"
            chosen = {item: made[item] for item in ("source", *(given.candidate or names))}
            tables[title] = measure(folder, chosen, examples, batch_size)
            show(title, tables[title])
    result = {"tables": tables, "machine": hardware.describe(), "versions": environment()}
    (given.work / "runtimes.json").write_text(json.dumps(result, indent=2) + "\n")
    return int(any(table["failures"] for table in tables.values()))


def crops(
    count: int, *, seed: int, size: int = SIZE
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Random crops of two photographs, and which part of which each one is.

    Returns:
        Images [count, size, size, 3] in 0 to 1, and classes [count] in 0 to 15.
    """
    photographs = load_sample_images().images
    generator = np.random.default_rng(seed)
    images = np.empty((count, size, size, 3), np.float32)
    classes = np.empty(count, np.int64)
    for index, number in enumerate(generator.integers(0, len(photographs), count)):
        photograph = photographs[number]
        free = np.subtract(photograph.shape[:2], size)
        top, left = generator.integers(0, free)
        images[index] = photograph[top : top + size, left : left + size] / np.float32(255)
        row, column = (top, left) * np.array(_PARTS) // free
        classes[index] = np.ravel_multi_index((number, row, column), (len(photographs), *_PARTS))
    return images, classes


def build(name: str, folder: Path) -> None:
    """Train a network, and export it."""
    quiet_tensorflow()
    import keras

    keras.utils.set_random_seed(0)
    made = getattr(keras.applications, name)
    small = made(weights=None, input_shape=(_SMALL, _SMALL, 3))
    rate = keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, _STEPS)
    small.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    images, classes = crops(_STEPS * _BATCH, seed=2, size=_SMALL)
    small.fit(images, classes, batch_size=_BATCH, verbose=0)
    network = made(weights=None, input_shape=(SIZE, SIZE, 3))
    network.set_weights(small.get_weights())
    kind = keras.layers.BatchNormalization
    normalizations = [layer for layer in network.layers if isinstance(layer, kind)]
    for number in range(_PASSES):
        for layer in normalizations:
            # So that all passes weigh the same in the moving averages, and nothing else.
            layer.momentum = number / (number + 1)
        network(crops(32, seed=number)[0], training=True)
    images, classes = crops(EVAL, seed=1)
    right = np.mean(network.predict(images, verbose=0).argmax(axis=1) == classes)
    print(f"{name} tells {right:.1%} of the crops right", flush=True)
    network.export(str(folder), verbose=False)


def candidates(folder: Path, examples: Path) -> dict[str, Path | str]:
    """Make every candidate; its path by its name, or why there is none."""
    made: dict[str, Path | str] = {"source": folder / "model"}
    for name, form in FORMS.items():
        made[name] = folder / name
        try:
            if not (folder / name).exists():
                write_form(folder / "network", form, folder / name)
        except ParingError as error:
            made[name] = str(error)
    prefixes: dict[str, Path] = {}
    for name, links in CANDIDATES.items():
        model = folder / "model"
        key = ""
        try:
            for step, parameters in links:
                key = f"{key}{step} {json.dumps(parameters)} "
                if key not in prefixes:
                    out = folder / f"{name}-{step}"
                    if not out.exists():
                        print(f"making {out}", flush=True)
                        run(step, {"model": model, "examples": examples}, out, parameters)
                    prefixes[key] = out
                model = prefixes[key]
            made[name] = model
        except ParingError as error:
            made[name] = str(error)
    return made


def write_form(network: Path, form: GraphVariant, out: Path) -> None:
    """Write a SavedModel in another form, and import it."""
    quiet_tensorflow()
    from paring.graphs.graph import load_function

    with tempfile.TemporaryDirectory() as scratch:
        written = Path(scratch) / "written"
        source = SavedModel(network)
        GraphVariants(load_function(source), variables="frozen", fixed_batch=0).build(
            form, written, source
        )
        run("import_model", {"original": written}, out)


def judge(folder: Path, made: Mapping[str, Path | str], examples: Path) -> None:
    """Compare the classes of what was made with the source's; see `judged`."""
    for name, path in made.items():
        if isinstance(path, Path) and not judged(folder, name).exists():
            print(f"judging {name}", flush=True)
            compared = {"source": folder / "model", "candidate": path, "examples": examples}
            run("evaluate", compared, judged(folder, name))


def judged(folder: Path, name: str) -> Path:
    """Return the path of the evaluation of a candidate."""
    return folder / f"judged-{name}"


def measure(
    folder: Path, made: Mapping[str, Path | str], examples: Path, batch_size: int
) -> dict[str, Any]:
    """Measure what was made and judged, and select; `rows`, `failures` and `selected`."""
    there = {name: path for name, path in made.items() if isinstance(path, Path)}
    inputs: dict[str, dict[str, Path]] = {"candidates": there, "benchmarks": {}, "evaluations": {}}
    rows: list[dict[str, Any]] = []
    notes: dict[str, str] = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name, path in there.items():
            compared = {"source": folder / "model", "candidate": path, "examples": examples}
            timed = Path(scratch) / f"timed-{name}"
            metrics = run("benchmark", compared, timed, {"batch_size": batch_size, **_TIMING})
            inputs["evaluations"][name], inputs["benchmarks"][name] = judged(folder, name), timed
            agreement = EvaluationMetrics.load(judged(folder, name)).agreement
            rows.append({"name": name, **metrics.facts(), "agreement": agreement})
            trials = path / "trials.json"
            if trials.is_file():
                notes[name] = "; ".join(map(tried, json.loads(trials.read_text())))
            print(f"measured {name}", flush=True)
        outputs = {item: Path(scratch) / item for item in ("selection", "selected")}
        execute(find("select"), Call(inputs, outputs, {"max_accuracy_drop": _MAX_DISAGREEMENT}))
        selection = json.loads((outputs["selection"] / "selection.json").read_text())
    return {
        "rows": rows,
        "failures": {name: text for name, text in made.items() if isinstance(text, str)},
        "notes": notes,
        "selected": selection["selected"],
    }


def tried(trial: Mapping[str, Any]) -> str:
    """A form that `optimize_savedmodel` tried, and how it compared with the best so far."""
    ratio = trial["speedup"]
    if ratio is None:
        return f"{trial['tried']}: {trial['reason']}"
    result = f"{ratio['estimate']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
    return f"{trial['tried']} {result}"


def run(
    step: str, inputs: Mapping[str, Path], out: Path, parameters: Mapping[str, object] | None = None
) -> Any:
    """Run a step with one output, with those of `inputs` that it takes."""
    result = find(step)
    taken = {name: path for name, path in inputs.items() if name in result.inputs}
    (output,) = result.outputs
    return execute(result, Call(taken, {output: out}, dict(parameters or {})))[output]


def show(title: str, table: Mapping[str, Any]) -> None:
    """Print the rows, the fastest first, as a Markdown table."""
    print(f"\n{title}; selected: {table['selected']}\n")
    print("| | p50 | Faster | Peak memory | Size | Same class |\n" + "| --- " * 6 + "|")
    for row in sorted(table["rows"], key=lambda item: -item["speedup"]):
        print(
            f"| {row['name']} | {row['p50_ms']:.2f} ms | {row['speedup']:.2f}"
            f" ({row['speedup_low']:.2f} to {row['speedup_high']:.2f})"
            f" | {row['peak_memory_bytes'] / 1e6:.0f} MB | {row['size_bytes'] / 1e6:.1f} MB"
            f" | {row['agreement']:.1%} |"
        )
    for name, text in (table["failures"] | table["notes"]).items():
        print(f"{name}: {text}")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())
