"""Models that OpenVINO reads: ONNX files, SavedModels and TFLite files.

OpenVINO has a front end for each. Those of TensorFlow and TFLite call tensors by the names of
the graph, which the signature's names replace here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from paring.artifacts import Servable
from paring.converters.comparison import Form
from paring.errors import ArtifactTypeError, UnsupportedError, first_line
from paring.models.saved_model import SavedModel
from paring.models.signature import Signature, TensorSpec
from paring.runtimes import Runtime, find_served
from paring.runtimes.onnx import OnnxRuntime
from paring.runtimes.openvino import import_openvino
from paring.runtimes.savedmodel import SavedModelRuntime
from paring.runtimes.tflite import TFLiteRuntime

FrontEnd = Literal["onnx", "savedmodel", "tflite"]

_FORMS: Mapping[str, Form] = {
    **{"fp32": "float", "none": "float"},
    **{"int8": "integer", "int16x8": "integer", "dynamic": "integer", "mixed": "integer"},
}


@dataclass(frozen=True)
class Source:
    """A model that is to be converted.

    Attributes:
        front_end: The front end of OpenVINO that reads it.
        precision: Precision that it was stored in: fp32, fp16, int8, or of a TFLite file its
            quantization.
        signature: Its inputs and outputs.
        open: Opens it in its own runtime.
        read: Returns it as an `openvino.Model` with the signature's names.
    """

    front_end: FrontEnd
    precision: str
    signature: Signature
    open: Callable[[], Runtime]
    read: Callable[[], Any]

    @property
    def form(self) -> Form:
        """Form of what it computes in."""
        return _FORMS.get(self.precision, "half")


def open_source(model: Servable) -> Source:
    """Return the model as a source, by the files that it holds.

    Raises:
        ArtifactTypeError: Its files are of a runtime that OpenVINO can't read.
        ModelError: There is no model, or it is broken.
        UntrustedModelError: It holds code and is not trusted.
    """
    served = find_served(model.path)
    match served.runtime.name:
        case OnnxRuntime.name:
            return _onnx(served.file, model)
        case SavedModelRuntime.name:
            return _savedmodel(model)
        case TFLiteRuntime.name:
            return _tflite(served.file, model)
    raise ArtifactTypeError(
        f"{served.file} can't be converted to OpenVINO",
        received=f"a model for {served.runtime.name}",
        remedy="give a SavedModel, an ONNX file or a TFLite file",
    )


def _onnx(file: Path, model: Servable) -> Source:
    from paring.converters.onnx.onnx_export import read_onnx_signature
    from paring.models.onnx_files import check_onnx

    check_onnx(file, trusted=model.trusted)
    return Source(
        "onnx",
        getattr(model, "precision", "") or "fp32",
        read_onnx_signature(file),
        # As it is: for a processor without int8 instructions of its own, ONNX Runtime makes
        # kernels of int8 graphs whose sums overflow.
        lambda: OnnxRuntime(file, optimized=False, trusted=model.trusted),
        lambda: _read(file),
    )


def _savedmodel(model: Servable) -> Source:
    saved = SavedModel.open(model)
    return Source(
        "savedmodel",
        "fp32",
        saved.signature(),
        lambda: SavedModelRuntime(saved),
        lambda: _read_savedmodel(saved),
    )


def _tflite(file: Path, model: Servable) -> Source:
    def open_file() -> TFLiteRuntime:
        return TFLiteRuntime(file, trusted=model.trusted, signature=model.signature)

    runtime = open_file()
    signature, names = runtime.signature, runtime.tensor_names
    runtime.close()
    return Source(
        "tflite",
        getattr(model, "quantization", "") or "none",
        signature,
        open_file,
        lambda: _named(_read(file), *names),
    )


def _read(file: Path) -> Any:
    """Read a file by OpenVINO's reader: its converter would tell Intel of its use."""
    openvino = import_openvino()
    try:
        return openvino.Core().read_model(str(file))
    except RuntimeError as error:
        raise UnsupportedError(
            "OpenVINO can't convert this model",
            received=_reason(str(error)) or first_line(error),
            remedy="use another runtime for this model",
        ) from error


def _reason(message: str) -> str:
    """Return the operators that OpenVINO's front ends name in a message of many lines."""
    named = re.search(r"No translator found for (\S+) node", message)
    if named:
        return f"operator {named[1]}"
    listed = re.search(r"No conversion rule found for operations:\s*([^\n]+)", message)
    return f"operators {listed[1].strip()}" if listed else ""


def _read_savedmodel(saved: SavedModel) -> Any:
    """Read the signature as one frozen graph, in which nothing depends on training."""
    from paring.graphs.graph import load_function
    from paring.graphs.serving_graph import inference_graph

    graph = inference_graph(load_function(saved))
    # An output has a node of its own, by whose name it is found again.
    outputs = {}
    for index, (name, tensor) in enumerate(graph.outputs.items()):
        node = graph.graph_def.node.add(name=f"paring_output_{index}", op="Identity")
        node.input.append(tensor)
        node.attr["T"].type = _dtype(saved.signature().outputs[name])
        outputs[name] = f"{node.name}:0"
    inputs = {name: f"{node}:0" for name, node in graph.inputs.items()}
    with TemporaryDirectory(prefix="paring-openvino-") as folder:
        file = Path(folder) / "graph.pb"
        file.write_bytes(graph.graph_def.SerializeToString(deterministic=True))
        return _named(_read(file), inputs, outputs)


def _dtype(spec: TensorSpec) -> int:
    import tensorflow as tf

    return int(tf.as_dtype("string" if spec.dtype == "object" else spec.dtype).as_datatype_enum)


def _named(graph: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Any:
    """Give the ports of a graph the signature's names, and return the graph.

    Args:
        graph: The `openvino.Model`.
        inputs: Name of the tensor in the graph, by that of the signature's input.
        outputs: The same of the outputs; several may be one tensor.

    Raises:
        UnsupportedError: OpenVINO left one out, or hands an input on as an output.
    """
    ports = [*graph.inputs, *graph.outputs]
    known = [port.get_names() for port in ports]
    named: list[set[str]] = [set() for _ in ports]
    first_output = len(graph.inputs)
    for names, indices in (
        (inputs, range(first_output)),
        (outputs, range(first_output, len(ports))),
    ):
        for name, tensor in names.items():
            for index in indices:
                if tensor in known[index]:
                    named[index].add(name)
    lost = (inputs.keys() | outputs.keys()).difference(*named)
    passed_on = set().union(*known[:first_output]) & set().union(*known[first_output:])
    if lost or passed_on or not all(named):
        raise UnsupportedError(
            "OpenVINO does not keep the inputs and outputs of this model",
            received=", ".join(sorted(lost or passed_on)) or "an output that the signature lacks",
            remedy="use another runtime for this model",
        )
    # Of a tensor with several names OpenVINO may show any, once it has merged two.
    for operator in graph.get_ops():
        for output in operator.outputs():
            output.get_tensor().set_names(set())
    for port, own in zip(ports, named, strict=True):
        port.get_tensor().set_names(own)
    for port in graph.inputs:
        port.get_node().set_friendly_name(port.get_any_name())
    return graph
