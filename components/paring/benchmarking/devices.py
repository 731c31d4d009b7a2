"""Devices that a model was made for, against those that measure it."""

from collections.abc import Sequence

from paring.artifacts import Servable, SplitModel, read_record
from paring.errors import MissingDependencyError


def check_devices(candidate: Servable, accelerators: Sequence[str]) -> None:
    """Refuse to measure a model that was split over more GPUs than there are.

    TensorFlow would run the stages of a missing GPU on another device in silence, and the figures
    would be those of that device.

    Args:
        candidate: The model, by whose record it is known.
        accelerators: Models of the GPUs that TensorFlow sees.

    Raises:
        MissingDependencyError: There are fewer.
    """
    record = read_record(candidate.path) or {}
    facts = record.get("facts") or {}
    if record.get("type") != SplitModel.__name__ or facts.get("device_type") != "GPU":
        return
    wanted, seen = int(facts.get("devices") or 0), len(accelerators)
    if wanted > seen:
        raise MissingDependencyError(
            f"{candidate.path} was split over {wanted} GPUs, and TensorFlow sees {seen}",
            received=", ".join(accelerators) or "no GPU",
            remedy=f"measure it on a machine with {wanted} GPUs, or split it with"
            " device_type = CPU or fewer devices",
        )
