"""Commands, options and console output of `paring`."""

import gc
from typing import NoReturn


def start() -> NoReturn:
    """Run the command line as the program `paring`, and exit with the command's code."""
    # Modules stay until the end, so a collection among them finds nothing and takes time.
    gc.disable()
    from paring_pipelines.cli.main import main

    gc.freeze()
    gc.enable()
    main()
