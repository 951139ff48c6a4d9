"""`regrow corpus`: clean raw text, write text as a token store, or let a model write text."""

from pathlib import Path
from typing import Annotated

import typer

from regrow.cli.commands import Command, Json, Model, Workers, number
from regrow.cli.corpus_tables import print_built
from regrow.cli.output import print_tokenised, print_written
from regrow.cli.progress_bars import byte_progress, run_progress, token_progress
from regrow.common.errors import UserError
from regrow.common.quantities import count

corpus = typer.Typer(help="Prepare text for training.", no_args_is_help=True)


@corpus.command(cls=Command)
def build(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file: sources, steps, output.")
    ],
    tokenise: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Also write a token store, with this tokenizer."),
    ] = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Clean raw text into unique documents; stop it, start it again, it goes on."""
    from regrow import api

    with run_progress() as progress:
        result = api.build_corpus(
            config, tokenise=tokenise, workers=number("--workers", workers), progress=progress
        )
    print_built(result, as_json)


@corpus.command(cls=Command)
def tokenise(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new directory.")],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="More text, after --text.")
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE...", help="Text: .txt or .jsonl, also .gz or .zst; .parquet."),
    ] = None,
    workers: Workers = None,
    eos: Annotated[bool, typer.Option("--eos/--no-eos", help="End each document with eos.")] = True,
    special_tokens: Annotated[
        bool,
        typer.Option("--special-tokens", help="Names of special tokens in the text are tokens."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write text as a token store; stop it, start it again, it goes on."""
    from regrow import api

    with byte_progress("tokenising") as progress:
        result = api.tokenise(
            model, out, [*(text or []), *(more or [])], workers=number("--workers", workers),
            eos=eos, special_tokens=special_tokens, progress=progress,
        )  # fmt: skip
    print_tokenised(result, as_json)


corpus.command("tokenize", cls=Command, hidden=True)(tokenise)


@corpus.command(cls=Command)
def write(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new .jsonl file.")],
    tokens: Annotated[str, typer.Option(metavar="N", help="Tokens of text: 60_000, 2M.")],
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Questions or beginnings of texts: lines of .txt, or .jsonl. [default: the model "
            "writes them]",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the random numbers.")] = 0,
    temperature: Annotated[
        float, typer.Option(min=0.01, metavar="T", help="Divides the logits, of brief texts less.")
    ] = 1.0,
    batch_size: Annotated[
        str | None,
        typer.Option(metavar="N", help="Texts written at once. [default: what fits, up to 128]"),
    ] = None,
    languages: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Ask in these languages, and drop texts in others: en,zh. [default: keep all]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Let a model write text; stop it, start it again, it goes on."""
    from regrow import api

    with token_progress("writing") as progress:
        result = api.write_corpus(
            model, out, count("--tokens", tokens), prompts=prompts, seed=seed,
            temperature=temperature, batch_size=number("--batch-size", batch_size),
            languages=None if languages is None else _codes(languages),
            progress=progress,
        )  # fmt: skip
    print_written(result, as_json)


def _codes(languages: str) -> list[str]:
    codes = [code.strip() for code in languages.split(",") if code.strip()]
    if not codes:
        raise UserError("give codes such as en,zh", key="languages", value=languages)
    return codes
