"""Audit of a graph: its costly parts, their places, and recommended changes.

Each rule looks at a `Subject` and gives a `Finding` for each thing to change. A rule
that is not sure says nothing: one wrong finding costs more trust than one that is
missing. Costs are counted in the frozen graph, for one example.
"""

from collections.abc import Callable
from typing import Final

from paring.audit.branches import both_branches
from paring.audit.convolutions import standard_convolutions
from paring.audit.delegates import blocks_tensorrt, blocks_tflite, blocks_xla
from paring.audit.finding import Finding
from paring.audit.host import host_copies, python_functions
from paring.audit.layout import layout_transposes
from paring.audit.loops import unrolled_loops
from paring.audit.precision import float64_operators, int64_indices
from paring.audit.signatures import fixed_shapes, retraced_functions
from paring.audit.subject import Subject
from paring.audit.training import augmentation, batch_statistics, dropout
from paring.audit.zeros import densified_tensors, one_hot_products, zero_weights

__all__ = ["RULES", "Finding", "Subject", "audit"]

RULES: Final[tuple[Callable[[Subject], list[Finding]], ...]] = (
    dropout,
    augmentation,
    batch_statistics,
    python_functions,
    unrolled_loops,
    both_branches,
    one_hot_products,
    densified_tensors,
    zero_weights,
    standard_convolutions,
    float64_operators,
    int64_indices,
    layout_transposes,
    host_copies,
    retraced_functions,
    fixed_shapes,
    blocks_xla,
    blocks_tflite,
    blocks_tensorrt,
)

_ORDER = ("high", "medium", "low")


def audit(subject: Subject) -> list[Finding]:
    """Return the findings of all rules, the most severe first."""
    result = [finding for rule in RULES for finding in rule(subject)]
    return sorted(result, key=lambda item: _ORDER.index(item.severity))
