"""`regrow analyse`: what each part of a model is worth, before anything is cut."""

from pathlib import Path
from typing import Annotated, Any

import typer

from regrow.cli.commands import TEXT_FORMS, Json, Model, SpecialTokens
from regrow.cli.output import print_analysis
from regrow.cli.progress_bars import run_progress
from regrow.common.errors import UserError
from regrow.common.quantities import count


def analyse(
    model: Model,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="More text, after --text.")
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE...", help=f"Measure on this text: {TEXT_FORMS}."),
    ] = None,
    special_tokens: SpecialTokens = False,
    points: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Cuts of each line. [default: 4; large models 3]"),
    ] = None,
    calibration_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Tokens that cuts are chosen by. [default: 4096; large models fewer]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides which text is used.")] = 0,
    page: Annotated[Path | None, typer.Option(help="Write a page with charts here.")] = None,
    as_json: Json = False,
) -> None:
    """Show what each part of a model is worth; stop it, start it again, it goes on."""
    from regrow import api

    if not text:
        raise UserError("analyse: give --text, the losses are measured on it")
    how: dict[str, Any] = {"points": points, "seed": seed, "special_tokens": special_tokens}
    if calibration_tokens is not None:
        how["calibration_tokens"] = count("--calibration-tokens", calibration_tokens)
    with run_progress() as progress:
        result = api.analyse(
            model, text=[*text, *(more or [])], page=page, progress=progress, **how
        )
    print_analysis(result, page, as_json)
