"""`regrow instructions`: build instructions for fine-tuning, and check templates."""

from pathlib import Path
from typing import Annotated

import typer

from regrow.cli.commands import Command, Json, Sync
from regrow.cli.instruction_tables import print_built, print_linted
from regrow.cli.output import MESSAGES_ONLY
from regrow.common.publishing import durable

instructions = typer.Typer(help="Prepare instructions for fine-tuning.", no_args_is_help=True)


@instructions.command(cls=Command)
def build(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty directory.")],
    sync: Sync = True,
    as_json: Json = False,
) -> None:
    """Make instructions from many files: templates, examples, mixture, a data card."""
    from regrow import api

    with durable(sync):
        result = api.build_instructions(config, out, progress=MESSAGES_ONLY)
    print_built(result, as_json)


@instructions.command(cls=Command)
def lint(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file of templates.")],
    as_json: Json = False,
) -> None:
    """Check a file of templates; exit code 1 if something is wrong."""
    from regrow import api

    result = api.lint_templates(file)
    print_linted(result, as_json)
    if result.findings:
        raise typer.Exit(1)
