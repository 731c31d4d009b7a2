"""Detection of this machine's TensorRT library and GPU."""

from paring.errors import MissingDependencyError
from paring.tensorrt.driver import Gpu, find_gpu
from paring.tensorrt.library import TITLES, Library, load_library


def look(product: str, *, needs_gpu: bool) -> tuple[Library, Gpu | None]:
    """Return the library of a product, and the GPU.

    The GPU is looked for first, and by the driver alone: TensorRT's own objects crash
    without one. All that is missing is named at once.

    Args:
        product: "server" or "rtx".
        needs_gpu: Whether to fail without a GPU.

    Raises:
        MissingDependencyError: The library is missing, or the GPU where it is needed.
    """
    gpu, library, missing = None, None, []
    try:
        gpu = find_gpu()
    except MissingDependencyError as error:
        if needs_gpu:
            missing.append(error)
    try:
        library = load_library(product)
    except MissingDependencyError as error:
        missing.append(error)
    if library is None or missing:
        raise MissingDependencyError(
            f"{TITLES[product]} can't be used here: "
            + ", and ".join(item.what for item in missing),
            received="; ".join(item.received for item in missing),
            remedy="; ".join(item.remedy for item in missing),
        )
    return library, gpu
