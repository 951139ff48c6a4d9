"""The command line: parse, call, print. Heavy imports stay inside the commands."""

import errno
import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from regrow.errors import UserError

if TYPE_CHECKING:
    from regrow.inspection import Inspection
    from regrow.planning import Plan
    from regrow.pruning import Pruned


class _Commands(TyperGroup):
    """Commands whose errors are one line."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _refuse(str(error))
        except KeyboardInterrupt:
            _refuse("stopped", code=130)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            # A disk or a network that fails is no bug either; transformers wraps in OSError too.
            where = f"{error.filename}: " if error.filename else ""
            _refuse(where + " ".join((error.strerror or str(error)).split()))


def _refuse(message: str, code: int = 2) -> NoReturn:
    _err.print(f"regrow: {message}", markup=False, soft_wrap=True)
    raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    help="Prune a language model in stages, and regrow what each cut costs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A directory, a GGUF file, or a hub id.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Sizes = list[str] | None
_TOLD_EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""
_QUIET = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def _size_option(what: str) -> Any:
    return typer.Option(metavar="[STACK=]N", help=f"{what} that remain.")


def main() -> None:
    """Run the command line; what a user can cause becomes one line and exit code 2."""
    # The libraries' own bars and advice would break into ours.
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    app()


@app.command()
def inspect(model: Model, as_json: Json = False) -> None:
    """Show a model's axes and parameters, and what can be cut."""
    from regrow import api

    result = api.inspect(model, say=_say)
    if as_json:
        _print_json(result)
    else:
        _print_inspection(result)


