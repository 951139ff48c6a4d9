"""`regrow plan`: propose a recipe under a budget, or show what a recipe will do."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from regrow.cli.commands import TEXT_FORMS, Json, SpecialTokens
from regrow.cli.output import MESSAGES_ONLY, print_plan, print_preview
from regrow.cli.progress_bars import run_progress
from regrow.common.errors import UserError
from regrow.common.outputs import check_new_file
from regrow.common.quantities import count, nbytes, parse_share, share

_CANDIDATES = "3"
"""The default; a recipe has no candidates, so that another number is refused there."""


def plan(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL|RECIPE", help="A model as for inspect, or a .yaml recipe."),
    ],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="More text, after --text.")
    ] = None,
    params: Annotated[
        str | None,
        typer.Option(metavar="N", help="Parameters that may remain: 3.4B, 67M, 50%."),
    ] = None,
    nbytes_: Annotated[
        str | None,
        typer.Option("--bytes", metavar="N", help="Bytes of weights that may remain: 1.2GB, 50%."),
    ] = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(metavar="N", help="Speed of generation that is wanted on this machine."),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE...",
            help=f"Measure what each axis costs on this text: {TEXT_FORMS}.",
        ),
    ] = None,
    calibration_tokens: Annotated[
        str | None,
        typer.Option(metavar="N", help="Tokens that measured cuts are chosen by. [default: 16384]"),
    ] = None,
    special_tokens: SpecialTokens = False,
    candidates: Annotated[
        str, typer.Option(metavar="N", help="Best predicted sizes that are measured.")
    ] = _CANDIDATES,
    seed: Annotated[int, typer.Option(min=0, help="Decides which text is used.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Write the recipe here instead of printing it.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page with the costs here.")] = None,
    as_json: Json = False,
) -> None:
    """Propose stages under a budget, as a recipe to edit; or show what a recipe will do."""
    from regrow import api

    texts = [*(text or []), *(more or [])]
    tried = count("--candidates", candidates, 1)
    budget: dict[str, Any] = {
        "params": None if params is None else _share_or("--params", params, count),
        "bytes": None if nbytes_ is None else _share_or("--bytes", nbytes_, nbytes),
        "tokens_per_second": tokens_per_second,
    }
    given = {name: value for name, value in budget.items() if value is not None}
    if model.endswith((".yaml", ".yml")):
        measured = calibration_tokens is not None or candidates != _CANDIDATES or seed
        if given or texts or out or page or special_tokens or measured:
            raise UserError(
                f"{model}: a recipe has its sizes; give nothing else, or a model and a budget"
            )
        print_preview(api.preview(model, progress=MESSAGES_ONLY), as_json)
        return
    if len(given) != 1:
        raise UserError("plan: give --params, --bytes or --tokens-per-second, one of the three")
    if more and not text:
        raise UserError(f"plan: {more[0]}: give text after --text")
    if out is not None:
        check_new_file(out, model)
    if calibration_tokens is not None:
        given["calibration_tokens"] = count("--calibration-tokens", calibration_tokens)
    how = {**given, "candidates": tried, "seed": seed, "special_tokens": special_tokens}
    with run_progress() if texts else nullcontext(MESSAGES_ONLY) as progress:
        result = api.plan(model, text=texts, page=page, progress=progress, **how)
    if out is not None:
        from regrow.common.files import write_atomically

        write_atomically(out, result.recipe.encode())
    print_plan(result, out, page, as_json)


def _share_or(option: str, text: str, parse: Callable[[str, str], int]) -> int | str:
    """A share such as 50% or 0.5, as it was typed, or another number."""
    if not text.rstrip().endswith("%") and (parse_share(text) or 1.0) == 1:
        return parse(option, text)
    share(option, text)
    return text
