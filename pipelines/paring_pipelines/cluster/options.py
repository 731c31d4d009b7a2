"""The options that the cluster's commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from paring_pipelines.compiling import placement_options

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
        type=click.FloatRange(min=0, min_open=True),
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
    """Several options as one decorator, in their order."""

    def decorate(function: Any) -> Any:
        for option in reversed(chosen):
            function = option(function)
        return function

    return decorate
