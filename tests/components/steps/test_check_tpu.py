import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from paring.artifacts import TPUReadiness
from paring.execution import Call, execute
from paring.steps.check_tpu import check_tpu

X = tf.TensorSpec((None, 8), tf.float32, name="x")


def checked(model: Path, out: Path, **parameters: object) -> tuple[TPUReadiness, dict[str, Any]]:
    made = execute(check_tpu, Call({"model": model}, {"readiness": out}, parameters))["readiness"]
    assert isinstance(made, TPUReadiness)
    return made, json.loads(made.file.read_text())


def saved(folder: Path, serve: Callable[..., Any], *specs: Any, **variables: Any) -> Path:
    module = tf.Module()
    for name, item in variables.items():
        setattr(module, name, item)
    module.serve = tf.function(serve, input_signature=specs)
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


def test_the_digits_network_is_ready_and_its_padding_is_told(
    digits_model: Path, tmp_path: Path
) -> None:
    made, content = checked(digits_model, tmp_path / "out")
    assert (made.ready, made.refused, content["refusals"]) == (True, (), [])
    assert content["batch_size"] == 128
    assert content["uncounted"] == []
    kinds = {operator["kind"] for operator in content["operators"]}
    assert kinds == {"Conv2D", "DepthwiseConv2dNative", "MatMul"}
    # At most 64 channels fill half of the matrix unit.
    assert made.compute_waste is not None
    assert 0.5 < made.compute_waste < 1
    assert made.memory_waste is not None
    assert 0 < made.memory_waste < made.compute_waste


def test_a_model_that_takes_text_is_refused_by_name(tmp_path: Path) -> None:
    import tf_keras

    words = tf_keras.Input((5,), dtype=tf.string, name="words")
    ids = tf_keras.layers.StringLookup(vocabulary=["a", "b"], name="lookup")(words)
    scores = tf_keras.layers.Dense(2)(tf_keras.layers.Embedding(8, 16)(ids))
    tf_keras.Model(words, scores).export(tmp_path / "model")
    made, content = checked(tmp_path / "model", tmp_path / "out")
    assert made.ready == 0
    assert "input words (Placeholder): text" in "; ".join(made.refused)
    named = {refusal["kind"]: refusal["place"] for refusal in content["refusals"]}
    assert set(named) == {"Placeholder", "LookupTableFindV2"}
    assert "lookup" in named["LookupTableFindV2"]


def test_a_call_into_python_in_a_loop_is_refused_by_name(tmp_path: Path) -> None:
    def step(index: Any, x: Any) -> tuple[Any, Any]:
        new = tf.numpy_function(lambda item: item, [x], tf.float32, name="mine")
        return index + 1, tf.ensure_shape(new, x.shape)

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.while_loop(lambda index, _: index < 3, step, (0, x))[1]}

    model = saved(tmp_path / "model", serve, X)
    made, content = checked(model, tmp_path / "out", trust_model=True)
    assert made.ready == 0
    assert [refusal["kind"] for refusal in content["refusals"]] == ["PyFunc"]
    assert "mine" in content["refusals"][0]["place"]
    assert len(content["uncounted"]) == 1


def test_a_result_of_no_fixed_shape_is_refused_by_name(tmp_path: Path) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {"y": 2.0 * tf.unique(tf.reshape(x, [-1]), name="distinct")[0]}

    made, content = checked(saved(tmp_path / "model", serve, X), tmp_path / "out")
    assert made.ready == 0
    assert {refusal["reason"] for refusal in content["refusals"]} == {
        "its result has no fixed shape"
    }
    assert any("distinct" in refusal["place"] for refusal in content["refusals"])


def test_a_shape_that_hangs_on_values_is_refused_with_the_compilers_reason(tmp_path: Path) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.reshape(x, tf.cast(x[0, :2], tf.int32), name="shaped")}

    made, content = checked(saved(tmp_path / "model", serve, X), tmp_path / "out")
    assert made.ready == 0
    assert len(content["refusals"]) == 1
    assert "shaped" in content["refusals"][0]["place"]
    assert "constant" in content["refusals"][0]["reason"]


# 100 channels go as 112 rows, in bfloat16 of 16 to a tile, past blocks of the 1,024 places.
@pytest.mark.parametrize(("units", "padded"), [(128, 128), (100, 112), (17, 32), (1, 16)])
def test_odd_channel_counts_show_as_waste(tmp_path: Path, units: int, padded: int) -> None:
    kernel = tf.Variable(tf.random.stateless_normal((3, 3, 128, units), (1, 2)))

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.nn.conv2d(x, kernel, 1, "SAME", name="wide")}

    spec = tf.TensorSpec((None, 8, 8, 128), tf.float32, name="x")
    model = saved(tmp_path / "model", serve, spec, kernel=kernel)
    made, content = checked(model, tmp_path / "out", batch_size=16)
    assert made.ready == 1
    assert made.compute_waste == pytest.approx(1 - units / padded)
    assert content["flops"] == 2 * 16 * 8 * 8 * units * 3 * 3 * 128
    assert content["padded_flops"] == 2 * 16 * 8 * 8 * padded * 3 * 3 * 128
    assert "wide" in content["operators"][0]["place"]


def test_a_fixed_batch_stays_as_it_is(tmp_path: Path) -> None:
    spec = tf.TensorSpec((3, 8), tf.float32, name="x")
    model = saved(tmp_path / "model", lambda x: {"y": tf.matmul(x, tf.ones((8, 8)))}, spec)
    _, content = checked(model, tmp_path / "out")
    assert content["batch_size"] == 3
    assert content["flops"] == 2 * 3 * 8 * 8
