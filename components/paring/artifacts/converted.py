"""Types of models that were converted for a runtime."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from paring.artifacts.artifact import Highlight
from paring.artifacts.models import Model, Servable


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
        compared: What the file and its source were compared on: "32 examples" or "random
            inputs"; or why they were not.
        difference: From the source's outputs, from 0 to 1, as ONNXModel has it.
        holds_state: Whether the file has tensors that keep their values from call to call;
            whoever serves it resets them before each sequence.
        layers: Of mixed: how many layers have an int8 form.
        layers_in_float: Of mixed: how many of them compute in float.
    """

    quantization: str = ""
    batch_size: Annotated[int | None, Highlight("batch {}")] = None
    gzip_bytes: int = 0
    weight_count: int = 0
    sparsity: Annotated[float | None, Highlight("{:.0%} zeros")] = None
    distinct_weights: int | None = None
    compared: str = ""
    difference: float | None = None
    holds_state: bool = False
    layers: int | None = None
    layers_in_float: int | None = None

    @property
    def file(self) -> Path:
        """The TFLite file."""
        return self.serving_dir / "model.tflite"

    @property
    def layer_table(self) -> Path:
        """Path of the layers' errors and precisions in JSON; exists for mixed alone."""
        return self.path / "layers.json"


@dataclass
class ONNXModel(Servable):
    """One `model.onnx` file.

    Attributes:
        precision: fp32, fp16 or int8.
        int8_runtime: Of int8: the runtime that its rounding is laid out for.
        opset: The version of ONNX's operators.
        gzip_bytes: The file's size after gzip.
        difference: From the source's outputs, from 0 to 1: the share of examples with
            another class, or the root mean square of the difference over the standard
            deviation.
        float_layers: Of int8: the layers that compute in float.
    """

    precision: str = ""
    int8_runtime: str = ""
    opset: int = 0
    gzip_bytes: int = 0
    difference: float | None = None
    float_layers: tuple[str, ...] = ()

    @property
    def file(self) -> Path:
        """The ONNX file."""
        return self.serving_dir / "model.onnx"


@dataclass
class OpenVINOModel(Servable):
    """OpenVINO's `model.xml` with the weights in `model.bin`.

    Attributes:
        precision: Of the model that it was made of: fp32, fp16 or int8, or of a TFLite file
            its quantization.
        front_end: Reader of that model: onnx, savedmodel or tflite.
        difference: From that model's outputs, from 0 to 1, as ONNXModel has it.
    """

    precision: str = ""
    front_end: str = ""
    difference: float | None = None

    @property
    def file(self) -> Path:
        """Path of the .xml file, which names the .bin file."""
        return self.serving_dir / "model.xml"


@dataclass
class TRTEngine(Servable):
    """One `model.engine` file of TensorRT's, and `engine.json`, what it was built for.

    Where it says so in `note`, `model.onnx` is in its place, and there are no facts.

    Attributes:
        product: "server" for TensorRT, "rtx" for TensorRT for RTX.
        tensorrt_version: That product's version.
        compute_capability: What it is for, such as "8.9".
        gpu, driver_version: The GPU that it was built on, and its driver; "" where it
            was built for a stated compute capability.
        version_compatible: Whether later versions of the same major version load it.
        hardware_compatibility: none, same_compute_capability or ampere_plus.
        min_batch, opt_batch, max_batch: The smallest batch that it takes, the one that
            kernels were chosen for, and the largest.
        tf32: Whether float32 products may be computed in TF32.
        network_layers: How many layers of the network, before any were fused, give each
            type, as `type count`.
        engine_layers: How many layers of the engine compute in each type, likewise;
            None where TensorRT did not tell.
        compared: What the engine and its ONNX file were compared on: "32 examples" or
            "random inputs"; or why they were not, and how far the ONNX file is from its
            source where that is known.
        difference: From the ONNX file's outputs, from 0 to 1, as ONNXModel has it.
    """

    bound_to_hardware: ClassVar[bool] = True

    product: str = ""
    tensorrt_version: str = ""
    compute_capability: str = ""
    gpu: str = ""
    driver_version: str = ""
    version_compatible: bool = False
    hardware_compatibility: str = ""
    min_batch: int | None = None
    opt_batch: int | None = None
    max_batch: int | None = None
    tf32: bool | None = None
    network_layers: tuple[str, ...] = ()
    engine_layers: tuple[str, ...] | None = None
    compared: str = ""
    difference: float | None = None

    @property
    def file(self) -> Path:
        """The engine's file."""
        return self.serving_dir / "model.engine"

    @property
    def layer_table(self) -> Path:
        """Path of the engine's layers in JSON; exists if TensorRT reported them."""
        return self.path / "layers.json"

    @property
    def inspection(self) -> Path:
        """Path of the engine inspector's JSON; exists if built on the GPU that it is for."""
        return self.path / "inspector.json"

    @property
    def timing_cache(self) -> Path:
        """Path of the measured kernel timings, for the next build; exists for server alone."""
        return self.path / "timing.cache"


@dataclass
class TFTRTModel(Model):
    """A SavedModel with TensorRT engines in it.

    Attributes:
        precision: fp32, fp16 or int8.
        max_batch: The largest batch that the engines take.
        engines: How many there are.
        compared: What it and its source were compared on: "32 examples" or "random
            inputs"; or why they were not.
        difference: From the source's outputs, from 0 to 1, as ONNXModel has it.
    """

    bound_to_hardware: ClassVar[bool] = True

    precision: str = ""
    max_batch: int | None = None
    engines: int | None = None
    compared: str = ""
    difference: float | None = None
