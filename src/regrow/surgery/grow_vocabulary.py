"""Give a vocabulary back what a domain needs: words that are now spelled with several tokens."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.checkpoint.bind import open_layout
from regrow.common.errors import UserError
from regrow.corpus.named_files import NamedFile
from regrow.corpus.text import check_text_file, documents_in, read_blocks
from regrow.surgery.carve import check_output
from regrow.tokenizers.config_ids import check_rows
from regrow.tokenizers.encoding import id_count, open_tokenizer
from regrow.tokenizers.fertility import measure_fertility
from regrow.tokenizers.tokenizer_files import plan_grown_tokenizer, read_tokenizer
from regrow.tokenizers.tokenizer_json import token_ids
from regrow.vocabulary.bpe_training import Pair, learn_merges, words_of
from regrow.vocabulary.text_samples import samples_by_language

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LEAST = 20
"""A token that occurs less often is not learned from the text."""


@dataclass(frozen=True)
class Grown:
    """What was added.

    Attributes:
        out: The directory.
        tokens: The new tokens as text, the most frequent first.
        size_before, size: Rows of the embedding.
        parameters_before, parameters: Of the model.
        per_character_before, per_character: Tokens per character of a sample, by source.
        written: Whether anything was.
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


def grow_vocabulary(
    directory: Path,
    out: Path,
    files: Sequence[NamedFile],
    most: int,
    *,
    least: int = LEAST,
    texts: Sequence[NamedFile] | None = None,
    dry_run: bool = False,
    notify: Callable[[str], None] = lambda _: None,
) -> Grown:
    """Write a model with up to ``most`` further tokens, which text of ``files`` is shorter with.

    Each is merged from tokens that there are, at least ``least`` times in the text; its rows are
    the mean of theirs. Text without the new words becomes the tokens that it was.

    ``texts``: what tokens per character are measured on; None takes some of ``files``.

    Raises:
        UserError: the tokenizer is no BPE or lies in a `.model` too, there is no text, or no pair
            of tokens is so frequent.
    """
    from regrow.surgery.extend import grow

    if not files:
        raise UserError("name at least one file", key="corpus")
    if most < 1:
        raise UserError(f"{most}: there is nothing to add; give at least 1", key="tokens")
    for file in (*files, *(texts or ())):
        check_text_file(file.path)
    check_output(out, directory)
    layout, checkpoint = open_layout(directory)
    if checkpoint is None:
        raise UserError(f"{directory}: has a config and no weights")
    tokenizer = open_tokenizer(directory)
    check_rows(id_count(tokenizer), layout.sizes["vocab"])
    plan_grown_tokenizer(directory, [])  # refuses what cannot be given merges
    contents = read_tokenizer(directory)
    notify("reading the words")
    read = _Read(files)
    words = words_of(tokenizer, contents, read.documents())
    if not read.characters:
        raise UserError(f"no text in {files[0].path}; give text of the domain", key="corpus")
    notify(f"merging the tokens of {len(words):,} words")
    merges = learn_merges(words, token_ids(contents), most, least)
    if not merges:
        raise UserError(
            f"no two tokens stand beside each other {least} times in a word", key="corpus"
        )
    measured = files if texts is None else texts
    sample = samples_by_language(measured, tuple(dict.fromkeys(file.source for file in measured)))
    before = {
        name: measure_fertility(tokenizer, texts).tokens_per_character
        for name, texts in sample.items()
    }
    grown = _with_merges(directory, merges)
    after = {
        name: measure_fertility(grown, texts).tokens_per_character for name, texts in sample.items()
    }
    if not dry_run:
        notify(f"writing {out}")
        grow(directory, out, merges)
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
    )


class _Read:
    """The documents of some files, and how much text there was."""

    def __init__(self, files: Sequence[NamedFile]) -> None:
        self._files = files
        self.characters = 0

    def documents(self) -> Iterator[str]:
        for file in self._files:
            for block in read_blocks(file.path, whole=False):
                for text in documents_in(block):
                    self.characters += len(text.strip())
                    yield text


def _with_merges(directory: Path, merges: Sequence[Pair]) -> "Tokenizer":
    from tokenizers import Tokenizer

    files, _ = plan_grown_tokenizer(directory, merges)
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
