"""The command line: parse options, call `regrow.api`, print.

Heavy imports stay inside the commands, so that `--help` is fast.
"""

import importlib.metadata
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from regrow.cli.analyse import analyse
from regrow.cli.commands import (
    TEXT_FORMS,
    Command,
    Commands,
    Json,
    Model,
    SpecialTokens,
    Sync,
    command,
    number,
)
from regrow.cli.corpus import corpus
from regrow.cli.evaluate import compare, evaluate
from regrow.cli.instructions import instructions
from regrow.cli.ner import ner
from regrow.cli.output import (
    MESSAGES_ONLY,
    echo,
    print_checks,
    print_inspection,
    print_message,
    print_preview,
    print_pruned,
    print_report,
    print_run,
    print_scored,
)
from regrow.cli.plan import plan
from regrow.cli.progress_bars import (
    byte_progress,
    is_first_process,
    run_progress,
)
from regrow.cli.train import train
from regrow.cli.vocab import PadTo, vocab
from regrow.common.errors import UserError
from regrow.common.publishing import durable
from regrow.common.quantities import count, nbytes

app = typer.Typer(
    cls=Commands,
    help="Prune a language model in stages, and regrow what each cut costs.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Sizes = list[str] | None
"""What was typed for an option that takes one value, or one by stack."""
_QUIET_LIBRARIES = {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def _size_option(what: str) -> Any:
    """An option for the number of `what` that remain."""
    return typer.Option(metavar="[STACK=]N", help=f"{what} that remain.")


def _print_version(wanted: bool) -> None:
    if wanted:
        echo(f"regrow {importlib.metadata.version('regrow')}")
        raise typer.Exit


def main() -> None:
    """Run the command line. A mistake of the user becomes one line and exit code 2."""
    # Progress bars and warnings of the libraries would mix with our output.
    for name, value in _QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    for stream in (sys.stdout, sys.stderr):
        # An encoding without all characters (LC_ALL=C) must not end a command that did its work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="regrow")


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Options of regrow itself."""


@app.command(cls=Command)
def inspect(model: Model, as_json: Json = False) -> None:
    """Show a model's axes and parameters, and what can be cut."""
    from regrow import api

    result = api.inspect(model, progress=MESSAGES_ONLY)
    print_inspection(result, as_json)


app.command(cls=Command)(analyse)
app.command(cls=command({"bytes": "--bytes"}))(plan)


@app.command(
    cls=command(
        {"vocab.size": "--vocab-size", "vocab.plan": "--vocab-plan", "vocab.pad_to": "--pad-to"}
    )
)
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
    experts: Annotated[Sizes, _size_option("Experts of each layer")] = None,
    vocab_size: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens that remain, by count.")
    ] = None,
    vocab_plan: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Tokens that remain, as vocab plan --out wrote them."),
    ] = None,
    pad_to: PadTo = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="Name of a score, such as random; a wrong name lists all. Default: influence "
            "for layers, activation for the rest.",
        ),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Scores that regrow score wrote, in place of --by."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help=f"Text for scores and token counts: {TEXT_FORMS}."),
    ] = None,
    calibration_tokens: Annotated[
        str | None,
        typer.Option(metavar="N", help="Tokens of the text for a refit. [default: 16384]"),
    ] = None,
    special_tokens: SpecialTokens = False,
    refit: Annotated[
        bool | None,
        typer.Option(
            "--refit/--no-refit",
            help="Solve again for the output projections. Default: if there is text.",
        ),
    ] = None,
    refit_passes: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Passes in which a refit trains each layer alone. [default: 0]"
        ),
    ] = None,
    rotate: Annotated[
        bool | None,
        typer.Option(
            "--rotate/--no-rotate",
            help="Keep principal directions in place of channels of --hidden. Default: if there "
            "is text, the head is not tied, and neither --by nor --scores is given.",
        ),
    ] = None,
    cut: Annotated[Path | None, typer.Option(help="A cut file, in place of sizes.")] = None,
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest weight file: 5GB, 500MB.")
    ] = "5GB",
    seed: Annotated[int, typer.Option(min=0, help="Decides random scores.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all, write nothing.")] = False,
    sync: Sync = True,
    as_json: Json = False,
) -> None:
    """Cut a model and write a plain Hugging Face directory."""
    from regrow import api

    options: dict[str, Any] = {
        "layers": _sizes_by_stack("--layers", layers),
        "hidden": _sizes_by_stack("--hidden", hidden),
        "ffn": _sizes_by_stack("--ffn", ffn),
        "heads": _sizes_by_stack("--heads", heads),
        "kv_heads": _sizes_by_stack("--kv-heads", kv_heads),
        "experts": _sizes_by_stack("--experts", experts),
        "drop_layers": _texts_by_stack("--drop-layers", drop_layers),
        **_vocabulary(vocab_size, vocab_plan, pad_to),
        "by": by,
        "scores": scores,
        "refit": refit,
        "refit_passes": refit_passes,
        "rotate": rotate,
        "cut": cut,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if calibration_tokens is not None:
        given["calibration_tokens"] = count("--calibration-tokens", calibration_tokens)
    if not given.keys() - {"by", "scores", "refit", "refit_passes", "rotate", "calibration_tokens"}:
        raise UserError(
            "prune: nothing to cut; give --layers, --drop-layers, --hidden, --ffn, --heads, "
            "--kv-heads, --experts, --vocab-size, --vocab-plan or --cut"
        )
    with durable(sync), byte_progress("carving") as progress:
        result = api.prune(
            model, out, calibration=calibration, special_tokens=special_tokens, seed=seed,
            max_shard_bytes=nbytes("--max-shard-size", max_shard_size),
            dry_run=dry_run, progress=progress, **given,
        )  # fmt: skip
    print_pruned(result, dry_run, as_json)


@app.command(cls=Command)
def score(
    model: Model,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new file.")],
    by: Annotated[
        str | None,
        typer.Option(metavar="SCORE", help="Name of a score; a wrong name lists all."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help=f"Text for scores: {TEXT_FORMS}.")
    ] = None,
    calibration_tokens: Annotated[
        str | None, typer.Option(metavar="N", help="Tokens of the text. [default: 16384]")
    ] = None,
    special_tokens: SpecialTokens = False,
    axes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Axes as inspect names them. [default: all that are scored]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides random scores.")] = 0,
    as_json: Json = False,
) -> None:
    """Save scores, from which prune --scores cuts without text."""
    from regrow import api

    options: dict[str, Any] = {"by": by}
    if axes is not None:
        options["axes"] = [name.strip() for name in axes.split(",")]
    if calibration_tokens is not None:
        options["calibration_tokens"] = count("--calibration-tokens", calibration_tokens)
    result = api.score(
        model, out, calibration=calibration, special_tokens=special_tokens, seed=seed,
        progress=MESSAGES_ONLY, **options,
    )  # fmt: skip
    print_scored(result, out, as_json)


@app.command(cls=command({"compare.control": "--control", "compare.at-once": "--at-once"}))
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file.")],
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run. [default: runs/NAME]")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control", help="Also train the original on the same tokens.")
    ] = False,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Also make all cuts in one, on the same tokens.")
    ] = False,
    redo: Annotated[
        bool, typer.Option("--redo", help="Do again what a changed recipe invalidates.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what it will do, as plan RECIPE; do nothing.")
    ] = False,
    sync: Sync = True,
    as_json: Json = False,
) -> None:
    """Run all stages of a recipe; safe to stop and to start again, alone or under torchrun."""
    from regrow import api

    if dry_run:
        ignored = {"--out": out, "--control": control, "--at-once": at_once, "--redo": redo}
        if other := next((name for name, given in ignored.items() if given), None):
            raise UserError(f"run: --dry-run shows what the recipe alone does; leave {other} out")
        print_preview(api.preview(recipe, progress=MESSAGES_ONLY), as_json)
        return
    compare = [name for name, given in (("control", control), ("at-once", at_once)) if given]
    with durable(sync), run_progress() as progress:
        result = api.run(recipe, out, compare=compare, redo=redo, progress=progress)
    if not is_first_process():
        return
    from regrow.pipeline.summary import summarise

    print_run(summarise(result.directory), result, as_json)


