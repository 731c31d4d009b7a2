"""Quantization-aware training."""

from typing import Annotated

from annotated_types import Ge, Gt

from paring.artifacts import Examples, Model, QuantizedModel
from paring.errors import UnsupportedError
from paring.step import Input, Output, Search, step
from paring.system.workers import StrategyName


@step(version="10", imports_models=True)
def quantize(
    model: Input[Model],
    examples: Input[Examples],
    quantized: Output[QuantizedModel],
    *,
    preserve_sparsity: bool = False,
    preserve_clusters: bool = False,
    epochs: Annotated[int, Ge(1), Search(1, 8, log=True)] = 2,
    batch_size: Annotated[int, Ge(1)] = 32,
    learning_rate: Annotated[float, Gt(0), Search(1e-5, 1e-3, log=True)] = 1e-4,
    seed: Annotated[int, Ge(0)] = 0,
    weights: str = "",
    strategy: StrategyName = "auto",
) -> None:
    """Fine-tune `model` with fake quantization, to reduce the loss of accuracy by int8.

    Quantization-aware training (Jacob et al. 2018, arXiv:1712.05877) by
    tensorflow-model-optimization. The result computes in float with its weights
    and activations rounded to 8 bits; `convert_tflite` with int8 converts it to
    the integer model and needs no representative set. Layers without a quantized
    form compute in float and are named in the fact `float_layers`. The activations' ranges
    start from those on the train split. The best epoch is kept, by the loss on
    a tenth of the train split; the eval split is not read.
    Batch-normalization statistics are re-estimated, before the first epoch too.

    A pruned model loses its zeros in the training, and a clustered one its shared values,
    unless they are preserved: then zeros stay where they are, and weights that are equal move
    together, as in Han, Mao and Dally, "Deep Compression" (2016, arXiv:1510.00149). A
    kernel with clusters gets one int8 scale for all of its channels.

    Examples:
        >>> trained = paring.quantize(network, arrays, epochs=1)
        >>> paring.convert_tflite(trained, arrays, quantization="int8").quantization
        'int8'

    Args:
        model: A model in Keras form, with class scores or values as outputs.
        examples: Labelled examples; its train split is used.
        quantized: The model with fake quantization under the same signature names, with
            the facts `sparsity` and `distinct_weights`, measured over the kernels that
            are preserved, `not_preserved`, the other layers with kernels,
            `quantized_tensors` and `not_reached`.
        preserve_sparsity: Keep the zeros of a pruned model where they are.
        preserve_clusters: Keep the equal weights of a clustered model equal.
        epochs: Passes over the train split.
        batch_size: Examples in a training step.
        learning_rate: Learning rate of the Adam optimizer.
        seed: Seed of all random numbers.
        weights: Column of sample weights, a number of 0 or more for each example, by which its
            loss is multiplied; "" for the column that the examples were imported with, if any.
            Examples of weight 0 are left out.
        strategy: Devices of the training: one_device; mirrored, all GPUs of the machine;
            multi_worker, the machines that TF_CONFIG names; tpu; xla, one device with the
            compiled steps of a TPU; auto takes what there is.

    Raises:
        UnsupportedError: No layer with weights has a quantized form, there are no
            zeros or clusters to preserve, the examples lack labels, or the model is
            not in Keras form, or no loss goes with its outputs.
        ModelError: `model` is missing or broken.
        ExamplesError: `examples` are missing or not what the model takes.
        StepFailedError: The training diverged.
        MissingDependencyError: Strategy tpu was requested, and there is no TPU.
    """
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    from paring.models.saved_model import SavedModel
    from paring.models.state import called_nodes
    from paring.training.batch_norm import reestimate_batch_norm
    from paring.training.quantization.preserving import Preserving
    from paring.training.quantization.qat import (
        calibrate_ranges,
        fake_quantized,
        stale_ranges,
        unlike_layers,
    )
    from paring.training.training import open_training

    training = open_training(
        model,
        examples,
        batch_size=batch_size,
        seed=seed,
        strategy=strategy,
        weights=weights,
        mixed=False,
    )
    with training.devices.scope():
        split, rows, size = training.split, training.portions.train, training.batch_size
        # Training takes batches' own statistics. Where the source's moving ones are far
        # from them, ranges found with those would not fit, and the loss would overflow.
        devices = training.devices
        reestimate_batch_norm(
            training.model, split, rows, batch_size=size, seed=seed, devices=devices
        )
        made = fake_quantized(training.model, unlike_layers(training.model, split, rows))
        preserving = (
            Preserving(made.model, sparsity=preserve_sparsity, clusters=preserve_clusters)
            if preserve_sparsity or preserve_clusters
            else None
        )
        with devices.on_host():
            calibrate_ranges(made.model, split, rows, batch_size=size, seed=seed)
        training.fine_tune(made.model, epochs=epochs, learning_rate=learning_rate)
    if preserving is not None:
        preserving.settle()
        quantized.sparsity = preserving.sparsity()
        quantized.distinct_weights = preserving.distinct_weights()
        quantized.not_preserved = tuple(preserving.not_preserved)
    training.save(made.model, model, quantized)
    quantized.float_layers = tuple(made.float_layers.values())
    nodes = called_nodes(SavedModel(quantized.serving_dir).meta_graph, quantized.signature)
    quantized.quantized_tensors = sum(node.op.startswith("FakeQuant") for node in nodes)
    quantized.not_reached = tuple(stale_ranges(made.model))
    if not quantized.quantized_tensors:
        raise UnsupportedError(
            "no tensor of the model is rounded to 8 bits after training",
            received="; ".join(quantized.float_layers),
            remedy="use a recipe without quantize",
        )
