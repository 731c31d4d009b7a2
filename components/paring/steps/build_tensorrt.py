"""Building of TensorRT engines from ONNX models."""

import json
import logging
import shutil
from dataclasses import asdict
from typing import Annotated, Literal

from annotated_types import Ge

from paring.artifacts import Examples, ONNXModel, TRTEngine, content_bytes
from paring.errors import MissingDependencyError, ParameterError
from paring.step import Input, Output, step

_log = logging.getLogger(__name__)


@step(version="4", machine_dependent=True)
def build_tensorrt(
    model: Input[ONNXModel],
    examples: Input[Examples | None],
    earlier: Input[TRTEngine | None],
    engine: Output[TRTEngine],
    *,
    product: Literal["server", "rtx"] = "server",
    compute_capability: Literal["current", "7.5", "8.0", "8.6", "8.9", "12.0", "12.1"] = "current",
    tf32: bool = True,
    min_batch: Annotated[int, Ge(1)] = 1,
    opt_batch: Annotated[int, Ge(1)] = 1,
    max_batch: Annotated[int, Ge(1)] = 64,
    workspace_mb: Annotated[int, Ge(0)] = 0,
    version_compatible: bool = False,
    hardware_compatibility: Literal["none", "same_compute_capability", "ampere_plus"] = "none",
    on_unavailable: Literal["fail", "onnx_only"] = "fail",
) -> None:
    """Build a TensorRT engine of an ONNX model.

    The model determines the precision: `export_onnx` writes float32, float16 and int8 graphs,
    and a graph in bfloat16 is accepted as well. The network is strongly typed, the only kind
    that TensorRT 11 has (https://docs.nvidia.com/deeplearning/tensorrt/latest/).

    - server: TensorRT 10.12 and later, for GPUs of data centres. It measures kernels
      while it builds, on the GPU that the engine is for.
    - rtx: TensorRT for RTX, for the GPUs of desktops and laptops too. It builds without a
      GPU for a stated `compute_capability`. That it accepts a graph shows that NVIDIA's
      parser and builder do, and nothing about the server's kernels.

    `engine.json` beside the engine states the versions and hardware that it was built with and
    for, and runtimes on others refuse it. `layers.json` lists the engine's layers: `name`,
    `type`, `precision`, and `nodes`, the nodes of the ONNX graph that were fused into it.
    `inspector.json` is the engine inspector's own output, where there is a GPU. The fact
    `compared` states the inputs that the engine was compared on, or why it could not be run here.

    Examples:
        >>> exported = paring.export_onnx(network, arrays)
        >>> engine = paring.build_tensorrt(
        ...     exported, arrays, product="rtx", compute_capability="8.9", max_batch=8
        ... )
        >>> engine.max_batch
        8

    Args:
        model: Output of `export_onnx`, a .onnx file, or a folder with model.onnx.
        examples: An engine that runs on the GPU here is compared with the ONNX file on 32 examples
            of the train split; without examples, on random numbers.
        earlier: Engine whose timing cache the build starts from, for server. TensorRT reads it
            as it is, so it takes trust_engine.
        engine: The engine, with the timing cache beside it for server.
        product: TensorRT product that builds the engine; see above.
        compute_capability: Compute capability that the engine is for. `current` is that of the
            GPU here, and the only one that server builds for.
        tf32: Allow float32 products to be computed in TF32, where the GPU has it.
        min_batch: The smallest batch, where the graph's batch varies.
        opt_batch: The batch size that kernels are chosen for, likewise.
        max_batch: The largest batch, likewise.
        workspace_mb: Memory of the GPU that a layer may work in, in MiB; 0 for all.
        version_compatible: Later versions of the same major version load it; for server.
            The engine then carries code of TensorRT's that is run on loading.
        hardware_compatibility: Whether other GPUs of the same compute capability, or all
            from Ampere on, load it; for server.
        on_unavailable: `onnx_only` outputs the ONNX model where the library or the GPU
            is missing, and states so in the fact `note`.

    Raises:
        MissingDependencyError: The library is missing, or the GPU that it needs.
        ParameterError: Parameters are for the other product, or the batch sizes don't ascend.
        ModelError: The ONNX file is missing or damaged, or some of its weights are elsewhere;
            or the timing cache is empty or too large.
        UntrustedModelError: The file has operators of other libraries, such as TensorRT's plugins,
            and trust_model is off; or there is a timing cache, and trust_engine is off too.
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: TensorRT refuses the model; the node and its reason are given. Or
            the engine does not compute what the ONNX file does.
    """
    from paring.converters.engine_check import compare_engine, compared_elsewhere
    from paring.models.onnx_files import check_onnx, onnx_file
    from paring.tensorrt.building import Request, build_engine, refuse_float64
    from paring.tensorrt.conditions import Conditions
    from paring.tensorrt.layers import count_precisions
    from paring.tensorrt.machine import look
    from paring.tensorrt.timing_cache import read_timing_cache

    given = {
        "compute_capability": compute_capability != "current",
        "version_compatible": version_compatible,
        "hardware_compatibility": hardware_compatibility != "none",
        "earlier": earlier is not None,
    }
    for name, is_given in given.items():
        wanted = "rtx" if name == "compute_capability" else "server"
        if is_given and product != wanted:
            raise ParameterError(
                f"{name} goes with product {wanted} alone",
                received=f"product {product}",
                remedy=f"leave {name} out, or use product {wanted}",
            )
    cache = b"" if earlier is None else read_timing_cache(earlier)
    file = onnx_file(model)
    parts = check_onnx(file, trusted=model.trusted)
    refuse_float64(file)
    engine.serving_dir.mkdir()
    try:
        library, gpu = look(product, needs_gpu=compute_capability == "current")
    except MissingDependencyError as error:
        if on_unavailable == "fail":
            raise
        for part in parts:
            beside = part.relative_to(file.parent)
            place = engine.serving_dir / ("model.onnx" if part == file else beside)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(part, place)
        engine.size_bytes = content_bytes(engine.serving_dir)
        engine.note = f"no engine, but the ONNX model: {error.what} ({error.received})"
        return

    stated = compute_capability != "current"
    capability = compute_capability if stated or gpu is None else gpu.compute_capability
    request = Request(
        file,
        (min_batch, opt_batch, max_batch),
        tf32,
        workspace_mb,
        capability,
        version_compatible,
        hardware_compatibility,
        cache,
    )
    runs_here = gpu is not None and gpu.compute_capability == capability
    built = build_engine(library, request, inspect=runs_here)

    low, preferred, high = built.batches
    conditions = Conditions(
        product,
        library.version,
        capability,
        "" if gpu is None or stated else gpu.name,
        "" if gpu is None or stated else gpu.driver_version,
        version_compatible,
        hardware_compatibility,
        low,
        preferred,
        high,
    )
    engine.file.write_bytes(built.content)
    conditions.write(engine.serving_dir)
    for name, value in asdict(conditions).items():
        setattr(engine, name, value)
    compared = (
        compare_engine(engine.file, file, batch_size=low, examples=examples, trusted=model.trusted)
        if runs_here
        else compared_elsewhere(model)
    )
    engine.compared, engine.difference = compared.on, compared.difference
    engine.tf32 = tf32
    engine.network_layers = count_precisions(built.node_precisions)
    if built.layers:
        rows = [asdict(layer) for layer in built.layers]
        engine.layer_table.write_text(json.dumps(rows, indent=2) + "\n")
        engine.engine_layers = count_precisions(layer.precision for layer in built.layers)
    if built.inspection:
        engine.inspection.write_text(built.inspection)
    if built.timing_cache:
        engine.timing_cache.write_bytes(built.timing_cache)
    engine.size_bytes = content_bytes(engine.serving_dir)
    _log.info("%s: %s", library.title, ", ".join(engine.engine_layers or engine.network_layers))
