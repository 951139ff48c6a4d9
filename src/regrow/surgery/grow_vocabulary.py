"""Add tokens for frequent words of a domain that have had several tokens."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.outputs import check_new_directory
from regrow.corpus.named_files import NamedFile
from regrow.corpus.text import read_pieces
from regrow.corpus.text_files import check_text_file
from regrow.tokenizers.config_ids import check_rows
from regrow.tokenizers.encoding import id_count, open_tokenizer
from regrow.tokenizers.fertility import fertility_by_language
from regrow.tokenizers.tokenizer_files import plan_grown_tokenizer, read_tokenizer
from regrow.tokenizers.tokenizer_json import build_tokenizer, token_ids
from regrow.vocabulary.bpe_training import Pair, learn_merges, words_of
from regrow.vocabulary.text_samples import samples_by_language

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MIN_COUNT = 20
"""Default for how often a new token must occur in the text."""


@dataclass(frozen=True)
class Grown:
    """The result of adding tokens.

    Attributes:
        out: The directory.
        tokens: The new tokens as text, the most frequent first.
        size_before, size: Rows of the embedding before and after.
        parameters_before, parameters: Parameters of the model before and after.
        per_character_before, per_character: Tokens per character of the sample before and after, by
            source.
        written: Whether the model was written.
        note: Why there are fewer tokens than were asked for; empty if there are not.
    """

    out: Path
    tokens: tuple[str, ...]
    size_before: int
    size: int
    parameters_before: int
    parameters: int
    per_character_before: Mapping[str, float]
    per_character: Mapping[str, float]
    written: bool
    note: str = ""


@dataclass(frozen=True)
class MergeLimits:
    """How many tokens are added.

    Attributes:
        max_tokens: Add at most this many tokens.
        min_count: Each new token occurs at least this often in the text.
    """

    max_tokens: int = 1_000
    min_count: int = MIN_COUNT


def grow_vocabulary(
    model: ModelDirectory,
    out: Path,
    files: Sequence[NamedFile],
    limits: MergeLimits,
    *,
    texts: Sequence[NamedFile] | None = None,
    dry_run: bool = False,
    notify: Callable[[str], None] = lambda _: None,
) -> Grown:
    """Write a model with additional tokens, so that the text of ``files`` needs fewer tokens.

    Each new token is merged from two tokens. Its rows in the embedding and in the head are the mean
    of the rows of the original tokens that it replaces. Text that contains no new token is encoded
    as before.

    Args:
        model: the model.
        out: a new or empty directory.
        files: text of the domain.
        limits: how many tokens are added.
        texts: the text on which tokens per character are measured; None takes a sample of
            ``files``.
        dry_run: check and measure, but write nothing.
        notify: gets a line before each step.

    Raises:
        UserError: the tokenizer is not BPE or also has a `.model` file, there is no text, or no
            pair of tokens is frequent enough.
    """
    from regrow.surgery.extend import add_merged_tokens

    if not files:
        raise UserError("name at least one file", key="corpus")
    if limits.max_tokens < 1:
        raise UserError(
            "there is nothing to add; give at least 1", key="max_tokens", value=limits.max_tokens
        )
    if limits.min_count < 1:
        raise UserError("at least 1 is wanted", key="min_count", value=limits.min_count)
    for file in (*files, *(texts or ())):
        check_text_file(file.path)
    directory = model.path
    check_new_directory(out, directory, dry_run=dry_run)
    if model.is_config_only:
        raise UserError(f"{directory}: has a config and no weights")
    layout = model.layout
    tokenizer = open_tokenizer(directory)
    check_rows(id_count(tokenizer), layout.sizes["vocab"])
    plan_grown_tokenizer(directory, [])  # raises if the tokenizer accepts no merges
    contents = read_tokenizer(directory)
    merges = _learn(tokenizer, contents, files, limits, notify)
    measured = files if texts is None else texts
    sample = samples_by_language(measured, tuple(dict.fromkeys(file.source for file in measured)))
    if texts and not sample:
        raise UserError(f"{texts[0].path}: no text", key="text")
    planned, _ = plan_grown_tokenizer(directory, merges)
    grown = build_tokenizer(planned["tokenizer.json"].decode())
    before, after = (
        {
            name: fertility.tokens_per_character
            for name, fertility in fertility_by_language(each, sample).items()
        }
        for each in (tokenizer, grown)
    )
    if not dry_run:
        notify(f"writing {out}")
        add_merged_tokens(model, out, merges)
    size = layout.sizes["vocab"]
    first = len(contents["model"]["vocab"])
    return Grown(
        out,
        tuple(grown.decode([first + number]) for number in range(len(merges))),
        size,
        size + len(merges),
        layout.parameters(),
        layout.parameters({"vocab": size + len(merges)}),
        before,
        after,
        not dry_run,
        _why_fewer(len(merges), limits),
    )


def _why_fewer(tokens: int, limits: MergeLimits) -> str:
    if tokens == limits.max_tokens:
        return ""
    return (
        f"{tokens:,} of the {limits.max_tokens:,} tokens: no other two stand beside each other "
        f"{limits.min_count} times in the words of the text"
    )


def _learn(
    tokenizer: "Tokenizer",
    contents: dict[str, Any],
    files: Sequence[NamedFile],
    limits: MergeLimits,
    notify: Callable[[str], None],
) -> list[Pair]:
    """The merges of frequent pairs in the text of the files. Raises UserError if there are none."""
    characters = 0

    def documents() -> Iterator[str]:
        nonlocal characters
        for file in files:
            for text in read_pieces(file.path):
                characters += len(text.strip())
                yield text

    notify("reading the words")
    words = words_of(tokenizer, contents, documents())
    if not characters:
        raise UserError(f"no text in {files[0].path}; give text of the domain", key="corpus")
    notify(f"merging the tokens of {len(words):,} words")
    merges = learn_merges(words, token_ids(contents), limits.max_tokens, limits.min_count)
    if not merges:
        raise UserError(
            f"no two tokens stand beside each other {limits.min_count} times in a word",
            key="corpus",
        )
    return merges
