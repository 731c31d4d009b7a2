"""Training steps on models as transfer learning makes them: frozen, and training=False.

What a step reports is compared with what is in the files that it wrote.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import (
    Artifact,
    ChannelPrunedModel,
    ClusteredModel,
    PrunedModel,
    QuantizedModel,
)
from paring.errors import UnsupportedError
from paring.execution import Call, execute
from paring.step import Step
from paring.steps.cluster import cluster
from paring.steps.prune import prune
from paring.steps.prune_channels import prune_channels
from paring.steps.quantize import quantize

QUICK = {"epochs": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(160, 8)).astype(np.float32)
    file = tmp_path_factory.mktemp("examples") / "examples.npz"
    np.savez(file, x=x, label=(x[:, 0] > 0).astype(np.int64))
    return file


def transfer(frozen: bool) -> Any:
    """As Keras's guide to transfer learning writes it."""
    import tf_keras

    layers = tf_keras.layers
    tf_keras.utils.set_random_seed(0)
    base = tf_keras.Sequential(
        [
            tf_keras.Input((8,)),
            layers.Dense(16, name="first"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(8, activation="relu", name="second"),
        ],
        name="base",
    )
    base.trainable = not frozen
    inputs = tf_keras.Input((8,), name="x")
    hidden = layers.Dense(12, activation="relu", name="third")(base(inputs, training=False))
    return tf_keras.Model(inputs, layers.Dense(2, activation="softmax", name="scores")(hidden))


def ran(step: Step, network: Any, examples: Path, folder: Path, **parameters: Any) -> Any:
    folder.mkdir(exist_ok=True)
    network.save(folder / "model.keras")
    (output,) = step.outputs
    inputs = {"model": folder / "model.keras", "examples": examples}
    call = Call(inputs, {output: folder / "out"}, QUICK | parameters)
    made: Artifact = execute(step, call)[output]
    return made


def kernels(made: Any) -> dict[str, np.ndarray]:
    """The kernels of dense layers in the Keras form, by name, of models inside it too."""
    import tf_keras

    result: dict[str, np.ndarray] = {}

    def visit(model: Any) -> None:
        for layer in model.layers:
            if isinstance(layer, tf_keras.Model):
                visit(layer)
            elif isinstance(layer, tf_keras.layers.Dense):
                result[layer.name] = layer.kernel.numpy()

    visit(tf_keras.models.load_model(made.keras_file, compile=False))
    return result


@pytest.mark.parametrize(
    ("pattern", "frozen"),
    [("unstructured", True), ("unstructured", False), ("1x4", True), ("2:4", True)],
)
def test_a_base_called_without_training_is_pruned(
    pattern: str, frozen: bool, examples: Path, tmp_path: Path
) -> None:
    made = ran(prune, transfer(frozen), examples, tmp_path, pattern=pattern)
    assert isinstance(made, PrunedModel)
    result = kernels(made)
    # Two outputs are too few for blocks of four.
    left = {"scores"} if pattern == "1x4" else set()
    assert {name: np.mean(kernel == 0) for name, kernel in result.items() if name not in left} == {
        name: 0.5 for name in result if name not in left
    }
    assert (made.sparsity, made.not_reached, made.pattern) == (0.5, (), pattern)


def recurrent() -> Any:
    import tf_keras

    layers = tf_keras.layers
    inputs = tf_keras.Input((8,), name="x")
    shared = layers.Dense(8, name="shared")
    steps = layers.Reshape((4, 2))(shared(shared(inputs)))
    values = layers.SimpleRNN(4, name="rnn")(steps, training=False)
    return tf_keras.Model(inputs, layers.Dense(2, activation="softmax", name="scores")(values))


def test_layers_called_twice_or_without_training_are_pruned_once(
    examples: Path, tmp_path: Path
) -> None:
    made = ran(prune, recurrent(), examples, tmp_path, sparsity=0.75)
    assert {name: np.mean(kernel == 0) for name, kernel in kernels(made).items()} == {
        "shared": 0.75,
        "scores": 0.75,
    }
    shares = dict(item.rsplit(" ", 1) for item in made.layer_sparsities)
    assert shares == {"shared": "0.750", "rnn": "0.750", "scores": "0.750"}


def test_masks_are_made_as_often_as_the_schedule_says(examples: Path) -> None:
    import tf_keras

    from paring.training.pruning.pruning import Pruning, prunable_layers

    model = recurrent()
    layers = prunable_layers(model, "unstructured")
    pruning = Pruning(model, sparsities=dict.fromkeys(layers, 0.5), steps=8, pattern="unstructured")
    shares: list[float] = []
    watch = tf_keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: shares.append(
            float(1 - np.mean(pruning._wrappers[0].pruning_vars[0][1].numpy()))
        )
    )
    pruning.model.compile("adam", "sparse_categorical_crossentropy")
    with np.load(examples) as arrays:
        data = arrays["x"], arrays["label"]
    pruning.model.fit(
        *data, batch_size=20, epochs=1, verbose=0, callbacks=[pruning.callback(), watch]
    )
    # Zhu and Gupta's cubic over the first half of eight steps, in whole weights of 64.
    expected = [0.5 * (1 - (1 - min(step, 4) / 4) ** 3) for step in range(1, 9)]
    np.testing.assert_allclose(shares, expected, atol=0.51 / 64)
    assert pruning.reached()


