"""Time that a training step waits for its batch, and throughput of importing TFRecords.

    python benchmarks/input_pipeline.py [--part emulated|trained|records|all] [--repeats N]

emulated, trained: batches of random images from mapped columns, as fine-tuning takes them:
read when the step asks for them ("as read"), made ready by one thread ("one thread"), by as
many as tf.data chooses ("parallel", `paring.training.feeding.shuffled_batches`), and the same in
whichever order they are ready ("any order", which Paring does not offer), in turns. The trained
step is that of MobileNetV2 on this machine's processors, which the input pipeline takes time
from. The emulated one sleeps as long as it is said to: an accelerator leaves the processors to
the input pipeline in that time. Nothing is copied to a device by it.

records: TFRecords in eight files become columns, one file and batch after the other
("serial"), the same but counted from length to length ("serial, lengths"), and side by side
(`paring.data.tfrecords.read_records`), in turns; from the page cache.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from paring.artifacts import Examples
from paring.models.quiet import quiet_tensorflow
from paring.models.signature import Signature, TensorSpec

BATCH, WARM_UP = 64, 5

# Width and height, images, steps, and milliseconds of the emulated step.
EMULATED = ((96, 2048, 100, 5.0), (224, 512, 50, 5.0), (224, 512, 50, 20.0))
TRAINED = (96, 2048, 20)

FILES, RECORDS = 8, 500
# Kind, shape of an example, whether packed.
FORMS = [
    (kind, shape, packed)
    for kind, shape in (("raw bytes", (96, 96, 3)), ("float list", (32, 32, 3)))
    for packed in (False, True)
]

Step = Callable[[Any, Any], None]


def main() -> int:
    """Print the requested parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--part", choices=("emulated", "trained", "records", "all"), default="all")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    quiet_tensorflow()
    with tempfile.TemporaryDirectory() as folder:
        if given.part in ("emulated", "all"):
            for size, count, steps, milliseconds in EMULATED:
                title = f"{size}x{size}, emulated step of {milliseconds:g} ms"
                compare_feeds(Path(folder), title, size, count, steps, milliseconds, given.repeats)
        if given.part in ("trained", "all"):
            size, count, steps = TRAINED
            title = f"{size}x{size}, a step of MobileNetV2 on the processors"
            compare_feeds(Path(folder), title, size, count, steps, None, given.repeats)
        if given.part in ("records", "all"):
            for kind, shape, packed in FORMS:
                compare_readers(Path(folder), kind, shape, packed, given.repeats)
    return 0


def compare_feeds(
    folder: Path,
    title: str,
    size: int,
    count: int,
    steps: int,
    emulated_ms: float | None,
    repeats: int,
) -> None:
    """Print for each way to feed the step its time, and what of it was waiting."""
    import tensorflow as tf
    import tf_keras

    from paring.data.examples import open_split
    from paring.training.feeding import labelled_at, shuffled_batches, shuffled_rows

    shape = (size, size, 3)
    split_folder = folder / str(size) / "Split-train"
    if not split_folder.exists():
        split_folder.mkdir(parents=True)
        generator = np.random.default_rng(0)
        images = open_memmap(split_folder / "image.npy", "w+", np.float32, (count, *shape))
        for row in range(count):
            images[row] = generator.random(shape, np.float32)
        images.flush()
        np.save(split_folder / "label.npy", generator.integers(0, 10, count))
    signature = Signature(
        {"image": TensorSpec("image", (None, *shape), "float32")},
        {"scores": TensorSpec("scores", (None, 10), "float32")},
    )
    split = open_split(Examples(split_folder.parent), "train", signature)
    rows = np.arange(split.count)
    image = tf_keras.Input(shape, name="image")
    if emulated_ms is None:
        model = tf_keras.applications.MobileNetV2(weights=None, input_tensor=image, classes=10)
        model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy())
        step: Step = model.train_on_batch
    else:
        # It stands for the names of the inputs and outputs alone.
        model = tf_keras.Model(image, tf_keras.layers.GlobalAveragePooling2D()(image))

        def step(features: Any, labels: Any) -> None:
            time.sleep(emulated_ms / 1e3)

    def as_read() -> Iterator[Any]:
        return (labelled_at(model, split, item) for item in shuffled_rows(rows, BATCH, seed=0))

    specs = tf.nest.map_structure(
        lambda array: tf.TensorSpec(array.shape, array.dtype), next(as_read())
    )
    relaxed = tf.data.Options()
    relaxed.deterministic = False
    sides: dict[str, Callable[[], Iterable[Any]]] = {
        "as read": as_read,
        "one thread": lambda: tf.data.Dataset.from_generator(
            as_read, output_signature=specs
        ).prefetch(tf.data.AUTOTUNE),
        "parallel": lambda: shuffled_batches(model, split, rows, batch_size=BATCH, seed=0),
        "any order": lambda: shuffled_batches(
            model, split, rows, batch_size=BATCH, seed=0
        ).with_options(relaxed),
    }
    result: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for _ in range(repeats):
        for side, batches in sides.items():
            result[side].append(run(step, iter(batches()), steps))
    print(f"\n{title}, batches of {BATCH}")
    for side, pairs in result.items():
        whole = statistics.median(item for item, _ in pairs)
        waited = statistics.median(wait for _, wait in pairs)
        print(
            f"  {side:<11} {whole:8.2f} ms a step, {waited:6.2f} ms of it waiting"
            f" ({waited / whole:.1%}; {', '.join(f'{wait:.2f}' for _, wait in pairs)})"
        )


