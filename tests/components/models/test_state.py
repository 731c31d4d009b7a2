"""State that signatures keep, found in small SavedModels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from paring.errors import UnsupportedError
from paring.models.saved_model import SavedModel
from paring.models.state import refuse_state, state_variables


def saved(folder: Path, serve: Callable[[Any, Any], Any]) -> Path:
    """A SavedModel of `serve(variable, x)`, x float32 [batch, 2]."""
    module = tf.Module()
    module.memory = tf.Variable([1.0, 2.0], name="memory")
    module.serve = tf.function(
        lambda x: {"y": serve(module.memory, x)},
        input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")],
    )
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def remembers(folder: Path) -> bool:
    """Return whether the second of two equal calls gives something else."""
    call = tf.saved_model.load(str(folder)).signatures["serving_default"]
    x = tf.constant([[0.5, -0.5]])
    return bool(np.any(call(x=x)["y"].numpy() != call(x=x)["y"].numpy()))


def sums(memory: Any, x: Any) -> Any:
    memory.assign_add(tf.reduce_mean(x, axis=0))
    return x + memory


def decides(memory: Any, x: Any) -> Any:
    memory.assign_add([1.0, 1.0])
    return tf.cond(memory[0] > 2.5, lambda: x, lambda: -x)


def loops(memory: Any, x: Any) -> Any:
    def body(step: Any, total: Any) -> Any:
        memory.assign(memory * 0.5)
        return step + 1, total + memory

    return tf.while_loop(lambda step, _: step < 3, body, (0, x))[1]


@pytest.mark.parametrize("serve", [sums, decides, loops])
def test_variables_that_outputs_depend_on_and_calls_change_are_state(
    serve: Any, tmp_path: Path
) -> None:
    folder = saved(tmp_path, serve)
    assert remembers(folder)
    assert state_variables(SavedModel(folder).meta_graph, "serving_default") == ["memory"]
    with pytest.raises(UnsupportedError, match="keeps state from call to call") as caught:
        refuse_state(SavedModel(folder))
    assert "memory" in caught.value.received


def counts(memory: Any, x: Any) -> Any:
    memory.assign_add([1.0, 1.0])
    return x * 2


def reads(memory: Any, x: Any) -> Any:
    return tf.cond(tf.reduce_sum(x) > 0, lambda: x + memory, lambda: x - memory)


@pytest.mark.parametrize("serve", [counts, reads])
def test_counters_and_weights_are_no_state(serve: Any, tmp_path: Path) -> None:
    folder = saved(tmp_path, serve)
    assert not remembers(folder)
    assert state_variables(SavedModel(folder).meta_graph, "serving_default") == []
    refuse_state(SavedModel(folder))


def test_random_generators_are_no_state(tmp_path: Path) -> None:
    generator = tf.random.Generator.from_seed(1)
    module = tf.Module()
    module.seed = tf.Variable([1, 2], name="seed")

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, "x")])
    def serve(x: Any) -> Any:
        # As Keras 3 draws its random numbers.
        seed = module.seed.read_value()
        module.seed.assign(seed + 1)
        drawn = tf.random.stateless_normal(tf.shape(x), seed)
        return {"y": x + drawn + generator.normal(tf.shape(x))}

    module.generator, module.serve = generator, serve
    tf.saved_model.save(module, str(tmp_path), signatures={"serving_default": serve})
    assert state_variables(SavedModel(tmp_path).meta_graph, "serving_default") == []


def test_models_without_the_signature_have_no_state(tmp_path: Path) -> None:
    assert state_variables(SavedModel(saved(tmp_path, sums)).meta_graph, "other") == []
