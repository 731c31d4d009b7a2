"""The types of models, from what a user hands in to the candidate that was chosen.

They keep TFX's layout, `Format-Serving/`, so that TFX's Pusher, TF Serving and
KFP take them as they are; `Format-Keras/model.keras` beside it is what the
training steps go on from.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from paring.artifacts.artifact import Artifact

SERVING_DIR = "Format-Serving"
KERAS_FILE = "Format-Keras/model.keras"


@dataclass
class Servable(Artifact):
    """Anything that a runtime can load and run, below `Format-Serving/`.

    Attributes:
        size_bytes: The size of what is served, without the training form.
        note: What a reader of its figures should know, if anything.
    """

    size_bytes: int = 0
    note: str | None = None

    @property
    def serving_dir(self) -> Path:
        """The folder of the served form."""
        return self.path / SERVING_DIR


@dataclass
class Model(Servable):
    """A TensorFlow model: a SavedModel, and its Keras form where it has one.

    A model that a user hands in may also be a bare SavedModel folder, or a
    `.keras` or `.h5` file; `paring.tf.loading` reads all of them.

    Attributes:
        keras: "tf_keras" where the Keras form is there, "none" where not.
        trusted: 1 if the user allowed the model's own code to run.
        rebuilt_difference: Largest absolute difference of outputs from the Keras 3
            model that this one was rebuilt from; None if it was not.
        trained_on: The strategy, replicas and dtype policy of the step that trained it.
    """

    keras: str = ""
    trusted: int = 0
    rebuilt_difference: float | None = None
    trained_on: str = ""

    @property
    def keras_file(self) -> Path:
        """The file of the Keras form; may not exist."""
        return self.path / KERAS_FILE


@dataclass
class PrunedModel(Model):
    """A model with its smallest weights set to zero.

    Attributes:
        sparsity: The share of zeros among the prunable weights, measured.
        layer_sparsities: The same for each layer, as `name share`, by commas.
        pattern: What the zeros of every pruned kernel follow, checked: unstructured,
            1x4 or 2:4.
        left_dense: The layers whose weights can't be pruned, separated by commas.
    """

    sparsity: float | None = None
    layer_sparsities: str = ""
    pattern: str = ""
    left_dense: str = ""

    @property
    def sensitivity_file(self) -> Path:
        """What zeros in each layer cost, in JSON; there if they were spread by that."""
        return self.path / "sensitivity.json"


@dataclass
class ChannelPrunedModel(Model):
    """A model with fewer channels in its layers.

    Attributes:
        parameters, source_parameters: Number of weights, now and before.
        flops, source_flops: Floating-point operations for one example (a multiply-add
            is 2), now and before.
        channels_removed: Filters and units that are gone, over all layers.
        left_whole: The layers whose channels had to stay, each group of them with the
            reason, separated by semicolons.
    """

    parameters: int | None = None
    source_parameters: int | None = None
    flops: int | None = None
    source_flops: int | None = None
    channels_removed: int | None = None
    left_whole: str = ""


@dataclass
class ClusteredModel(Model):
    """A model whose kernels share a few values each.

    Attributes:
        distinct_weights: The most distinct values in any clustered kernel, measured.
        sparsity: The share of zeros among the clustered weights, measured.
        left_unclustered: The layers whose weights can't be clustered, by commas.
    """

    distinct_weights: int | None = None
    sparsity: float | None = None
    left_unclustered: str = ""


@dataclass
class DistilledModel(Model):
    """Another network, a student, that was trained to say what the source says.

    Attributes:
        student: Which network: a family's name, or the function that made it.
        parameters: Elements of all of its weights.
        source_parameters: Those of the source.
        agreement: Share of the held-out training rows where it has the source's class.
    """

    student: str = ""
    parameters: int = 0
    source_parameters: int = 0
    agreement: float | None = None


@dataclass
class QuantizedModel(Model):
    """A model trained with fake quantization (QAT); its weights are float.

    Attributes:
        in_float: The layers that have no quantized form and compute in float, each
            with the reason, separated by semicolons.
        sparsity: The share of zeros among the kernels whose zeros were preserved,
            measured; None where none were to be.
        distinct_weights: The most distinct values in any kernel whose clusters were
            preserved, measured; None where none were to be.
        not_preserved: The layers with kernels that kept not all that was asked for,
            each with the reason, separated by commas.
    """

    in_float: str = ""
    sparsity: float | None = None
    distinct_weights: int | None = None
    not_preserved: str = ""


@dataclass
class ServingModel(Model):
    """A SavedModel for inference alone, or the source's where nothing made it faster.

    Attributes:
        applied: What was done to the source's graph, by commas; "" where nothing was.
        not_applied: What was tried besides, each with the reason, by semicolons.
        precision: What its convolutions and products of matrices compute in; "" where
            it is the source's graph.
        compiled: 1 if XLA compiles the signature.
        variables: frozen (weights are constants) or kept; "" where it is the source's
            graph.
        fixed_batch: The batch size of the second signature; None if there is none.
        operators, source_operators: Nodes of the serving graph without constants, now
            and before; None where the source's can't be frozen.
        speedup: The source's median latency over its own, measured in one run; None
            where it is a copy.
        speedup_low, speedup_high: Its 95% confidence interval.
        difference: From the source's outputs; see `paring.tf.serving_trials`. None where
            it is a copy.
        compared_on: "examples" or "random inputs".
    """

    applied: str = ""
    not_applied: str = ""
    precision: str = ""
    compiled: int = 0
    variables: str = ""
    fixed_batch: int | None = None
    operators: int | None = None
    source_operators: int | None = None
    speedup: float | None = None
    speedup_low: float | None = None
    speedup_high: float | None = None
    difference: float | None = None
    compared_on: str = ""

    @property
    def trials_file(self) -> Path:
        """A JSON file: everything that was tried, with its figures."""
        return self.path / "trials.json"


@dataclass
class SplitModel(ServingModel):
    """A SavedModel in stages, each on a device of its own.

    `devices` is also the number of stages; bytes are those of one call of `batch_size`.

    Attributes:
        devices: How many devices it runs on.
        device_type: GPU or CPU.
        batch_size: Examples in the call that was measured.
        largest_stage_bytes: Weights and live tensors of the stage that needs most.
        single_device_bytes: The same of the whole model on one device.
        crossing_bytes: What crosses the cuts between the stages, in all.
    """

    devices: int = 0
    device_type: str = ""
    batch_size: int | None = None
    largest_stage_bytes: int | None = None
    single_device_bytes: int | None = None
    crossing_bytes: int | None = None

    @property
    def stages_file(self) -> Path:
        """A JSON file: what each stage holds."""
        return self.path / "stages.json"


@dataclass
class TFLiteModel(Servable):
    """One `model.tflite` file.

    Attributes:
        quantization: none, fp16, dynamic, int8, int16x8 or mixed.
        batch_size: The only batch that the file takes, where converting fixed it.
        gzip_bytes: The file's size after gzip.
        weight_count: The weights of convolutions, dense and recurrent layers and
            embeddings, without biases.
        sparsity: The share of those weights that is zero in the file.
        distinct_weights: Half of those weights are in tensors that hold no more
            distinct values than this in the file.
        layers: Of mixed: how many layers have an int8 form.
        layers_in_float: Of mixed: how many of them compute in float.
    """

    quantization: str = ""
    batch_size: int | None = None
    gzip_bytes: int = 0
    weight_count: int = 0
    sparsity: float | None = None
    distinct_weights: int | None = None
    layers: int | None = None
    layers_in_float: int | None = None

    @property
    def file(self) -> Path:
        """The TFLite file."""
        return self.serving_dir / "model.tflite"

    @property
    def layer_table(self) -> Path:
        """A JSON file, of mixed alone: each layer's error, and whether it is in float."""
        return self.path / "layers.json"


