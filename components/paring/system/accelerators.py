"""Accelerator that the caller of a step requests, such as the pod of a pipeline's task."""

import os
from typing import Literal

from paring.errors import ParameterError

VARIABLE = "PARING_ACCELERATOR"
"""Variable that names it, such as nvidia-l4 or tpu-v5e; `paring compile` sets it."""

Kind = Literal["nvidia", "tpu", ""]


def requested() -> tuple[str, Kind]:
    """Return the accelerator that the variable names, and its kind; "" and "" for none.

    Raises:
        ParameterError: It names something else.
    """
    name = os.environ.get(VARIABLE, "")
    kind = name.partition("-")[0]
    match kind:
        case "nvidia" | "tpu":
            return name, kind
        case "" | "none":
            return "", ""
    raise ParameterError(
        f"{VARIABLE}: must be a GPU as nvidia-l4, a TPU as tpu-v5e, or none",
        received=name,
        remedy=f"correct {VARIABLE}, or unset it to take the devices that are there",
    )
