"""A family of measured candidates, as `select` and `report` get them; tiny models."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import BenchmarkMetrics, EvaluationMetrics, Failure, Model, TFLiteModel
from paring.execution import Call, execute
from paring.steps.select import select

ENVIRONMENT = {
    "cpu": "Example CPU",
    "cores": 2,
    "memory_bytes": 8_000_000_000,
    "machine": "x86_64",
    "system": "Linux 6.1",
    "threads": 2,
    "load_average": [0.25, 0.5, 0.5],
    "cpu_governor": None,
    "accelerators": ["Example GPU"],
}

FIGURES: dict[str, Any] = {
    "accuracy": 0.98,
    "agreement": 1.0,
    "metric": "",
    "score": None,
    "drop": None,
    "p50_ms": 10.0,
    "speedup": 1.0,
    "spread": 0.02,
    "peak_memory_bytes": 400_000_000,
    "size_bytes": 1_000_000,
}


@dataclass
class Family:
    """Artifacts below `root`, one of each kind for each id, and calls on them."""

    root: Path
    ids: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        *,
        failure: Failure | None = None,
        lineage: dict[str, Any] | None = None,
        **figures: Any,
    ) -> None:
        """Write a candidate whose figures are the source's but for those given."""
        known = FIGURES | figures
        paths = {
            kind: self.path(kind, name) for kind in ("candidates", "benchmarks", "evaluations")
        }
        for path in paths.values():
            path.mkdir(parents=True)
        kind = Model if name == "source" else TFLiteModel
        candidate = kind(paths["candidates"], failure=failure, lineage=lineage or {})
        metrics = BenchmarkMetrics(paths["benchmarks"], failure=failure)
        evaluation = EvaluationMetrics(paths["evaluations"], failure=failure)
        if failure is None:
            candidate.serving_dir.mkdir()
            (candidate.serving_dir / "model.bin").write_text(f"the bytes of {name}")
            candidate.size_bytes = known["size_bytes"]
            others = known.get("other_outputs", {})
            evaluation.gated_outputs = 1 + len(others)
            evaluation.file.write_text(json.dumps({"other_outputs": others}))
            for fact in ("p50_ms", "speedup", "peak_memory_bytes", "size_bytes"):
                setattr(metrics, fact, known[fact])
            metrics.speedup_low = known["speedup"] - known["spread"]
            metrics.speedup_high = known["speedup"] + known["spread"]
            metrics.p90_ms, metrics.p99_ms = 1.1 * known["p50_ms"], 1.5 * known["p50_ms"]
            source = {f"p{rank}_ms": FIGURES["p50_ms"] for rank in (50, 90, 99)}
            details = {
                "environment": ENVIRONMENT,
                "batch_size": 1,
                "source": {**source, "throughput": 100.0},
            }
            metrics.file.write_text(json.dumps(details))
            evaluation.count = 360
            evaluation.accuracy = known["accuracy"]
            evaluation.agreement = known["agreement"]
            _judge(evaluation, known)
        for artifact in (candidate, metrics, evaluation):
            artifact.save()
        self.ids.append(name)

    def path(self, kind: str, name: str) -> Path:
        return self.root / kind / name

    @property
    def inputs(self) -> dict[str, dict[str, Path]]:
        return {
            kind: {name: self.path(kind, name) for name in self.ids}
            for kind in ("candidates", "benchmarks", "evaluations")
        }

    def select(self, **parameters: Any) -> dict[str, Any]:
        """Run `select`; what selection.json holds, with the rows by id too."""
        outputs = {name: self.root / name for name in ("selection", "selected")}
        execute(select, Call(self.inputs, outputs, parameters))
        content: dict[str, Any] = json.loads((self.root / "selection/selection.json").read_text())
        return content | {"rows": {row["id"]: row for row in content["candidates"]}}