@dataclass
class ONNXModel(Servable):
    """One `model.onnx` file.

    Attributes:
        precision: fp32, fp16 or int8.
        int8_for: Of int8: the runtime that its rounding is laid out for.
        opset: The version of ONNX's operators.
        gzip_bytes: The file's size after gzip.
        difference: From the source's outputs, from 0 to 1: the share of examples with
            another class, or the root mean square of the difference over the standard
            deviation.
        in_float: Of int8: the layers that compute in float, by commas.
    """

    precision: str = ""
    int8_for: str = ""
    opset: int = 0
    gzip_bytes: int = 0
    difference: float | None = None
    in_float: str = ""

    @property
    def file(self) -> Path:
        """The ONNX file."""
        return self.serving_dir / "model.onnx"


@dataclass
class OpenVINOModel(Servable):
    """OpenVINO's `model.xml` with the weights in `model.bin`.

    Attributes:
        precision: Of the ONNX file that it was made of.
        difference: From that file's outputs, from 0 to 1, as ONNXModel has it.
    """

    precision: str = ""
    difference: float | None = None

    @property
    def file(self) -> Path:
        """The file that names the other one."""
        return self.serving_dir / "model.xml"


@dataclass
class TRTEngine(Servable):
    """One `model.engine` file of TensorRT's, and `engine.json`, what it was built for.

    Where it says so in `note`, `model.onnx` is in its place, and there are no facts.

    Attributes:
        flavour: "server" for TensorRT, "rtx" for TensorRT for RTX.
        tensorrt_version: That product's version.
        compute_capability: What it is for, such as "8.9".
        gpu, driver_version: The GPU that it was built on, and its driver; "" where it
            was built for a stated compute capability.
        version_compatible: 1 if later versions of the same major version load it.
        hardware_compatibility: none, same_compute_capability or ampere_plus.
        min_batch, opt_batch, max_batch: The smallest batch that it takes, the one that
            kernels were chosen for, and the largest.
        tf32: 1 if float32 products may be computed in TF32.
        network_layers: How many layers of the network, before any were fused, give each
            type, as `type count`, by commas.
        engine_layers: How many layers of the engine compute in each type, likewise;
            None where TensorRT did not tell.
    """

    bound_to_hardware: ClassVar[bool] = True

    flavour: str = ""
    tensorrt_version: str = ""
    compute_capability: str = ""
    gpu: str = ""
    driver_version: str = ""
    version_compatible: int = 0
    hardware_compatibility: str = ""
    min_batch: int | None = None
    opt_batch: int | None = None
    max_batch: int | None = None
    tf32: int | None = None
    network_layers: str = ""
    engine_layers: str | None = None

    @property
    def file(self) -> Path:
        """The engine's file."""
        return self.serving_dir / "model.engine"

    @property
    def layer_table(self) -> Path:
        """A JSON file with the engine's layers; not there where TensorRT did not tell."""
        return self.path / "layers.json"

    @property
    def inspection(self) -> Path:
        """The engine inspector's JSON; there if it was built on the GPU that it is for."""
        return self.path / "inspector.json"

    @property
    def timing_cache(self) -> Path:
        """How fast kernels were, for the next build; there for server alone."""
        return self.path / "timing.cache"


@dataclass
class TFTRTModel(Model):
    """A SavedModel with TensorRT engines in it.

    Attributes:
        precision: fp32, fp16 or int8.
        max_batch: The largest batch that the engines take.
        engines: How many there are.
    """

    bound_to_hardware: ClassVar[bool] = True

    precision: str = ""
    max_batch: int | None = None
    engines: int | None = None


@dataclass
class SelectedModel(Servable):
    """The chosen candidate, in whichever form it is served.

    Attributes:
        candidate: The id of the candidate.
    """

    candidate: str = ""


@dataclass
class PushedModel(Artifact):
    """`push.json`: what became of pushing the selected model to where it is served.

    Attributes:
        destination: The path or URI that holds the versions.
        version: The number of the version that holds the model; 0 if none does.
        made: 1 if this push made that version, 0 if it was the newest already.
        note: Why the model was not pushed, if it was not.
        model_digest: Of the version's files; "" if the model was not pushed.
    """

    destination: str = ""
    version: int = 0
    made: int = 0
    note: str | None = None
    model_digest: str = ""

    @property
    def file(self) -> Path:
        """The JSON file."""
        return self.path / "push.json"
