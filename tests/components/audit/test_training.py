from collections.abc import Callable
from typing import Any

import pytest
import tensorflow as tf

from paring.audit import Subject
from paring.audit.training import augmentation, batch_statistics, dropout

SUBJECT_OF = Callable[..., Subject]
IMAGES = tf.TensorSpec((None, 8, 8, 3), tf.float32, name="x")
RULES = {"dropout": dropout, "augmentation": augmentation, "batch statistics": batch_statistics}


def network(keras: Any, kind: str) -> Any:
    layers = keras.layers
    return {
        "dropout": lambda: layers.Dropout(0.5),
        "augmentation": lambda: layers.RandomRotation(0.1),
        "batch statistics": lambda: layers.BatchNormalization(),
    }[kind]()


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("training", [True, False])
def test_a_layer_that_is_exported_as_it_trains_is_found(
    subject_of: SUBJECT_OF, kind: str, training: bool
) -> None:
    import tf_keras

    layer = network(tf_keras, kind)
    layer.build((None, 8, 8, 3))

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.nn.relu(layer(x, training=training))}

    subject = subject_of(serve, IMAGES, layer=layer)
    result = {name: rule(subject) for name, rule in RULES.items()}
    assert {name for name, item in result.items() if item} == ({kind} if training else set())
    if training:
        assert result[kind][0].severity == "high"
        assert "1 operator:" in result[kind][0].cost


def test_layer_normalization_is_none(subject_of: SUBJECT_OF) -> None:
    import tf_keras

    layer = tf_keras.layers.LayerNormalization()
    layer.build((None, 8, 8, 3))
    subject = subject_of(lambda x: {"y": layer(x)}, IMAGES, layer=layer)
    assert "FusedBatchNormV3" in {op.type for op in subject.live}
    assert batch_statistics(subject) == []


def test_dropout_with_a_fixed_seed_is_found(subject_of: SUBJECT_OF) -> None:
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.nn.experimental.stateless_dropout(x, 0.5, seed=(1, 2))}

    assert len(dropout(subject_of(serve, IMAGES))) == 1


def test_a_model_that_draws_samples_is_none(subject_of: SUBJECT_OF) -> None:
    def serve(x: Any) -> dict[str, Any]:
        noise = tf.random.normal(tf.shape(x))
        return {"y": x + tf.exp(x) * noise, "at": tf.random.uniform((3,)) * 2.0}

    subject = subject_of(serve, IMAGES)
    assert [rule(subject) for rule in RULES.values()] == [[], [], []]
