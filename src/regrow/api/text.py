"""Prepare text for training: clean it, tokenise it, or let a model write it."""

from __future__ import annotations  # so that help() shows them as they are written

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from regrow.api.arguments import (
    Paths,
    check_names,
    names,
    number,
    open_model,
    paths,
    workers_or_cores,
)
from regrow.api.options import WritingOptions
from regrow.common.errors import UserError
from regrow.common.outputs import check_new_directory, check_new_file
from regrow.common.progress import QUIET, Progress

if TYPE_CHECKING:
    from regrow.cleaning.built import BuiltCorpus
    from regrow.corpus.tokenisation import Tokenised
    from regrow.writing.text_writer import WrittenText


def build_corpus(
    config: Path | str | Mapping[str, Any],
    *,
    tokenise: Path | str | None = None,
    workers: int | None = None,
    progress: Progress = QUIET,
) -> BuiltCorpus:
    """Build a corpus of clean, unique documents from raw text.

    Each step keeps, changes or drops a document. The corpus is a directory with the documents
    (`documents-00000.jsonl` and so on), `report.json` and `report.html`, which say what each step
    did and why, `contamination.jsonl` if questions of benchmarks are removed, and `tokens`, a token
    store, if a tokenizer is named. A call that was stopped continues when it is repeated. It starts
    processes, so a script must call it below `if __name__ == "__main__":`.

    Args:
        config: a YAML file, or its keys and values; see docs/cleaning.md.
        tokenise: a model whose tokenizer makes the token store; it takes the place of that in
            `config`.
        workers: the number of processes; None takes one for each core.
        progress: receives how far the work is, and messages.

    Raises:
        UserError: the configuration is not valid, an input does not exist, `out` holds something
            else, or no document is left. Damaged inputs raise nothing; they are counted.
    """
    from regrow.cleaning.build import build
    from regrow.cleaning.config import CorpusConfig
    from regrow.cleaning.config_file import load_config
    from regrow.common.validation_errors import validated
    from regrow.report.corpus_page import write_corpus_page

    if isinstance(config, Mapping):
        wanted = validated(CorpusConfig, config)
    else:
        wanted = load_config(Path(config))
    if tokenise is not None:
        wanted = validated(CorpusConfig, {**dict(wanted), "tokenise": str(tokenise)})
    count = workers_or_cores(workers)
    tokenizer = None
    if wanted.tokenise is not None:
        check_new_directory(wanted.out, wanted.tokenise)
        tokenizer = open_model(wanted.tokenise, progress).path
    return build(
        wanted,
        workers=count,
        tokenizer=tokenizer,
        describe=lambda built, directory: write_corpus_page(built, directory / built.page.name),
        progress=progress,
    )


def tokenise(
    model: Path | str,
    out: Path | str,
    text: Paths,
    *,
    workers: int | None = None,
    eos: bool = True,
    special_tokens: bool = False,
    progress: Progress = QUIET,
) -> Tokenised:
    """Tokenise text files once and write a token store, which recipes can train on.

    A call that was stopped continues when it is repeated with the same arguments. It starts
    processes, so a script must call it below `if __name__ == "__main__":`.

    Args:
        model: the model whose tokenizer is used.
        out: a new directory.
        text: a text file (.txt or .jsonl, also .gz or .zst; .parquet), a directory of such, or
            several.
        workers: the number of processes; None takes one for each core.
        eos: end each document with the eos token.
        special_tokens: whether the names of special tokens in the text stand for the tokens.
        progress: receives the bytes read.

    Raises:
        UserError: a text or the tokenizer cannot be read, or `out` holds something else.
    """
    from regrow.corpus.text_files import text_files
    from regrow.corpus.tokenisation import tokenise_files

    count = workers_or_cores(workers)
    check_new_directory(Path(out), model)
    for path in paths(text):
        text_files(path)  # refused before a model is downloaded or converted
    return tokenise_files(
        open_model(model, progress).path, Path(out), paths(text),
        workers=count, eos=eos,
        special_tokens=special_tokens, progress=progress.advance,
    )  # fmt: skip


def write_corpus(
    model: Path | str,
    out: Path | str,
    tokens: int | str,
    *,
    prompts: Path | str | None = None,
    progress: Progress = QUIET,
    **settings: Unpack[WritingOptions],
) -> WrittenText:
    """Let a model write text, on which it or its smaller versions can be trained.

    A chat model writes questions and answers, and other decoders write documents. A call that was
    stopped continues when it is repeated with the same arguments.

    The settings are those of `regrow.writing.text_writer.WritingSettings`:

    - `seed`: decides the random numbers.
    - `temperature`: the logits are divided by it, and by less in brief conversations; 1 by default.
    - `batch_size`: texts that are written at once; by default as many as fit, up to 128.
    - `languages`: codes such as `"zh"` or `["en", "zh"]`; texts in others are dropped, and the
      given first words of questions are in these; by default no text is dropped.

    Args:
        model: a decoder with a tokenizer.
        out: a new file, `.jsonl`.
        tokens: tokens of text, at least so many (`2_000_000`, `"2M"`).
        prompts: a text file with questions, or with beginnings of documents.
        progress: receives the tokens written.
        settings: see above.

    Raises:
        UserError: the model cannot write, a setting is not valid, or `out` exists or was begun with
            other settings.
    """
    from regrow.writing.text_writer import WritingSettings, check_work, write_text

    check_names("write_corpus", settings, WritingOptions.__annotations__)
    check_new_file(Path(out), model)
    asked = None if prompts is None else Path(prompts)
    options: dict[str, Any] = {**settings}
    if "seed" in options:
        options["seed"] = number("seed", options["seed"])
    if options.get("batch_size") is not None:
        options["batch_size"] = number("batch_size", options["batch_size"], least=1)
    if not isinstance(options.get("temperature", 1.0), int | float):
        raise UserError(f"a number is wanted, not {options['temperature']!r}", key="temperature")
    wanted = options.get("languages")
    options["languages"] = [] if wanted is None else names(wanted)
    given = WritingSettings(number("tokens", tokens), asked, **options)
    check_work(Path(out), given)
    return write_text(open_model(model, progress), Path(out), given, progress=progress.advance)