@app.command(cls=Command)
def verify(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A model directory, or that of a run.")
    ],
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run code of its own that is not regrow's."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Reload a model in a clean process without regrow, and check it."""
    from regrow import api

    result = api.verify(directory, trust_remote_code=trust_remote_code)
    if result.directory != directory:
        print_message(f"{directory} is a run; its model is {result.directory}")
    print_checks(result, as_json)
    if not result.ok:
        raise typer.Exit(1)


@app.command(cls=Command)
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The directory of a run.")],
    nats: Annotated[
        bool, typer.Option("--nats", help="Also print the losses in nats per token.")
    ] = False,
) -> None:
    """Write the report page of a run again, from its ledger."""
    from regrow import api
    from regrow.pipeline.summary import summarise

    page = api.write_report(directory)
    print_report(summarise(page.parent), page, nats=nats)


@app.command(cls=Command)
def generate(
    model: Model,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="PROMPT", help="The text; - or nothing reads it from stdin."),
    ] = None,
    max_new_tokens: Annotated[
        str, typer.Option(metavar="N", help="The most tokens that are written.")
    ] = "128",
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    temperature: Annotated[
        float,
        typer.Option(min=0, metavar="T", help="Draw tokens; 0 takes the likeliest each time."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Decides the random numbers.")] = 0,
) -> None:
    """Let a model answer a prompt."""
    from regrow import api

    text = api.generate(
        model, _prompt(prompt), max_new_tokens=count("--max-new-tokens", max_new_tokens, 1),
        raw=raw, temperature=temperature, seed=seed, progress=MESSAGES_ONLY,
    )  # fmt: skip
    if text.strip():
        echo(text)
    else:
        print_message("the model ended at once: it wrote no text")


def _prompt(given: str | None) -> str:
    """The prompt of the command line or of stdin, without the line end there."""
    if given not in (None, "-"):
        return str(given)
    if given is None and sys.stdin.isatty():
        raise UserError("generate: give a PROMPT, or - to read it from stdin")
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError:
        raise UserError("stdin: not UTF-8") from None


app.command(cls=Command)(train)
app.command("eval", cls=Command)(evaluate)
app.command(cls=Command)(compare)
app.add_typer(corpus, name="corpus")
app.add_typer(instructions, name="instructions")
app.add_typer(ner, name="ner")
app.add_typer(vocab, name="vocab")


# Parsing values


def _texts_by_stack(option: str, texts: Sizes) -> str | dict[str, str] | None:
    """One text, or texts by stack, from `12` or `encoder=8 decoder=24`."""
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


def _vocabulary(size: str | None, plan: Path | None, pad_to: str | None) -> dict[str, Any]:
    """The options of the vocabulary cut, by their keys in a recipe."""
    tokens = number("--vocab-size", size, 0)
    vocab: dict[str, Any] | None = None if plan is None else {"plan": plan}
    if pad_to is not None:
        if tokens is None and plan is None:
            raise UserError("--pad-to: give --vocab-size or --vocab-plan, which it rounds up")
        vocab = {**(vocab or {"size": tokens}), "pad_to": count("--pad-to", pad_to)}
        tokens = None if plan is None else tokens
    return {"vocab_size": tokens, "vocab": vocab}


def _sizes_by_stack(option: str, texts: Sizes) -> int | dict[str, int] | None:
    """One size, or sizes by stack."""
    found = _texts_by_stack(option, texts)
    if found is None:
        return None
    if isinstance(found, str):
        return count(option, found)
    return {stack: count(option, value) for stack, value in found.items()}