@app.command()
def plan(
    model: Model,
    params: Annotated[
        str | None, typer.Option(metavar="N", help="Parameters that may remain: 3.4B, 67M.")
    ] = None,
    keep: Annotated[
        float | None, typer.Option(metavar="R", help="Share of the parameters that remains.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the recipe here instead of printing it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Propose stages under a budget, as a recipe to read and edit."""
    from regrow import api

    budget = None if params is None else _count("--params", params)
    if out is not None and out.exists():
        raise UserError(f"{out}: exists; choose another file")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such directory")
    result = api.plan(model, params=budget, keep=keep, say=_say)
    if out is not None:
        from regrow.files import write_atomically

        write_atomically(out, result.recipe.encode())
    if as_json:
        _print_json(result)
    else:
        _print_plan(result, out)


@app.command()
def prune(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new or empty directory.")],
    layers: Annotated[Sizes, _size_option("Layers")] = None,
    drop_layers: Annotated[
        Sizes,
        typer.Option(metavar="[STACK=]A-B,C", help="Layers to drop, by number from 0."),
    ] = None,
    hidden: Annotated[Sizes, _size_option("Channels of the residual stream")] = None,
    ffn: Annotated[Sizes, _size_option("Neurons of each feed-forward")] = None,
    heads: Annotated[Sizes, _size_option("Attention heads")] = None,
    kv_heads: Annotated[Sizes, _size_option("Key-value heads")] = None,
    vocab_size: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens that remain, by count.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="random, activation or influence. Default: influence for layers, "
            "activation for the rest.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Text for scores and token counts: .txt, .jsonl, .jsonl.gz."),
    ] = None,
    cut: Annotated[Path | None, typer.Option(help="A cut file, in place of sizes.")] = None,
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest weight file: 5GB, 500MB.")
    ] = "5GB",
    seed: Annotated[int, typer.Option(min=0, help="Decides random scores.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Cut a model and write a plain Hugging Face directory."""
    from regrow import api

    options: dict[str, Any] = {
        "layers": _by_stack("--layers", layers),
        "hidden": _by_stack("--hidden", hidden),
        "ffn": _by_stack("--ffn", ffn),
        "heads": _by_stack("--heads", heads),
        "kv_heads": _by_stack("--kv-heads", kv_heads),
        "drop_layers": _texts_by_stack("--drop-layers", drop_layers),
        "vocab_size": None if vocab_size is None else _count("--vocab-size", vocab_size),
        "by": by,
        "cut": cut,
    }
    given = {name: value for name, value in options.items() if value is not None}
    with _bar("carving") as progress:
        result = api.prune(
            model, out, calibration=calibration, seed=seed,
            max_shard_bytes=_bytes("--max-shard-size", max_shard_size),
            dry_run=dry_run, say=_say, progress=progress, **given,
        )  # fmt: skip
    if as_json:
        _print_json({**_fields(result), "cut": result.cut.to_json(), "words": result.cut.words()})
    else:
        _print_pruned(result, dry_run)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run. [default: runs/NAME]")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Also train the original on the same tokens.")
    ] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Do again what a changed recipe invalidates.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run all stages of a recipe; safe to stop and to start again."""
    from regrow import api
    from regrow.recipe import load_recipe

    directory = out or Path("runs") / load_recipe(recipe).name
    with _watching() as (say, watch):
        result = api.run(recipe, directory, control=control, redo=redo, say=say, watch=watch)
    from regrow.report.terminal import print_table
    from regrow.summary import summarise

    summary = summarise(result.directory)
    if as_json:
        typer.echo(summary.model_dump_json(indent=1))
        return
    print_table(summary, _out, result.report)
    _out.print(f"model   {result.model}", markup=False, soft_wrap=True)


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A model directory.")],
    as_json: Json = False,
) -> None:
    """Reload a model in a clean process without regrow, and check it."""
    from regrow import api

    result = api.verify(directory)
    if as_json:
        _print_json({**_fields(result), "ok": result.ok})
    else:
        for check in result.checks:
            mark = "ok  " if check.ok else "FAIL"
            detail = f": {check.detail}" if check.detail else ""
            _out.print(f"{mark} {check.name}{detail}", markup=False, soft_wrap=True)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a run.")],
) -> None:
    """Write the report page of a run again, from its ledger."""
    from regrow import api
    from regrow.report.terminal import print_table
    from regrow.summary import summarise

    page = api.write_report(directory)
    print_table(summarise(directory), _out, page)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT")],
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
) -> None:
    """Let a model answer a prompt."""
    from regrow import api

    typer.echo(api.generate(model, prompt, max_new_tokens=max_new_tokens, say=_say))


# Reading what was typed

_NUMBER = re.compile(
    r"((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+(?:_[0-9]+)*)(?:\.[0-9]+)?)\s*([kKmMbBtT]?)", re.ASCII
)
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT]?)[bB]?")
_SCALE = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}


def _count(option: str, text: str) -> int:
    hit = _NUMBER.fullmatch(text.strip())
    if hit is None:
        raise UserError(f"{option} {text}: not a number such as 65,400,000, 67M or 3.4B")
    count = Decimal(hit[1].replace(",", "").replace("_", "")) * _SCALE[hit[2].upper()]
    if count != int(count):
        raise UserError(f"{option} {text}: not a whole number")
    return int(count)


def _bytes(option: str, text: str) -> int:
    hit = _SIZE.fullmatch(text.strip())
    if hit is None or (size := int(float(hit[1]) * _SCALE[hit[2].upper()])) < 1:
        raise UserError(f"{option} {text}: not a size such as 5GB or 500MB")
    return size


def _texts_by_stack(option: str, texts: Sizes) -> str | dict[str, str] | None:
    if not texts:
        return None
    named: dict[str, str] = {}
    plain = []
    for text in texts:
        stack, equals, value = text.partition("=")
        if equals:
            named[stack.strip()] = value.strip()
        else:
            plain.append(text.strip())
    if (named and plain) or len(plain) > 1 or len(named) + len(plain) < len(texts):
        raise UserError(f"{option} {' '.join(texts)}: give one number, or one by stack (STACK=N)")
    return named or plain[0]


def _by_stack(option: str, texts: Sizes) -> int | dict[str, int] | None:
    found = _texts_by_stack(option, texts)
    if found is None:
        return None
    if isinstance(found, str):
        return _count(option, found)
    return {stack: _count(option, value) for stack, value in found.items()}


# Printing


def _say(text: str) -> None:
    _err.print(text, markup=False, soft_wrap=True, style="dim")


def _fields(result: Any) -> dict[str, Any]:
    return {name: getattr(result, name) for name in result.__dataclass_fields__}


def _print_json(value: Any) -> None:
    def plain(item: Any) -> Any:
        if hasattr(item, "__dataclass_fields__"):
            return _fields(item)
        return dict(item) if isinstance(item, Mapping) else str(item)

    typer.echo(json.dumps(value, default=plain, indent=1))


def _table(*columns: tuple[str, str]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0),
        collapse_padding=True,
    )  # fmt: skip
    for number, (name, justify) in enumerate(columns):
        table.add_column(name, justify=justify, no_wrap=number == 0)  # type: ignore[arg-type]
    return table


def _print_inspection(found: "Inspection") -> None:
    head = "tied to the embedding" if found.tied else "of its own"
    types = ", ".join(f"{name} {_gigabytes(size)}" for name, size in found.dtypes.items())
    _out.print(f"{found.model_type}, {found.parameters:,} parameters, weights {types}")
    _out.print(
        f"output head {head}; fixed: " + ", ".join(f"{n} {s}" for n, s in found.fixed.items())
    )
    training = _gigabytes(found.parameters * 16)
    _out.print(f"memory: {_gigabytes(found.weight_bytes)} to run, {training} to train with AdamW\n")
    table = _table(("part", "left"), ("parameters", "right"), ("share", "right"))
    for part, count in found.parts.items():
        table.add_row(part, f"{count:,}", f"{count / found.parameters:.1%}")
    _out.print(table)
    _out.print()
    table = _table(
        ("axis", "left"), ("size", "right"), ("choice", "left"), ("parameters", "right"),
        ("each", "right"), ("what can remain", "left"),
    )  # fmt: skip
    for axis in found.axes:
        table.add_row(
            axis.name, f"{axis.size:,}", axis.scope, f"{axis.parameters:,}",
            f"{axis.parameters_per_index:,}", axis.sizes,
        )  # fmt: skip
    _out.print(table)
    for name in found.ignored:
        _out.print(f"{name}: ignored by the class, dropped by a cut", markup=False)


def _print_plan(found: "Plan", out: Path | None) -> None:
    table = _table(
        ("stage", "left"), ("what remains", "left"), ("parameters", "right"), ("", "right")
    )
    table.add_row("original", "", f"{found.parameters_before:,}", "")
    for stage in found.stages:
        sizes = ", ".join(f"{name} {size:,}" for name, size in stage.sizes.items())
        share = stage.parameters / found.parameters_before
        table.add_row(stage.name, sizes, f"{stage.parameters:,}", f"{share:.0%}")
    _err.print(table)
    for note in found.notes:
        _say(note)
    if out is None:
        typer.echo(found.recipe, nl=False)
    else:
        _out.print(f"recipe  {out}", markup=False, soft_wrap=True)


def _print_pruned(result: "Pruned", dry_run: bool) -> None:
    table = _table(("part", "left"), ("before", "right"), ("after", "right"), ("kept", "right"))
    rows = [*result.parts_before.items(), ("all", result.parameters_before)]
    after = {**result.parts, "all": result.parameters}
    for part, count in rows:
        table.add_row(part, f"{count:,}", f"{after[part]:,}", f"{after[part] / count:.1%}")
    _out.print(result.cut.words(), markup=False)
    _out.print(table)
    for note in result.notes:
        _out.print(note, markup=False)
    size = _gigabytes(result.nbytes)
    if dry_run:
        _out.print(
            f"nothing written; {size} would be in {result.out}", markup=False, soft_wrap=True
        )
    else:
        _out.print(
            f"{size} in {result.out}, carved in {result.seconds:.1f} s",
            markup=False,
            soft_wrap=True,
        )


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


@contextmanager
def _bar(what: str) -> Iterator[Any]:
    """A progress bar for bytes, shown once there is something to show."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(), console=_err, transient=True, disable=not _err.is_terminal,
    )  # fmt: skip
    task = None

    def progress(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task(what, total=total)
        bar.update(task, completed=done)

    try:
        yield progress
    finally:
        bar.stop()


@contextmanager
def _watching() -> Iterator[Any]:
    """One line that says where a run is and how long it still takes; results above it."""
    from rich.progress import BarColumn, Progress, TextColumn

    bar = Progress(
        TextColumn("{task.fields[stage]}"), BarColumn(bar_width=16),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[left]}  {task.description}"),
        console=_err, transient=True, disable=not _err.is_terminal,
    )  # fmt: skip
    task = bar.add_task("starting", total=1.0, stage="", left="")

    told = time.monotonic()

    def watch(update: Any) -> None:
        nonlocal told
        doing = update.doing
        if update.loss is not None:
            doing += f", loss {update.loss:.3f}"
        if update.tokens_per_second is not None:
            doing += f", {update.tokens_per_second:,.0f} tokens/s"
        bar.update(
            task, completed=update.share, description=doing, stage=update.stage,
            left=f"{_duration(update.seconds_left)} left",
        )  # fmt: skip
        # A log file has no bar, so it gets a line now and then.
        if not _err.is_terminal and time.monotonic() - told >= _TOLD_EVERY:
            told = time.monotonic()
            left = _duration(update.seconds_left)
            _err.print(f"{update.stage}: {update.share:.0%}, {left} left, {doing}", markup=False)

    def say(text: str) -> None:
        bar.console.print(text, markup=False, soft_wrap=True)

    with bar:
        yield say, watch


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
