"""Import of modules that users write."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def working_directory_first() -> Iterator[None]:
    """Import modules of the working directory before all others."""
    here = str(Path.cwd())
    # In front, as `python -m` has it; taken out again, since other modules than
    # the user's own are none of its business.
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
