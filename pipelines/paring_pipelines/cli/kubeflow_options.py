"""The options that the cluster's commands share."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from paring.errors import ParameterError
from paring_pipelines.cli.compiling import placement_options
from paring_pipelines.cli.options import SECONDS

if TYPE_CHECKING:
    from paring_pipelines.kubeflow.client import Kubeflow

connection_options = (
    click.option(
        "--host", metavar="URL", help="Kubeflow Pipelines' API; else KFP_ENDPOINT says where."
    ),
    click.option(
        "--namespace",
        metavar="NAME",
        help="Yours, where Kubeflow has several users; else KFP_NAMESPACE.",
    ),
    click.option(
        "--timeout",
        type=SECONDS,
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="Longest wait for an answer of Kubeflow.",
    ),
)
PLAN = ("parameters", "experiment", "pipeline_root", "service_account")
"""Those of `plan_options` that have nothing to do with how the package was compiled."""

plan_options = (
    click.option(
        "--package",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="What `paring compile` wrote; else the options below make one.",
    ),
    *placement_options,
    click.option(
        "--parameter",
        "parameters",
        multiple=True,
        metavar="NAME=VALUE",
        help="Another parameter of the pipeline; may be given more than once.",
    ),
    click.option("--experiment", default="paring", show_default=True, metavar="NAME"),
    click.option(
        "--pipeline-root", default="", metavar="URI", help="Where artifacts go; `fetch` asks."
    ),
    click.option("--service-account", default="", metavar="NAME", help="Of the pods."),
)
model_option = click.option(
    "--model", required=True, metavar="URI", help="Where the model lies, as the cluster sees it."
)
examples_option = click.option(
    "--examples", required=True, metavar="URI", help="Where the examples lie."
)
no_cache_option = click.option(
    "--no-cache", is_flag=True, help="Take no results of earlier runs; tries failures again."
)


def options(*chosen: Any) -> Callable[[Any], Any]:
    """Return several options as one decorator, in their order."""

    def decorate(function: Any) -> Any:
        for option in reversed(chosen):
            function = option(function)
        return function

    return decorate


def connect(host: str | None, namespace: str | None, timeout: float) -> "Kubeflow":
    """Return a client of the Kubeflow that `connection_options` and the environment name.

    Raises:
        ParameterError: They name none.
    """
    from paring_pipelines.kubeflow.connection import connection

    # Before the API client, which takes a moment to import.
    settings = connection(host, namespace, timeout=timeout)
    from paring_pipelines.kubeflow.client import Kubeflow

    return Kubeflow(settings)


@contextmanager
def on_interrupt(words: str) -> Iterator[None]:
    """State what an interrupt leaves behind, in place of the text for all commands.

    Args:
        words: What goes on, and how to come back to it.

    Raises:
        KeyboardInterrupt: There was one; it has these words.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {words}") from None


def refuse_beside(option: str, names: Iterable[str], remedy: str) -> None:
    """Refuse options that would have no effect beside `option`.

    Args:
        option: What they stand beside, as the error calls it.
        names: Parameters of the current command.
        remedy: How to fix it, for the error.

    Raises:
        ParameterError: One of them is on the command line.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise ParameterError(
                f"{parameter.opts[0]}: it would be of no account beside {option}",
                received=context.params[name],
                remedy=remedy,
            )
