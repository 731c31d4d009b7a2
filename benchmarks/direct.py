"""The work of `paring run` with its default recipes, by direct calls of the libraries.

The yardstick of overhead.py: a plain script as an engineer would write it for this
one model, with tf_keras, tensorflow-model-optimization, TensorFlow's converter and
LiteRT. No metadata, digests, checks of the input, profile or report. Only latency is
measured by Paring's own child process, since a fresh process for each candidate that
alternates it with the source is part of the work itself.

    python benchmarks/direct.py MODEL EXAMPLES.npz OUT
"""

import gzip
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from paring.benchmarking.measure import Spec
from paring.benchmarking.process import measure
from paring.benchmarking.statistics import speedup
from paring.models.quiet import quiet_tensorflow, silent_stderr

quiet_tensorflow()
import tensorflow as tf  # noqa: E402
import tensorflow_model_optimization as tfmot  # noqa: E402
import tf_keras  # noqa: E402
from ai_edge_litert.interpreter import Interpreter  # noqa: E402

EPOCHS, BATCH, INPUT = 2, 32, "image"
ROUNDS, WINDOWS, MIN_SECONDS = 8, 4, 3.0


class Data:
    """The digits, with a tenth of the train split held out to choose the best epoch."""

    def __init__(self, file: Path) -> None:
        with np.load(file) as arrays:
            self.x, self.y = arrays["x_train"], arrays["y_train"]
            self.x_eval, self.y_eval = arrays["x_eval"], arrays["y_eval"]
        order = np.random.default_rng(0).permutation(len(self.x))
        self.held_out, self.train = order[: len(order) // 10], order[len(order) // 10 :]


def fine_tune(model: Any, data: Data, rate: float, callbacks: list[Any]) -> None:
    """Two epochs; re-estimated batch normalization; the best epoch's weights."""
    model.compile(tf_keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    best: list[Any] = [np.inf, None]

    def keep(epoch: int, logs: Any) -> None:
        reestimate(model, data)
        loss = model.evaluate(data.x[data.held_out], data.y[data.held_out], verbose=0)
        if loss < best[0]:
            best[:] = [loss, model.get_weights()]

    model.fit(
        data.x[data.train],
        data.y[data.train],
        batch_size=BATCH,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[*callbacks, tf_keras.callbacks.LambdaCallback(on_epoch_end=keep)],
    )
    model.set_weights(best[1])


def reestimate(model: Any, data: Data) -> None:
    """One pass in training mode, which moves the batch normalization's averages."""
    forward = tf.function(lambda images: model(images, training=True), reduce_retracing=True)
    for start in range(0, len(data.train), BATCH):
        forward(data.x[data.train[start : start + BATCH]])


def prune(source: Path, data: Data) -> Any:
    """Half of the weights set to zero."""
    steps = EPOCHS * (len(data.train) // BATCH)
    schedule = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.5, 0, steps // 2, frequency=1)
    model = tfmot.sparsity.keras.prune_low_magnitude(
        tf_keras.models.load_model(source), pruning_schedule=schedule
    )
    fine_tune(model, data, 1e-3, [tfmot.sparsity.keras.UpdatePruningStep()])
    return tfmot.sparsity.keras.strip_pruning(model)


def quantize(source: Path, data: Data) -> Any:
    """Trained with fake quantization."""
    model = tfmot.quantization.keras.quantize_model(tf_keras.models.load_model(source))
    fine_tune(model, data, 1e-4, [])
    return model


def convert(
    folder: Path,
    out: Path,
    data: Data | None,
    *,
    optimize: bool,
    rows: range = range(200),
) -> Path:
    """A TFLite file of the SavedModel; int8 where there are data to calibrate on."""
    with silent_stderr():
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
        if optimize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if data is not None:
            converter.representative_dataset = lambda: ({INPUT: data.x[[row]]} for row in rows)
        content = converter.convert()
    file = out / "Format-Serving" / "model.tflite"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    gzip.compress(content, 9)
    return out


def predictor(path: Path) -> Callable[[Any], Any]:
    """A function from images to classes."""
    file = path / "Format-Serving" / "model.tflite"
    if not file.is_file():
        model = tf.saved_model.load(str(path))

        def predict(images: Any) -> Any:
            (scores,) = model.signatures["serving_default"](**{INPUT: images}).values()
            return scores.numpy().argmax(axis=1)

        return predict
    interpreter = Interpreter(str(file))
    runner = interpreter.get_signature_runner("serving_default")
    (name,) = runner.get_input_details()
    return lambda images: next(iter(runner(**{name: images}).values())).argmax(axis=1)


def classes(path: Path, data: Data) -> Any:
    """The classes of the eval split, 64 images at a time."""
    predict = predictor(path)
    rows = range(0, len(data.x_eval), 64)
    return np.concatenate([predict(data.x_eval[row : row + 64]) for row in rows])


def time_it(source: Path, candidate: Path, data: Data) -> dict[str, Any]:
    """Latency beside the source, and memory alone, each in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "inputs.npz", **{"0": data.x_eval[:16, np.newaxis]})
        spec = Spec(
            "solo",
            source=str(source),
            candidate=str(candidate),
            inputs=str(Path(folder) / "inputs.npz"),
            names=[INPUT],
            folder=folder,
            threads=tf.config.threading.get_intra_op_parallelism_threads() or 2,
        )
        solo = measure(spec, timeout_seconds=600)
        seconds = MIN_SECONDS / (2 * ROUNDS * WINDOWS)
        timed = replace(
            spec, task="latency", rounds=ROUNDS, windows=WINDOWS, window_seconds=seconds
        )
        measure(timed, timeout_seconds=600)
        with np.load(timed.latencies) as arrays:
            ratio = speedup(arrays["source"], arrays["candidate"])
            return vars(ratio) | {"p50": float(np.median(arrays["candidate"]))} | solo


def main() -> None:
    """Make, judge and time all candidates; print what came of them."""
    source, examples, out = (Path(item) for item in sys.argv[1:])
    data = Data(examples)
    tf_keras.utils.set_random_seed(0)
    pruned, quantized = out / "pruned", out / "quantized"
    for folder, model in ((pruned, prune(source, data)), (quantized, quantize(source, data))):
        model.save(folder, save_format="tf", include_optimizer=False)
    # Whether the calibration examples are enough: what two halves of them make.
    for name, rows in (("first-half", range(100)), ("second-half", range(100, 200))):
        convert(source, out / name, data, optimize=True, rows=rows)
    candidates = {
        "source": source,
        "tflite-float32": convert(source, out / "float32", None, optimize=False),
        "tflite-dynamic": convert(source, out / "dynamic", None, optimize=True),
        "tflite-int8": convert(source, out / "int8", data, optimize=True),
        "prune-int8": convert(pruned, out / "prune-int8", data, optimize=True),
        "qat-int8": convert(quantized, out / "qat-int8", None, optimize=True),
    }
    expected = classes(source, data)
    measuring = 0.0
    for name, path in candidates.items():
        result = classes(path, data)
        figures = {
            "accuracy": float((result == data.y_eval).mean()),
            "agreement": float((result == expected).mean()),
        }
        start = time.perf_counter()
        figures |= time_it(source, path, data)
        measuring += time.perf_counter() - start
        print(name, json.dumps(figures))
    print(f"measuring {measuring:.1f} s")


if __name__ == "__main__":
    main()
