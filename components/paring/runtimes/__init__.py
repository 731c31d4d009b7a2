"""Runtimes, which load the served files of a candidate and run batches.

One file a runtime, with its record in `RUNTIME`; `paring.runtimes.registry` lists them.
"""

from paring.runtimes.base import (
    Features,
    InputTensor,
    LoadOptions,
    Runtime,
    RuntimeSpec,
    SignatureRuntime,
    blank_batch,
    run_rows,
    widened,
)
from paring.runtimes.registry import (
    ServedModel,
    check_served,
    find_served,
    import_library,
    open_runtime,
    register_runtime,
    registered_runtimes,
    served_path,
)

__all__ = [
    "Features",
    "InputTensor",
    "LoadOptions",
    "Runtime",
    "RuntimeSpec",
    "ServedModel",
    "SignatureRuntime",
    "blank_batch",
    "check_served",
    "find_served",
    "import_library",
    "open_runtime",
    "register_runtime",
    "registered_runtimes",
    "run_rows",
    "served_path",
    "widened",
]
