"""`regrow vocab`: count tokens, plan a vocabulary, prune to it."""

from pathlib import Path
from typing import Annotated

import typer

from regrow.bars import copying
from regrow.printing import print_counted, say

vocab = typer.Typer(
    help="Count what a corpus needs of a vocabulary, and prune to that.", no_args_is_help=True
)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A directory, a GGUF file, or a hub id.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@vocab.command()
def count(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="More text, after --corpus.")
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE...",
            help="Text: .txt or .jsonl, also .gz or .zst; .parquet; or a directory of such. NAME: "
            "the language or source, counted apart.",
        ),
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(metavar="COUNTS", help="Add counts of other parts of a corpus."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Processes. [default: one for each core]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count the tokens of a corpus; stop it, start it again, it goes on."""
    from regrow import api

    with copying("counting") as progress:
        result = api.count_vocabulary(
            model, out, [*(corpus or []), *(more or [])], merge=merge or [], workers=workers,
            say=say, progress=progress,
        )  # fmt: skip
    print_counted(result, as_json)
