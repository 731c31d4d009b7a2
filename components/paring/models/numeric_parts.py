"""Description of a signature that was cut in parts: the tensors between them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from paring.errors import ModelError
from paring.models.saved_model import SavedModel
from paring.models.state import called_nodes
from paring.system.documents import read_json

PREPROCESS: Final = "preprocess"
"""Folder of the SavedModel that gives what the core takes."""

POSTPROCESS: Final = "postprocess"
"""Folder of the SavedModel that computes the other outputs."""

INTERFACE: Final = "interface.json"
"""File of the tensors between the parts."""

SOURCE: Final = "source"
"""Folder of the SavedModel as it was before it was cut."""

# How the names of operators begin that make a model of numbers one that runs in TensorFlow alone.
_TEXT_WORK = ("AsString", "LookupTableFind", "ParseExample", "StringToHash", "StringToNumber")


def does_text_work(model: SavedModel) -> bool:
    """Return whether the model's signature takes or gives text, looks up tables, or hashes.

    Raises:
        ModelError: It can't be read.
    """
    signature = model.signature()
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    return any(spec.dtype == "object" for spec in specs) or any(
        node.op.startswith(_TEXT_WORK) for node in called_nodes(model.meta_graph, model.key)
    )


@dataclass(frozen=True)
class Tensor:
    """A tensor that goes into a part, or a feature of a tf.Example.

    Attributes:
        name: Its name.
        dtype: NumPy's name of the type; "object" for text.
        shape: With the batch, None where a dimension varies; of a feature without it. None
            where not even the number of dimensions is known.
        required: Of a feature: whether each example must hold it.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    required: bool = True


@dataclass(frozen=True)
class Interface:
    """The tensors between the parts of a signature.

    Attributes:
        signature: Name of the source's signature, and of the core's.
        method: Its method name, by which TensorFlow Serving knows classification.
        inputs: What the source's signature takes.
        core_inputs: What the core takes.
        core_outputs: Names of what the core gives.
        post_inputs: Names of what the last part takes, given by the core or by the first part.
        post_outputs: Names of the outputs that the last part computes.
        outputs: The tensor of each output of the source's signature, by its name: of the core,
            the first part or the last one.
        features: Features of tf.Example, by the input that takes these serialized.
    """

    signature: str
    method: str
    inputs: tuple[Tensor, ...]
    core_inputs: tuple[Tensor, ...]
    core_outputs: tuple[str, ...]
    post_inputs: tuple[str, ...]
    post_outputs: tuple[str, ...]
    outputs: Mapping[str, str]
    features: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read it.

        Raises:
            ModelError: The file is missing or broken.
        """
        try:
            content = read_json(file)
            return cls(
                signature=_text(content["signature"]),
                method=_text(content["method"]),
                inputs=_tensors(content["inputs"]),
                core_inputs=_tensors(content["core_inputs"]),
                core_outputs=_texts(content["core_outputs"]),
                post_inputs=_texts(content["post_inputs"]),
                post_outputs=_texts(content["post_outputs"]),
                outputs={_text(key): _text(item) for key, item in content["outputs"].items()},
                features={_text(key): _tensors(i) for key, i in content["features"].items()},
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{file} is not readable",
                received=f"{type(error).__name__}: {error}",
                remedy="import the model again; its text work was changed or cut off",
            ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_text(item) for item in values)


def _tensors(values: Any) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            _text(item["name"]),
            _text(item["dtype"]),
            None if item["shape"] is None else tuple(_size(size) for size in item["shape"]),
            bool(item["required"]),
        )
        for item in values
    )


def _size(value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise TypeError(f"{value!r} is no size")
    size: int | None = value
    return size