def equal_weights(*names: str) -> Any:
    """A model some of whose kernels hold one magnitude alone."""
    network = transfer(frozen=False)
    for layer in (*network.layers, *network.get_layer("base").layers):
        if layer.name in names:
            kernel, bias = layer.get_weights()
            layer.set_weights([np.where(kernel > 0, 0.5, -0.5), bias])
    return network


def test_what_has_fewer_zeros_than_asked_for_is_named(examples: Path, tmp_path: Path) -> None:
    # Too small a rate to change a float32.
    rate = {"learning_rate": 1e-12}
    made = ran(prune, equal_weights("third"), examples, tmp_path / "one", **rate)
    assert kernels(made)["third"].all()
    assert made.not_reached == (
        "third: 0.000 of 0.500, since its other 96 weights have 1 magnitudes, and equal ones stay",
    )
    every = equal_weights("first", "second", "third", "scores")
    with pytest.raises(UnsupportedError, match="no kernel of the model has the requested zeros"):
        ran(prune, every, examples, tmp_path / "all", **rate)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_base_called_without_training_is_clustered(
    frozen: bool, examples: Path, tmp_path: Path
) -> None:
    made = ran(cluster, transfer(frozen), examples, tmp_path, clusters=4)
    assert isinstance(made, ClusteredModel)
    counts = {name: len(np.unique(kernel)) for name, kernel in kernels(made).items()}
    base = {"first", "second"}
    shared = {name for name, count in counts.items() if count <= 4}
    assert shared == set(counts) - (base if frozen else set())
    named = {layer.split(" ")[0] for layer in made.unclustered_layers if "(Dense" in layer}
    assert named == (base if frozen else set())
    assert ("frozen" in "".join(made.unclustered_layers)) == frozen
    assert made.not_reached == ()


def test_what_quantize_rounds_is_counted(examples: Path, tmp_path: Path) -> None:
    made = ran(quantize, transfer(frozen=True), examples, tmp_path)
    assert isinstance(made, QuantizedModel)
    # A model inside the model has no quantized form; after it come two dense layers, with a
    # kernel and an output each.
    assert made.float_layers[0].startswith("layer base")
    assert made.quantized_tensors == 4
    assert made.not_reached == ()


def test_ranges_that_are_not_the_kernels_own_are_named() -> None:
    from paring.training.quantization.qat import fake_quantized, stale_ranges

    model = fake_quantized(transfer(frozen=False)).model
    # Before any training, all of them are [-6, 6].
    assert [item.split(":")[0] for item in stale_ranges(model)] == ["third", "scores"]


def test_a_base_called_without_training_loses_channels(examples: Path, tmp_path: Path) -> None:
    network = transfer(frozen=True)
    made = ran(prune_channels, network, examples, tmp_path, importance="l1", ratio=0.5)
    assert isinstance(made, ChannelPrunedModel)
    shapes = {name: kernel.shape for name, kernel in kernels(made).items()}
    assert shapes == {"first": (8, 8), "second": (8, 4), "third": (4, 6), "scores": (6, 2)}
    assert made.channels_removed == 8 + 4 + 6
    statistics = 4 * 8
    weights = sum(math.prod(shape) + shape[-1] for shape in shapes.values()) + statistics
    assert made.parameters is not None
    assert made.parameters <= weights
