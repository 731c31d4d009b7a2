"""Reading of users' TOML files."""

import tomllib
from pathlib import Path
from typing import Any

from paring.errors import ParameterError

_MAX_BYTES = 4 << 20


def read_toml(path: Path, option: str, *, remedy: str) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Args:
        path: The file.
        option: The command line's option that names it, for the error.
        remedy: What to do where it can't be read.

    Raises:
        ParameterError: It can't be read, or is not TOML.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ParameterError(
                f"{path} is larger than a file that people write",
                received=f"more than {_MAX_BYTES} bytes",
                remedy=remedy,
            )
        # Some editors begin a file with a byte order mark, which TOML does not know.
        return tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise ParameterError(
            f"{option}: this file can't be read",
            received=f"{path} ({error.strerror})",
            remedy=remedy,
        ) from error
    except UnicodeDecodeError as error:
        raise ParameterError(
            f"{path} is no text in UTF-8",
            received=f"{error.reason} at byte {error.start}",
            remedy="save it in UTF-8",
        ) from error
    except ValueError as error:
        # tomllib's own error is one, and so is that of an integer of too many digits.
        raise ParameterError(
            f"{path} is not TOML", received=error, remedy="fix the line that it names"
        ) from error
    except RecursionError as error:
        raise ParameterError(f"{path} is nested too deeply", remedy=remedy) from error
