"""Layers of an engine after fusing, and the precision of each.

Read from the engine inspector's JSON, which needs a GPU, or from the table that the
builder logs at detailed verbosity, which is the inspector's one-line form and is there
without one. Neither form is specified; what can't be read gives no layers.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

_NARROWEST_FIRST: Final = (
    "fp4",
    "int4",
    "fp8",
    "int8",
    "bfloat16",
    "float16",
    "float32",
    "uint8",
    "bool",
    "int32",
    "int64",
)

# The names of types in TensorRT's texts, of one release or another.
_SPELLINGS: Final = {
    "fp4": "fp4",
    "int4": "int4",
    "fp8": "fp8",
    "int8": "int8",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "half": "float16",
    "fp16": "float16",
    "float16": "float16",
    "float": "float32",
    "fp32": "float32",
    "float32": "float32",
    "uint8": "uint8",
    "bool": "bool",
    "int32": "int32",
    "int64": "int64",
}

_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: \[(?P<inputs>.*?)\],"
    r"(?: Constants: \[.*?\],)? Outputs: \[(?P<outputs>.*?)\], TacticName: .*?"
    r"(?:, Metadata: (?P<metadata>.*))?$"
)
_DATATYPE = re.compile(r"Datatype: ([^,}]+)")
_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class Layer:
    """A layer of the engine.

    Attributes:
        name, type: As TensorRT has them.
        precision: The narrowest type of what it reads, since that is what it computes
            in: int8 of a convolution that reads int8 and writes float32.
        nodes: The nodes of the ONNX graph that it was made of.
    """

    name: str
    type: str
    precision: str
    nodes: tuple[str, ...]


def from_inspector(text: str) -> list[Layer]:
    """Return the layers in an EngineInspector's JSON; none if it is of another form."""
    try:
        entries = json.loads(text)["Layers"]
        return [
            Layer(
                str(entry["Name"]),
                str(entry["LayerType"]),
                _precision(_types(entry["Inputs"]), _types(entry["Outputs"])),
                tuple(_NODE.findall(str(entry.get("Metadata", "")))),
            )
            for entry in entries
        ]
    except (ValueError, LookupError, TypeError, AttributeError):
        # Names alone, where the engine was built with less verbosity, or a new form.
        return []


def from_log(text: str) -> list[Layer]:
    """Return the layers in the builder's table; none if it is of another form."""
    result = []
    for line in text.partition("\n\n")[0].splitlines()[1:]:
        match = _LINE.match(line)
        if match is None:
            return []
        inputs, outputs = (_DATATYPE.findall(match[key]) for key in ("inputs", "outputs"))
        result.append(
            Layer(
                match["name"],
                match["type"],
                _precision(inputs, outputs),
                tuple(_NODE.findall(match["metadata"] or "")),
            )
        )
    return result


def count_precisions(precisions: Iterable[str]) -> tuple[str, ...]:
    """Count the layers of each precision, as in ("float32 3", "int8 14"); "" is not counted."""
    counted = Counter(precision for precision in precisions if precision)
    return tuple(f"{name} {count}" for name, count in sorted(counted.items()))


def _types(tensors: Sequence[dict[str, Any]]) -> list[str]:
    # "Format/Datatype" names both: "Channel major INT8 format ...".
    return [str(tensor.get("Datatype") or tensor["Format/Datatype"]) for tensor in tensors]


def _precision(inputs: Iterable[str], outputs: Iterable[str]) -> str:
    """Return the inputs' precision, else the outputs'; "" if they have none, as shapes do."""
    for texts in (inputs, outputs):
        words = {word for text in texts for word in re.findall(r"[a-z]+\d*", text.lower())}
        known = {_SPELLINGS[word] for word in words if word in _SPELLINGS}
        if known:
            return min(known, key=_NARROWEST_FIRST.index)
    return ""
