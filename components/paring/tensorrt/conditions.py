"""Conditions under which an engine loads, and their check on this machine.

They stand in `engine.json` beside the engine, since the engine is copied without its
artifact's record: to where it was selected, pushed or taken from.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from paring.errors import ModelError, UnsupportedError
from paring.system.documents import read_json
from paring.tensorrt.driver import Gpu
from paring.tensorrt.library import RTX, TITLES, Library, version_numbers

FILE = "engine.json"

_AMPERE = (8, 0)


@dataclass(frozen=True)
class Conditions:
    """Versions and hardware that an engine was built with and for.

    Attributes:
        product: "server" or "rtx": which product built it.
        tensorrt_version: That product's version.
        compute_capability: Compute capability that the engine is for, such as "8.9".
        gpu: The GPU that it was built on; "" where there was none.
        driver_version: That GPU's driver; "" where it is not known.
        version_compatible: Whether later versions of the same major version load it.
        hardware_compatibility: none, same_compute_capability or ampere_plus.
        min_batch, opt_batch, max_batch: The batches that it takes.
    """

    product: str
    tensorrt_version: str
    compute_capability: str
    gpu: str = ""
    driver_version: str = ""
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 1

    def write(self, folder: Path) -> None:
        """Write them beside the engine."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_conditions(engine: Path) -> Conditions:
    """Return the conditions beside an engine's file.

    Raises:
        ModelError: They are not there, or can't be read.
    """
    file = engine.parent / FILE
    try:
        conditions = Conditions(**read_json(file))
        for field in fields(conditions):
            value = getattr(conditions, field.name)
            if type(value) is not field.type:
                raise TypeError(f"{field.name} is {type(value).__name__}")
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"{engine}: what it was built for can't be read",
            received=f"{file}: {error}",
            remedy=f"keep {FILE}, which build_tensorrt writes, beside the engine",
        ) from error
    if conditions.product not in TITLES:
        raise ModelError(f"{file}: there is no such product", received=conditions.product)
    return conditions


def check_conditions(engine: Path, conditions: Conditions, library: Library, gpu: Gpu) -> None:
    """Refuse an engine that does not load here, before the library does it or crashes.

    The rules are NVIDIA's: an engine is for the version that built it, and for the GPU
    model that built it, unless it was built compatible; one of TensorRT for RTX is for a
    compute capability. A driver must not be older than the one it was built with.

    Raises:
        UnsupportedError: A condition does not hold; all that do not are named.
    """
    wrong = [
        *_version(conditions, library),
        *_hardware(conditions, gpu),
        *_driver(conditions, gpu),
    ]
    if wrong:
        raise UnsupportedError(
            f"{engine} does not load on this machine",
            received="; ".join(wrong),
            remedy="build it on a machine like this one, or run it on one like its own",
        )


def _version(conditions: Conditions, library: Library) -> list[str]:
    built, here = conditions.tensorrt_version, library.version
    title = TITLES[conditions.product]
    if conditions.version_compatible:
        then, now = version_numbers(built), version_numbers(here)
        if then[0] == now[0] and then <= now:
            return []
        return [f"it was built with {title} {built} for that or a later {then[0]}.x, not {here}"]
    return [] if built == here else [f"it was built with {title} {built}, and here is {here}"]


def _hardware(conditions: Conditions, gpu: Gpu) -> list[str]:
    here = f"{gpu.name} of compute capability {gpu.compute_capability}"
    level = conditions.hardware_compatibility
    if level == "ampere_plus":
        if version_numbers(gpu.compute_capability) >= _AMPERE:
            return []
        return [f"it is for compute capability 8.0 and above, and here is {here}"]
    if gpu.compute_capability != conditions.compute_capability:
        return [f"it is for compute capability {conditions.compute_capability}, and here is {here}"]
    any_model = conditions.product == RTX or level == "same_compute_capability"
    if any_model or gpu.name == conditions.gpu:
        return []
    return [f"it was built on {conditions.gpu}, and here is {here}"]


def _driver(conditions: Conditions, gpu: Gpu) -> list[str]:
    built, here = conditions.driver_version, gpu.driver_version
    if not built or not here or version_numbers(here) >= version_numbers(built):
        return []
    return [f"it was built with driver {built}, and here is the older {here}"]
