"""`regrow ner`: train a model to tag named entities, and score its answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from regrow.cli.commands import Command, Json, Model, Sync, command, number
from regrow.cli.ner_tables import print_tagged, print_tagger
from regrow.cli.progress_bars import is_first_process, run_progress, sentence_progress
from regrow.cli.train import named_settings
from regrow.common.errors import UserError
from regrow.common.publishing import durable

ner = typer.Typer(help="Tag named entities.", no_args_is_help=True)

_FORMS = "Tokens and tags in columns, or .json, .jsonl; also NAME=FILE."
More = Annotated[
    list[str] | None, typer.Argument(metavar="FILE", help="More files, after the option.")
]
Without = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Types that are left out; '' for none. [default: misc]"),
]
Limit = Annotated[
    str | None, typer.Option(metavar="N", help="Sentences of each file. [default: all]")
]
RowLength = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Tokens of a prompt and its answer. [default: 1024, or the model's most]",
    ),
]


@ner.command(cls=command({"settings.row_length": "--row-length"}))
def train(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty directory.")],
    more: More = None,
    data: Annotated[
        list[str] | None, typer.Option("--train", metavar="FILE...", help=_FORMS)
    ] = None,
    heldout: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Sentences to measure the loss on; may be repeated."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="How often each sentence is used.")] = 3,
    most_types: Annotated[
        int, typer.Option(min=1, metavar="N", help="Types in a prompt, with those not found.")
    ] = 20,
    without: Without = None,
    limit: Limit = None,
    row_length: RowLength = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A key of `recover` in docs/recipe.md; may be repeated.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides types and data order.")] = 0,
    sync: Sync = True,
    as_json: Json = False,
) -> None:
    """Train a model on annotated sentences; stop it, start it again, it goes on."""
    from regrow import api

    files = [*(data or []), *(more or [])]
    if not files:
        raise UserError("--train: give at least one file")
    given = named_settings(settings or [])
    if row_length is not None:
        given["row_length"] = number("--row-length", row_length)
    with durable(sync), run_progress() as progress:
        result = api.train_entities(
            model, out, files, heldout=heldout or [], without=_types(without), settings=given,
            progress=progress, epochs=epochs, most_types=most_types,
            limit=number("--limit", limit), seed=seed,
        )  # fmt: skip
    if is_first_process():
        print_tagger(result, as_json)


@ner.command("eval", cls=Command)
def evaluate(
    model: Model,
    more: More = None,
    data: Annotated[list[str] | None, typer.Option(metavar="FILE...", help=_FORMS)] = None,
    constrained: Annotated[
        bool,
        typer.Option("--constrained", help="Give the words, and let the model choose tags alone."),
    ] = False,
    without: Without = None,
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sentences at once.")] = 16,
    row_length: RowLength = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the order of types.")] = 0,
    as_json: Json = False,
) -> None:
    """Let a model tag annotated sentences, and score its answers."""
    from regrow import api

    files = [*(data or []), *(more or [])]
    if not files:
        raise UserError("--data: give at least one file")
    how: dict[str, Any] = {}
    if row_length is not None:
        how["row_length"] = number("--row-length", row_length)
    with sentence_progress("tagging") as progress:
        result = api.evaluate_entities(
            model, files, without=_types(without), progress=progress, constrained=constrained,
            limit=number("--limit", limit), batch_size=batch_size, seed=seed, **how,
        )  # fmt: skip
    print_tagged(result, as_json)


def _types(without: str | None) -> Sequence[str]:
    from regrow.api.entities import WITHOUT

    if without is None:
        return WITHOUT
    return [name.strip() for name in without.split(",") if name.strip()]
