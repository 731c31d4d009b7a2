"""Building of an engine from an ONNX file, by either of NVIDIA's libraries.

The network is strongly typed: each layer computes in the types that the graph states,
since TensorRT 11 has no other networks and the flags FP16, BF16 and INT8 are gone. So
precision comes with the graph: half-precision tensors, or explicit quantization.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paring.errors import (
    ModelError,
    ParameterError,
    StepFailedError,
    UnsupportedError,
    first_line,
)
from paring.tensorrt import rtx, server
from paring.tensorrt.layers import Layer, from_inspector, from_log
from paring.tensorrt.library import SERVER, Library, Messages

_TYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
}
"""TensorRT's names of types where they are not NumPy's in capitals."""


@dataclass(frozen=True)
class Request:
    """Options of an engine to build.

    Attributes:
        file: The ONNX file.
        batches: The smallest batch, the one that kernels are chosen for, and the largest.
        tf32: Whether float32 products may be computed in TF32, with 10 bits of mantissa.
        workspace_mb: The most memory of the GPU that one layer may work in; 0 for all.
        compute_capability: Compute capability that the engine is for, such as "8.9".
        version_compatible, hardware_compatibility, timing_cache: See `server.configure`.
    """

    file: Path
    batches: tuple[int, int, int]
    tf32: bool
    workspace_mb: int
    compute_capability: str
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    timing_cache: bytes = b""


@dataclass(frozen=True)
class Built:
    """An engine.

    Attributes:
        content: Its bytes.
        batches: The smallest batch size, the preferred one and the largest, as requested;
            or the only one that the graph takes.
        node_precisions: The type that each layer of the network computes in, before any
            were fused; "" where it gives nothing.
        layers: Those of the engine; empty where they could not be read.
        inspection: The engine inspector's JSON; "" without a GPU.
        timing_cache: For the next build; empty where there is none.
    """

    content: bytes
    batches: tuple[int, int, int]
    node_precisions: tuple[str, ...]
    layers: tuple[Layer, ...]
    inspection: str
    timing_cache: bytes


def refuse_float64(file: Path) -> None:
    """Raise if an input of the graph is float64.

    TensorRT has no kernels for it, and its parser turns such an input into float32, so that
    callers would be refused.

    Args:
        file: An ONNX file that `paring.models.onnx_files.check_onnx` has let through.

    Raises:
        ModelError: It can't be read.
        UnsupportedError: An input is float64.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto: Any = onnx.load(str(file), load_external_data=False)
    except DecodeError as error:
        raise ModelError(
            f"{file} can't be read as an ONNX model",
            received=first_line(error),
            remedy="export the model again; the file is incomplete or damaged",
        ) from error
    for item in proto.graph.input:
        if item.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
            raise UnsupportedError(
                f"{file}: input {item.name!r} is float64, which TensorRT does not compute in",
                remedy="export a model that takes float32",
            )


def build_engine(library: Library, request: Request, *, inspect: bool) -> Built:
    """Parse and build.

    Args:
        library: Which product builds.
        request: What to build.
        inspect: Ask the engine itself for its layers, which takes a GPU that it runs on.

    Raises:
        UnsupportedError: The parser or the builder refuses the graph; the message has
            the node and TensorRT's reason. Or a dimension besides the batch varies.
        ParameterError: The timing cache is of another GPU or version.
    """
    trt = library.module
    messages = Messages(library)
    builder = trt.Builder(messages.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages.logger)
    if not parser.parse_from_file(str(request.file)):
        raise _refused(library, request.file, parser)

    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    (config.set_flag if request.tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    if request.workspace_mb:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mb << 20)
    cache = None
    if library.product == SERVER:
        cache = server.configure(
            library,
            config,
            version_compatible=request.version_compatible,
            hardware_compatibility=request.hardware_compatibility,
            timing_cache=request.timing_cache,
        )
    else:
        rtx.configure(library, config, compute_capability=request.compute_capability)
    batches = _set_batches(request, network, builder.create_optimization_profile, config)

    plan = builder.build_serialized_network(network, config)
    if plan is None:
        # It raises nothing; the reason is among its messages.
        raise UnsupportedError(
            f"{library.title} can't build an engine of {request.file.name}",
            received=messages.reason,
            remedy="change what it names in the model, the precision or the parameters",
        )
    content = bytes(plan)
    inspection = _inspect(library, content) if inspect else ""
    layers = from_inspector(inspection) if inspection else from_log(messages.layer_table)
    return Built(
        content,
        batches,
        tuple(_precision(network.get_layer(index)) for index in range(network.num_layers)),
        tuple(layers),
        inspection,
        b"" if cache is None else bytes(cache.serialize()),
    )


def _refused(library: Library, file: Path, parser: Any) -> UnsupportedError:
    error = parser.get_error(0)
    name, operator = error.node_name(), error.node_operator()
    # An error of the graph as a whole, of its weights for example, has no node.
    place = f"node {name!r} ({operator})" if operator else "the graph"
    return UnsupportedError(
        f"{file.name}: {library.title} can't take {place}",
        received=error.desc().strip(),
        remedy="change that part of the model, or its quantization: TensorRT takes int8"
        " activations and weights without zero points, and no quantized biases",
    )


def _set_batches(
    request: Request, network: Any, new_profile: Callable[[], Any], config: Any
) -> tuple[int, int, int]:
    """Give the inputs an optimization profile, where their batch varies."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    varying = []
    for tensor in inputs:
        shape = tuple(tensor.shape)
        if -1 in shape[1:]:
            raise UnsupportedError(
                f"{request.file.name}: input {tensor.name!r} varies in more than the batch",
                received=shape,
                remedy="export the model with fixed dimensions besides the batch",
            )
        if shape[:1] == (-1,):
            varying.append((tensor.name, shape[1:]))
    if not varying:
        fixed = {int(tensor.shape[0]) for tensor in inputs if len(tensor.shape)}
        batch = fixed.pop() if len(fixed) == 1 else 1
        return batch, batch, batch
    low, preferred, high = request.batches
    if not low <= preferred <= high:
        raise ParameterError(
            "min_batch, opt_batch and max_batch must rise",
            received=f"{low}, {preferred}, {high}",
            remedy="give an opt_batch between the other two",
        )
    profile = new_profile()
    for name, rest in varying:
        profile.set_shape(name, *((batch, *rest) for batch in (low, preferred, high)))
    config.add_optimization_profile(profile)
    return request.batches


def _precision(layer: Any) -> str:
    """Return the type that a layer of a strongly typed network gives; "" of one without outputs."""
    if not layer.num_outputs:
        return ""
    name: str = layer.get_output(0).dtype.name
    return _TYPES.get(name, name.lower())


def _inspect(library: Library, content: bytes) -> str:
    """Return the engine inspector's JSON.

    Raises:
        StepFailedError: The engine that was just built can't be loaded here.
    """
    trt = library.module
    messages = Messages(library)
    runtime = trt.Runtime(messages.logger)
    # It was built a moment ago, in this process.
    runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise StepFailedError(
            f"{library.title} can't load the engine that it built",
            received=messages.reason,
            remedy="see whether the GPU's driver is new enough for this version",
        )
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