def run(step: Step, batches: Iterator[Any], steps: int) -> tuple[float, float]:
    """Milliseconds of a training step, and those that it waits for its batch."""
    waited = 0.0
    for index in range(WARM_UP + steps):
        if index == WARM_UP:
            start, waited = time.perf_counter(), 0.0
        before = time.perf_counter()
        features, labels = next(batches)
        waited += time.perf_counter() - before
        step(features, labels)
    whole = time.perf_counter() - start
    return 1e3 * whole / steps, 1e3 * waited / steps


def compare_readers(
    folder: Path, kind: str, shape: tuple[int, ...], packed: bool, repeats: int
) -> None:
    """Print for each way to import the records its seconds, and ratios to the last."""
    from paring.data.record_files import count_records
    from paring.data.tfrecords import read_records

    files = write_records(folder / f"{kind}{packed}", kind, shape, packed)
    dtype = "uint8" if kind == "raw bytes" else "float32"
    inputs = {"image": TensorSpec("image", (None, *shape), dtype)}
    labels = {"label": TensorSpec("scores", (None, 10), "float32")}
    sides: dict[str, Callable[[Path], Any]] = {
        "serial": lambda scratch: read_serially(
            files, shape, dtype, [count_by_reading(file) for file in files], scratch
        ),
        "serial, lengths": lambda scratch: read_serially(
            files, shape, dtype, count_records(files), scratch
        ),
        "side by side": lambda scratch: read_records(
            files, scratch / "no spec", inputs=inputs, labels=labels, scratch=scratch
        ),
    }
    result: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(repeats + 1):
        for side, read in sides.items():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                start = time.perf_counter()
                columns = read(Path(scratch))
                result[side].append(time.perf_counter() - start)
                if not np.array_equal(columns["label"], np.arange(FILES * RECORDS) % 10):
                    raise SystemExit(f"{side}: the rows are out of order")
    megabytes = columns["image"].nbytes / 2**20
    print(f"\n{kind}{', gzip' if packed else ''}, {FILES} files of {RECORDS}, {megabytes:.0f} MiB")
    # The first turn is to warm up.
    medians = {side: statistics.median(seconds[1:]) for side, seconds in result.items()}
    for side, seconds in medians.items():
        print(
            f"  {side:<15} {seconds:6.3f} s, {megabytes / seconds:6.0f} MiB/s"
            f" ({', '.join(f'{item:.2f}' for item in result[side][1:])})"
        )
    print(f"  serial / side by side: {medians['serial'] / medians['side by side']:.2f}")


def write_records(folder: Path, kind: str, shape: tuple[int, ...], packed: bool) -> list[Path]:
    """`FILES` files of `RECORDS` examples, of values that gzip finds something to do with."""
    import tensorflow as tf

    folder.mkdir()
    generator = np.random.default_rng(0)
    files = [folder / f"{number}.tfrecord{'.gz' if packed else ''}" for number in range(FILES)]
    for file in files:
        with tf.io.TFRecordWriter(str(file), "GZIP" if packed else "") as writer:
            for row in range(RECORDS):
                values = generator.integers(0, 16, shape, np.uint8)
                example = tf.train.Example()
                stored = example.features.feature["image"]
                if kind == "raw bytes":
                    stored.bytes_list.value.append(values.tobytes())
                else:
                    stored.float_list.value.extend((values / 16).ravel())
                example.features.feature["label"].int64_list.value.append(row % 10)
                writer.write(example.SerializeToString())
    return files


def _dataset(file: Path) -> Any:
    import tensorflow as tf

    return tf.data.TFRecordDataset(str(file), "GZIP" if file.suffix == ".gz" else "")


def count_by_reading(file: Path) -> int:
    """The number of records, as tf.data's users count them."""
    return int(_dataset(file).reduce(np.int64(0), lambda count, _: count + 1))


def read_serially(
    files: list[Path], shape: tuple[int, ...], dtype: str, counts: list[int], scratch: Path
) -> dict[str, Any]:
    """The same columns as of `read_records`, by the same operators one after the other."""
    import tensorflow as tf

    raw = dtype == "uint8"
    spec = {
        "image": tf.io.FixedLenFeature((), tf.string)
        if raw
        else tf.io.FixedLenFeature(shape, tf.float32),
        "label": tf.io.FixedLenFeature((), tf.int64),
    }
    total = sum(counts)
    columns = {
        "image": open_memmap(scratch / "image.npy", "w+", np.dtype(dtype), (total, *shape)),
        "label": open_memmap(scratch / "label.npy", "w+", np.dtype("int64"), (total,)),
    }
    row_bytes = columns["image"][:1].nbytes + 8

    def parse(records: Any) -> Any:
        features = tf.io.parse_example(records, spec)
        if raw:
            flat = tf.io.decode_raw(features["image"], tf.uint8)
            features["image"] = tf.reshape(flat, (-1, *shape))
        return features

    row = 0
    for file in files:
        batches = _dataset(file).batch(2 * 2**20 // row_bytes).map(parse)
        for features in batches.as_numpy_iterator():
            end = row + len(features["label"])
            for name, column in columns.items():
                column[row:end] = features[name]
            row = end
    for column in columns.values():
        column.flush()
    return columns


if __name__ == "__main__":
    sys.exit(main())
