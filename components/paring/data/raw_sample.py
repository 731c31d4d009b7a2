"""Some examples as the whole model takes them, kept for measurements of its text work."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paring.errors import ExamplesError
from paring.system.documents import read_json

SAMPLE = "raw_examples.json"
"""File of some examples as the whole model takes them, in an artifact of examples."""


def write_sample(file: Path, raw: Mapping[str, NDArray[Any]]) -> None:
    """Write examples as JSON, text in base64.

    Args:
        file: Gets them.
        raw: An array [count, ...] for each input, text as objects of bytes.
    """
    content = {
        name: {
            "shape": list(array.shape),
            "dtype": "object" if array.dtype.kind == "O" else array.dtype.name,
            "values": [
                base64.b64encode(item).decode() if isinstance(item, bytes) else item
                for item in array.ravel().tolist()
            ],
        }
        for name, array in raw.items()
    }
    file.write_text(json.dumps(content) + "\n")


def read_sample(file: Path) -> dict[str, NDArray[Any]]:
    """Read what `write_sample` wrote.

    Raises:
        ExamplesError: The file is missing or broken.
    """
    try:
        content = read_json(file)
        result: dict[str, NDArray[Any]] = {}
        for name, item in content.items():
            values = item["values"]
            if item["dtype"] == "object":
                values = [base64.b64decode(value, validate=True) for value in values]
            result[name] = np.array(values, item["dtype"]).reshape(item["shape"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ExamplesError(
            f"{file} is not readable",
            received=f"{type(error).__name__}: {error}",
            remedy="import the examples again with this version and this model",
        ) from error
    return result
