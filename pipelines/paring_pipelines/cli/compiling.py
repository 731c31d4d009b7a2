"""Compilation for Kubeflow: the commands `compile` and `components`, and packages to submit."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from paring import __version__
from paring.errors import ParameterError
from paring.storage import local_path
from paring_pipelines.advice.advice import AUTO
from paring_pipelines.cli.options import Command, after_selection, pipeline_options, read_settings
from paring_pipelines.kubeflow.formats import check_image, check_namespace
from paring_pipelines.pipeline.optimize import build
from paring_pipelines.pipeline.recipes import DEFAULT_FILE, load_recipes

IMAGE = f"paring:{__version__}"
"""The image of steps that nothing else names one for."""

placement_options = (
    click.option(
        "--image",
        metavar="REFERENCE",
        help="The container image of every step, in place of those that --runtime names; pin it"
        f" by digest.  [default without --runtime: {IMAGE}]",
    ),
    click.option(
        "--runtime",
        "runtimes",
        type=local_path,
        multiple=True,
        metavar="FILE",
        help="Where each step runs, such as k8s/runtime.toml; of several, later ones go over"
        " earlier ones.",
    ),
    click.option(
        "--display-names/--no-display-names",
        default=True,
        show_default=True,
        help="Give tasks names for people, which Kubeflow Pipelines before 2.6 can't run.",
    ),
)


def placing(function: Any) -> Any:
    """Return the options that say where the steps run, for every command that compiles."""
    for option in reversed(placement_options):
        function = option(function)
    return function


def recipes_file(recipes: Path | None) -> Path:
    """Return the file of recipes, for the commands that choose none by a model.

    Raises:
        ParameterError: They are to be chosen by a model.
    """
    if recipes == AUTO:
        raise ParameterError(
            "--recipes: auto chooses by the model, which this command does not choose for",
            received=recipes,
            remedy="use it with `paring run`; `paring advise` says what it would choose",
        )
    return recipes or DEFAULT_FILE


def compile_pipeline(given: Mapping[str, Any], out: Path, *, namespace: str = "") -> str:
    """Compile the pipeline that the options describe.

    Args:
        given: The values of `pipeline_options` and `placing` by name.
        out: The file.
        namespace: See `paring_pipelines.kubeflow.compile.compile_dag`.

    Returns:
        How many tasks it has, on which images.

    Raises:
        ParameterError: An option or a file can't be taken.
        OutputError: The file can't be written.
    """
    target, runtimes, image = given["target"], given["runtimes"], given["image"]
    if image is not None:
        check_image("--image", image)
    if namespace:
        check_namespace("--resources", namespace)
    settings = read_settings(given)
    recipes = load_recipes(recipes_file(given["recipes"]), target)
    dag = build(recipes, settings)
    # Imported late: the one reads files with pydantic, the other brings kfp's compiler,
    # and both take time to load.
    from paring_pipelines.kubeflow.placement_rules import place

    placements = place(dag, runtimes, target=target, image=image)
    from paring_pipelines.kubeflow.compile import compile_dag

    compile_dag(
        dag,
        out,
        image=image or IMAGE,
        placements=placements,
        namespace=namespace,
        display_names=given["display_names"],
    )
    used = sorted({placement.image or IMAGE for placement in placements.values()})
    return f"{len(dag.nodes)} tasks on {', '.join(used)}"


@click.command("compile", cls=Command)
@click.option(
    "--out",
    type=local_path,
    required=True,
    metavar="FILE",
    help="The package to write, pipeline.yaml for example.",
)
@click.option(
    "--resources",
    "namespace",
    default="",
    metavar="NAMESPACE",
    help="Write Kubeflow's resources Pipeline and PipelineVersion for that namespace instead"
    " of a package.",
)
@placing
@after_selection
@pipeline_options
def compile_package(out: Path, namespace: str, **given: Any) -> None:
    """Compile the pipeline to a Kubeflow Pipelines package."""
    click.echo(f"{out}: {compile_pipeline(given, out, namespace=namespace)}")


@click.command(cls=Command)
@click.option(
    "--out",
    type=local_path,
    required=True,
    metavar="DIR",
    help="Gets NAME.yaml for each step.",
)
@click.option(
    "--image",
    default=IMAGE,
    show_default=True,
    help="The container image that the files name; pin it by digest.",
)
def components(out: Path, image: str) -> None:
    """Write the steps as component files, for pipelines of your own."""
    from paring_pipelines.kubeflow.compile import write_components

    check_image("--image", image)
    files: Sequence[Path] = write_components(out, image=image)
    click.echo(f"{out}: {', '.join(file.name for file in files)}")
