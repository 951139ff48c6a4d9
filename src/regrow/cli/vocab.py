"""`regrow vocab`: count tokens, plan a vocabulary, prune to it, or add tokens."""

from pathlib import Path
from typing import Annotated, Any

import typer

from regrow.cli.commands import Command, Json, Model, Workers, command, number
from regrow.cli.output import MESSAGES_ONLY, print_pruned
from regrow.cli.progress_bars import byte_progress
from regrow.cli.vocabulary_tables import print_counted, print_grown, print_vocabulary_plan
from regrow.common.errors import UserError
from regrow.common.quantities import count as count_of
from regrow.common.quantities import share

vocab = typer.Typer(
    help="Count what a corpus needs of a vocabulary, and prune to that.", no_args_is_help=True
)

Size = Annotated[str | None, typer.Option(metavar="N", help="Tokens that remain.")]
Coverage = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="As many as this share of the corpus needs: 99.9%."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A language, source or script whose text decides."),
]
Minimum = Annotated[
    str | None, typer.Option(metavar="N", help="Of each language its N most frequent stay.")
]
Keep = Annotated[Path | None, typer.Option(help="A file of tokens that stay, one a line.")]
Drop = Annotated[Path | None, typer.Option(help="A file of tokens that go, one a line.")]
Characters = Annotated[
    bool,
    typer.Option(
        "--characters/--no-characters",
        help="Keep every character that no bytes stand in for; else text can become unknown.",
    ),
]
PadTo = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Pad the embedding to a multiple of this; the ids without a token are suppressed in "
        "generation_config.json.",
    ),
]


@vocab.command(cls=Command)
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
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Count the tokens of a corpus; stop it, start it again, it goes on."""
    from regrow import api

    with byte_progress("counting") as progress:
        result = api.count_vocabulary(
            model, out, [*(corpus or []), *(more or [])], merge=merge or [],
            workers=number("--workers", workers), progress=progress,
        )  # fmt: skip
    print_counted(result, as_json)


@vocab.command(cls=Command)
def plan(
    model: Model,
    counts: Annotated[Path, typer.Argument(metavar="COUNTS", help="What count wrote.")],
    size: Size = None,
    coverage: Coverage = None,
    only: Only = None,
    minimum: Minimum = None,
    keep: Keep = None,
    drop: Drop = None,
    characters: Characters = True,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Measure tokens per character on this text. [default: some of what was counted]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the plan here, each token with its reason.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page with the curve here.")] = None,
    as_json: Json = False,
) -> None:
    """Show how much of a corpus each size covers and what it saves, and suggest one."""
    from regrow import api

    result = api.plan_vocabulary(
        model, counts, text=text, out=out, page=page, progress=MESSAGES_ONLY,
        **_choice(size, coverage, only, minimum, keep, drop, characters),
    )  # fmt: skip
    print_vocabulary_plan(result, [path for path in (out, page) if path is not None], as_json)


_CHOICE = ("plan", "counts", "size", "coverage", "only", "minimum", "keep", "drop", "characters")


@vocab.command(
    cls=command({f"vocab.{name}": f"--{name}" for name in _CHOICE} | {"vocab.pad_to": "--pad-to"})
)
def prune(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty directory.")],
    plan: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What plan --out wrote.")
    ] = None,
    counts: Annotated[Path | None, typer.Option(metavar="COUNTS", help="What count wrote.")] = None,
    size: Size = None,
    coverage: Coverage = None,
    only: Only = None,
    minimum: Minimum = None,
    keep: Keep = None,
    drop: Drop = None,
    characters: Characters = True,
    pad_to: PadTo = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Prune a model's vocabulary; with other cuts in one pass: regrow prune --vocab-plan."""
    from regrow import api

    chosen = _choice(size, coverage, only, minimum, keep, drop, characters)
    files = {name: path for name, path in (("plan", plan), ("counts", counts)) if path}
    if pad_to is not None:
        chosen["pad_to"] = count_of("--pad-to", pad_to)
    if not files:
        raise UserError("vocab prune: give --plan, or --counts with --size or --coverage")
    with byte_progress("carving") as progress:
        result = api.prune(
            model, out, vocab={**files, **chosen}, dry_run=dry_run, progress=progress
        )
    print_pruned(result, dry_run, as_json)


@vocab.command(cls=command({"max_tokens": "--tokens", "min_count": "--least"}))
def grow(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty directory.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="More text, after --corpus.")
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]FILE...", help="Text of the domain, as for count."),
    ] = None,
    tokens: Annotated[
        str, typer.Option(metavar="N", help="Tokens that are added, at most.")
    ] = "1000",
    least: Annotated[
        str, typer.Option(metavar="N", help="How often a token must occur in the text.")
    ] = "20",
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Measure tokens per character on this text. [default: some of the corpus]",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Add the words of a domain, merged from the tokens there are, with the mean of their rows."""
    from regrow import api

    result = api.grow_vocabulary(
        model, out, [*(corpus or []), *(more or [])], text=text, dry_run=dry_run,
        progress=MESSAGES_ONLY, max_tokens=count_of("--tokens", tokens),
        min_count=count_of("--least", least, 2),
    )  # fmt: skip
    print_grown(result, as_json)


def _choice(
    size: str | None,
    coverage: str | None,
    only: list[str] | None,
    minimum: str | None,
    keep: Path | None,
    drop: Path | None,
    characters: bool,
) -> dict[str, Any]:
    """The options that were given, by their keys in a recipe."""
    options = {
        "size": number("--size", size, 0),
        "coverage": None if coverage is None else share("--coverage", coverage),
        "only": only or None,
        "minimum": number("--minimum", minimum, 0),
        "keep": keep,
        "drop": drop,
        "characters": None if characters else False,
    }
    return {name: value for name, value in options.items() if value is not None}
