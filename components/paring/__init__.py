"""Steps that make trained TensorFlow models smaller and faster, one file each."""

from typing import Final

__version__: Final = "0.1.0"
