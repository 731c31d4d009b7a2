"""The TOML files that people write: read, or refused with what is wrong."""

import tomllib
from pathlib import Path
from typing import Any

from paring.errors import ParameterError


def read_toml(path: Path, option: str, *, remedy: str) -> dict[str, Any]:
    """The tables of a TOML file.

    Args:
        path: The file.
        option: The command line's option that names it, for the error.
        remedy: What to do where it can't be read.

    Raises:
        ParameterError: It can't be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ParameterError(
            f"{option}: this file can't be read",
            received=f"{path} ({error.strerror})",
            remedy=remedy,
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ParameterError(
            f"{path} is not TOML", received=error, remedy="mend the line that it names"
        ) from error