def _judge(evaluation: EvaluationMetrics, known: dict[str, Any]) -> None:
    """Set the metric: the one that is given, else accuracy or, without it, agreement."""
    if known["metric"]:
        evaluation.metric, evaluation.score = known["metric"], known["score"]
        evaluation.drop = known["drop"]
        evaluation.higher_is_better = known.get("higher_is_better", True)
        return
    labelled = known["accuracy"] is not None
    evaluation.metric = "top_1" if labelled else "agreement"
    evaluation.score = known["accuracy" if labelled else "agreement"]
    evaluation.drop = (FIGURES["accuracy"] if labelled else 1.0) - evaluation.score


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """A family that holds the source alone."""
    made = Family(tmp_path)
    made.add("source")
    return made


@pytest.fixture
def new_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Family]:
    """Makes empty families, for tests that need more than one."""
    return lambda: Family(tmp_path_factory.mktemp("family"))


@pytest.fixture
def keras_application(tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """Saves a model of Keras 3's applications, and 24 random images in 4 classes for it.

    Of `until`, the name of a layer, only the layers up to it and a head are taken: these
    have layers of all kinds, and much fewer. The images are 64x64, since of images of one
    pixel batches would have no statistics.
    """

    def save(name: str, until: str = "") -> tuple[Path, Path]:
        import keras

        model, examples = tmp_path / "model.keras", tmp_path / "few.npz"
        build = getattr(keras.applications, name)
        application = build(input_shape=(64, 64, 3), weights=None, classes=4)
        if until:
            kinds = {type(layer) for layer in application.layers}
            values = application.get_layer(until).output
            values = keras.layers.GlobalAveragePooling2D(keepdims=True)(values)
            values = keras.layers.Dropout(0.2)(keras.layers.Flatten()(values))
            scores = keras.layers.Dense(4, "softmax", name="predictions")(values)
            application = keras.Model(application.input, scores)
            assert {type(layer) for layer in application.layers} >= kinds
        application.save(model)
        generator = np.random.default_rng(0)
        images = generator.uniform(0, 255, (24, 64, 64, 3)).astype(np.float32)
        labels = np.arange(24) % 4
        np.savez(examples, x_train=images, y_train=labels, x_eval=images, y_eval=labels)
        return model, examples

    return save


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Contents of versions: `saved`, a SavedModel; `one` and `two`, TFLite files of others.

    Besides, SavedModels: `words` takes text, `picky` can't be run on zeros.
    """
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("tiny")
    numbers, text = tf.TensorSpec([None, 4], tf.float32, "x"), tf.TensorSpec([None], tf.string, "x")
    factor = tf.Variable(2.0)

    def picky(x: Any) -> Any:
        tf.debugging.assert_positive(x)
        return x

    def save(name: str, function: Callable[[Any], Any], spec: Any = numbers) -> Path:
        module = tf.Module()
        module.factor = factor
        module.serve = tf.function(lambda x: {"y": function(x)}, input_signature=[spec])
        tf.saved_model.save(
            module, str(folder / name), signatures={"serving_default": module.serve}
        )
        return folder / name

    made = {
        "saved": save("saved", lambda x: factor * x),
        "words": save("words", lambda x: tf.strings.length(x), text),
        "picky": save("picky", picky),
    }
    for name, added in (("one", 1), ("two", 2)):
        saved_model = save(f"saved-{name}", lambda x, added=added: x + added)
        made[name] = folder / name
        made[name].mkdir()
        converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
        (made[name] / "model.tflite").write_bytes(converter.convert())
    return made


@pytest.fixture(scope="session")
def lookup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel that looks up the int64 [batch] `x` in a table."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("lookup") / "model"
    keys, values = tf.constant([0, 1], tf.int64), tf.constant([5, 6], tf.int64)
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(keys, values), default_value=-1
    )
    module.serve = tf.function(
        lambda x: {"y": module.table.lookup(x)},
        input_signature=[tf.TensorSpec([None], tf.int64, "x")],
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder
