"""Estimate of the time that a round will take, from the time of earlier work of its kind.

A guess that errs does so on the long side: a search that stops a little early has a
result, one that runs over breaks a promise.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from paring_pipelines.pipeline.dag import Node

_PASSES = 3
"""A step of training costs about three times the model's forward pass."""


@dataclass(frozen=True)
class Work:
    """Work of a node, in terms that determine its time.

    Attributes:
        step: The step's name.
        brief: Whether it measures in the short way that samples have.
        amount: Examples that it trains on, all epochs together; 0 if it trains on none.
    """

    step: str
    brief: bool
    amount: float


def work_of(node: Node, train_count: int, on_sample: bool) -> Work:
    """Return the work of `node`, where the train split holds `train_count` examples."""
    epochs = node.parameters.get("epochs", 0)
    amount = train_count * float(epochs)
    return Work(node.step.name, node.step.machine_dependent and on_sample, amount)


def predict(
    works: Iterable[Work], known: Sequence[tuple[Work, float]], forward_seconds: float
) -> float:
    """Return the seconds that `works` will take.

    Args:
        works: What is to be done.
        known: What was done, and how many seconds it took.
        forward_seconds: Time of the source model for one example: what training is
            judged by before anything was trained.
    """
    return sum(_one(work, known, forward_seconds) for work in works)


def _one(work: Work, known: Sequence[tuple[Work, float]], forward_seconds: float) -> float:
    alike = [item for item in known if (item[0].step, item[0].brief) == (work.step, work.brief)]
    # Of what was never done, the slowest of the nearest kind says most.
    for others in (
        alike,
        [item for item in known if item[0].step == work.step],
        [item for item in known if bool(item[0].amount) == bool(work.amount)],
    ):
        if others:
            return _scaled(work.amount, [(item.amount, seconds) for item, seconds in others])
    return _PASSES * forward_seconds * work.amount


def _scaled(amount: float, known: Sequence[tuple[float, float]]) -> float:
    """Return the seconds for `amount`, from the seconds of other amounts.

    With two amounts it is the line through both ends: training has a start that does
    not depend on them. With one, a larger amount takes longer in proportion, and a
    smaller one no less time.
    """
    low, high = min(item for item, _ in known), max(item for item, _ in known)
    at_low = _slow([seconds for item, seconds in known if item == low])
    at_high = _slow([seconds for item, seconds in known if item == high])
    if low == high:
        return at_low * max(1.0, amount / low) if low else at_low
    slope = max(0.0, (at_high - at_low) / (high - low))
    return max(at_low + slope * (amount - low), 0.0)


def _slow(seconds: Sequence[float]) -> float:
    """Return the upper quartile: long, but no single bad moment of the machine's."""
    return sorted(seconds)[math.ceil(0.75 * len(seconds)) - 1]
