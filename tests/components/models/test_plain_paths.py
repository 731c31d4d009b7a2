"""Models, examples and outputs in folders whose names TensorFlow would read as patterns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers.saved_models import save_signature

from paring.artifacts import Artifact
from paring.catalog import STEPS
from paring.execution import Call, execute
from paring.models.plain_paths import plain_path

NAMES = ["model [1]", "50* ?", "größe 模型"]


def run(step: str, out: Path, parameters: dict[str, Any] | None = None, **inputs: Path) -> Artifact:
    (name,) = STEPS[step].outputs
    return execute(STEPS[step], Call(inputs, {name: out}, parameters or {}))[name]


@pytest.fixture(scope="module")
def network() -> Any:
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    given = tf_keras.Input((12,), name="features")
    hidden = tf_keras.layers.Dense(16, activation="relu")(given)
    return tf_keras.Model(given, tf_keras.layers.Dense(3, activation="softmax")(hidden))


@pytest.mark.parametrize("name", NAMES)
def test_steps_read_and_write_in_such_folders(network: Any, name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    save_signature(network, tmp_path / "plain")
    (tmp_path / "plain").rename(folder / name)
    x = np.random.default_rng(0).random((60, 12), np.float32)
    np.savez(folder / f"{name}.npz", x=x, y=np.arange(60) % 3)
    model = run("import_model", folder / f"imported {name}", original=folder / name).path
    given = {"original": folder / f"{name}.npz", "model": model}
    examples = run("import_examples", folder / f"examples {name}", **given).path
    candidates = {}
    for step in ("prune", "convert_tflite", "export_onnx"):
        given = {"model": model, "examples": examples}
        parameters = {"epochs": 1} if step == "prune" else {}
        candidates[step] = run(step, folder / f"{step} {name}", parameters, **given).path
    given = {"model": candidates["export_onnx"], "examples": examples}
    candidates["convert_openvino"] = run("convert_openvino", folder / f"ov {name}", **given).path
    for step, candidate in candidates.items():
        given = {"source": model, "candidate": candidate, "examples": examples}
        judged = run("evaluate", folder / f"{step} evaluated {name}", **given)
        assert judged.facts()["agreement"] > (0.3 if step == "prune" else 0.99)


def test_tfrecords_in_such_files_are_read(network: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    network.save(tmp_path / "network.keras")
    folder = tmp_path / "[a] *"
    folder.mkdir()
    # A pattern would find the first file twice, and the second one never.
    for name in ("b", "[b] ?"):
        with tf.io.TFRecordWriter(str(folder / f"{name}.tfrecord")) as writer:
            for value in range(10):
                values = tf.train.FloatList(value=np.full(12, value, np.float32))
                feature = {"features": tf.train.Feature(float_list=values)}
                example = tf.train.Example(features=tf.train.Features(feature=feature))
                writer.write(example.SerializeToString())
    result = run(
        "import_examples", tmp_path / "out", original=folder, model=tmp_path / "network.keras"
    )
    assert result.facts()["train_count"] + result.facts()["eval_count"] == 20


def test_a_plain_path_stays_and_another_leads_to_its_own_folder(tmp_path: Path) -> None:
    assert plain_path(tmp_path) == tmp_path
    for name in ("ma", "m?", "m[ab]"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    for name in ("m?", "m[ab]", "m?"):
        result = plain_path(tmp_path / name)
        assert not set(str(result)) & set("*?[]")
        assert (result / "name").read_text() == name
