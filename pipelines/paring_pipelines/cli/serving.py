"""Commands on pushed versions: `paring versions` and `paring rollback`."""

import json
import shlex
import sys
from dataclasses import asdict

import click

from paring.system.step_limits import LimitSettings
from paring_pipelines.cli.options import Command, step_limits

destination_argument = click.argument("destination", metavar="DESTINATION")


@click.command("versions", cls=Command)
@destination_argument
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def list_versions(destination: str, as_json: bool) -> None:
    """List the versions at a destination: a path, gs:// or s3://."""
    from paring.serving.versions import existing_versions, rolled_back
    from paring_pipelines.cli.console import make_console, show_versions

    known = existing_versions(destination)
    if as_json:
        click.echo(json.dumps([asdict(item) for item in known], indent=2))
    else:
        show_versions(make_console(), known, rolled_back(known))


@click.command(cls=Command)
@destination_argument
@click.option(
    "--to",
    type=int,
    metavar="VERSION",
    help="The version to go back to; the one before, if not given.",
)
@step_limits
@click.option(
    "--signature",
    default="",
    metavar="NAME",
    help="The signature that is run once; that of the version's record if not given.",
)
@click.option(
    "--trust-model", is_flag=True, help="Let operators that touch files or processes run."
)
def rollback(
    destination: str,
    to: int | None,
    signature: str,
    trust_model: bool,
    step_time_limit: str | None,
    step_memory_limit: str | None,
) -> None:
    """Serve an older version again: its bytes become the newest version.

    Nothing is removed. What was rolled back is not pushed again, unless it is brought
    back with --to.
    """
    from paring.adapters.step_processes import limited_calls
    from paring.serving.versions import roll_back, versions

    limits = LimitSettings.parse(step_time_limit, step_memory_limit)
    before = {version.number for version in versions(destination)}
    command = f"paring {shlex.join(sys.argv[1:])}"
    with limited_calls(limits) as call:
        made = roll_back(
            destination, to, command, signature=signature, trusted=trust_model, call=call
        )
    if made.number in before:
        click.echo(f"{destination}/{made.number} is the newest version, and holds these bytes")
    else:
        click.echo(
            f"{destination}/{made.number} is the newest version now, of the bytes of {made.of}"
        )
