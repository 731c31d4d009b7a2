"""NVIDIA's two products, as Python modules: TensorRT for servers and TensorRT for RTX."""

import importlib
import logging
import re
from dataclasses import dataclass
from typing import Any, Final

from paring.errors import MissingDependencyError

SERVER: Final = "server"
RTX: Final = "rtx"

TITLES: Final = {SERVER: "TensorRT", RTX: "TensorRT for RTX"}
"""What each is called, by the name that `build_tensorrt` takes."""

LAYERS: Final = "Layers:"
"""How the builder's message with the table of the engine's layers begins."""

_MODULES: Final = {SERVER: "tensorrt", RTX: "tensorrt_rtx_bindings"}
_OLDEST: Final = {SERVER: (10, 12), RTX: (1, 0)}
_REMEDIES: Final = {
    SERVER: "pip install tensorrt, which fetches the libraries from NVIDIA; 10.12 or newer",
    RTX: "pip install tensorrt-rtx-cu13-bindings tensorrt-rtx-cu13-libs",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Library:
    """One of NVIDIA's products, imported.

    Attributes:
        product: "server" or "rtx".
        module: The module.
        version: Such as "10.13.0.35".
    """

    product: str
    module: Any
    version: str

    @property
    def title(self) -> str:
        """Name and version of the library."""
        return f"{TITLES[self.product]} {self.version}"


def load_library(product: str) -> Library:
    """Import the library of a product.

    Raises:
        MissingDependencyError: It is not installed, not whole, or too old.
    """
    name = _MODULES[product]
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError) as error:
        # OSError: the module is there, and not the libraries that it loads.
        raise MissingDependencyError(
            f"{TITLES[product]} can't be imported",
            received=f"{name}: {error}",
            remedy=_REMEDIES[product],
        ) from error
    version = str(module.__version__)
    if version_numbers(version)[:2] < _OLDEST[product]:
        oldest = ".".join(map(str, _OLDEST[product]))
        raise MissingDependencyError(
            f"{TITLES[product]} is older than {oldest}, and has no strongly typed networks",
            received=version,
            remedy=_REMEDIES[product],
        )
    return Library(product, module, version)


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, for comparing: "10.13.0.35" is (10, 13, 0, 35)."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


class Messages:
    """Messages of a library: its errors, and its table of an engine's layers.

    Args:
        library: The library. Warnings and errors are logged at level INFO, since whoever gets
            `errors` raises them.
    """

    def __init__(self, library: Library) -> None:
        self.errors: list[str] = []
        self.layer_table = ""
        self.logger = _logger(library, self)

    @property
    def reason(self) -> str:
        """The first errors, each on one line."""
        return "\n    ".join(self.errors[:4]) or "it gave no reason"


def _logger(library: Library, messages: Messages) -> Any:
    severities = library.module.ILogger.Severity
    grave = (severities.INTERNAL_ERROR, severities.ERROR)

    # The library takes a subclass of its own class alone, which is known only now.
    class Logger(library.module.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            # Not super(): the class behind it is a pybind11 one, which asks for this.
            library.module.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (*grave, severities.WARNING):
                _log.info("%s: %s", library.title, text)
            if severity in grave:
                messages.errors.append(text.strip())
            elif text.startswith(LAYERS):
                messages.layer_table = text

    return Logger()
