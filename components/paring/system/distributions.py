"""The versions of installed libraries, under the names of their distributions."""

import importlib.metadata

# Distributions that bring the same modules: of TensorFlow, those for the CPU and for TPUs
# leave out what the others are large for; of TensorRT there is one for each CUDA.
_VARIANTS = {
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-tpu"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
}


def installed_version(name: str) -> str | None:
    """Return the version of the distribution `name`, or of a variant of it.

    Args:
        name: Such as "tensorflow".

    Returns:
        The version; None where neither is installed.
    """
    for variant in _VARIANTS.get(name, (name,)):
        try:
            return importlib.metadata.version(variant)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
