"""Names of operations and nodes."""

import re
from typing import Any

_CALLS = re.compile(r"^(?:(?:Stateful)?PartitionedCall(?:_\d+)?/)+")


def place(op: Any) -> str:
    """Return the name of an operation or NodeDef, without the calls that it was inlined from."""
    return str(_CALLS.sub("", op.name))
