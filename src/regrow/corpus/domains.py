"""What `data.train` of a recipe names: text files and token stores, as one corpus.

Each source is a domain with a name. Where sources have shares, samples are a mixture of them (see
`mixture`); where they have none, all is gone through once before anything comes again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from regrow.corpus.joined import JoinedRows, JoinedWindows
from regrow.corpus.mixture import Shares
from regrow.corpus.packing import Tokenizer, pack, tokenise
from regrow.corpus.samples import Samples
from regrow.corpus.store import TokenStore, is_store, open_store
from regrow.corpus.store_rows import pack_store
from regrow.corpus.store_windows import cut_store
from regrow.corpus.text import documents_sha256, read_documents
from regrow.corpus.windows import TextWindows, cut_windows
from regrow.errors import UserError
from regrow.identity import identity_of
from regrow.recipe import Source

T = TypeVar("T", Samples, TextWindows)

_DECODED = 1 << 24
"""Tokens of a store that are turned back into text, at most."""


@dataclass(frozen=True)
class Corpus:
    """The sources of a training; at least one."""

    sources: tuple[Source, ...]

    @property
    def paths(self) -> list[Path]:
        return [path for source in self.sources for path in source.paths]

    @property
    def stores(self) -> list[Path]:
        return [path for path in self.paths if is_store(path)]

    @cached_property
    def identity(self) -> str:
        """A hash of all text and all shares. Reads the text files."""
        if len(self.sources) == 1 and not self.stores:
            return documents_sha256(_read(self.paths))
        sources = [
            (source.name, source.weight, source.tokens, [_identity(path) for path in source.paths])
            for source in self.sources
        ]
        return identity_of("corpus", sources=sources)

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise UserError where a share cannot be, or a store is of another tokenizer."""
        _shares(self, {source.name: 1.0 for source in self.sources})
        for path in self.stores:
            open_store(path, tokenizer=tokenizer)

    def documents(self, tokenizer: Tokenizer) -> Iterator[str]:
        """The text, source after source; that of stores out of their tokens, by the tokenizer.

        Of a large store, documents that are spread evenly over it, some 16 million tokens.
        """
        for path in self.paths:
            if is_store(path):
                yield from _decoded(open_store(path, tokenizer=tokenizer), tokenizer)
            else:
                yield from read_documents(path)

    def counts(self, tokenizer: Tokenizer) -> tuple[int, int]:
        """Documents, and their tokens. Tokenises the text files."""
        documents = tokens = 0
        for path in self.paths:
            if is_store(path):
                store = open_store(path, tokenizer=tokenizer)
                documents += len(store)
                tokens += store.text_tokens
            else:
                for ids in tokenise(read_documents(path), tokenizer):
                    documents += 1
                    tokens += len(ids)
        return documents, tokens

    def tokens_up_to(self, enough: int, tokenizer: Tokenizer) -> int:
        """Tokens, with one that ends each document; counted no further than to `enough`."""
        tokens = 0
        for path in self.paths:
            if is_store(path):
                tokens += len(open_store(path, tokenizer=tokenizer).tokens)
                continue
            for ids in tokenise(read_documents(path), tokenizer):
                tokens += 1 + len(ids)
                if tokens >= enough:
                    break
        return tokens


Texts = Iterable[str] | Corpus
"""Documents, or a corpus."""


def rows_of(
    texts: Texts,
    tokenizer: Tokenizer,
    of_text: Callable[[Iterable[str]], Samples],
    of_store: Callable[[TokenStore], Samples],
    mean: Callable[[Samples], float] = lambda rows: 1.0,
) -> Samples:
    """Rows that these functions make. `mean`: tokens of text in a row of a source; without it, all
    sources have as many.

    Raises UserError where a store is of another tokenizer, and what the functions raise.
    """
    if not isinstance(texts, Corpus):
        return of_text(texts)
    found = {}
    for source, parts in _opened(texts, tokenizer, of_text, of_store):
        found[source.name] = (
            parts[0] if len(parts) == 1 else JoinedRows(_numbered(parts), domains=False)
        )
    if len(found) == 1:
        return next(iter(found.values()))
    return JoinedRows(found, _shares(texts, {name: mean(rows) for name, rows in found.items()}))


def packed(texts: Texts, tokenizer: Tokenizer, row_length: int) -> Samples:
    """Packed rows for a decoder; see `packing.pack`."""
    return rows_of(
        texts,
        tokenizer,
        lambda documents: pack(documents, tokenizer, row_length),
        lambda store: pack_store(store, tokenizer, row_length),
    )


def windows_of(texts: Texts, tokenizer: Tokenizer, longest: int) -> TextWindows:
    """Windows of documents; see `windows.cut_windows`.

    Raises UserError where a source holds no token, and where a store is of another tokenizer.
    """

    def of_text(documents: Iterable[str]) -> TextWindows:
        return cut_windows(documents, tokenizer, longest)

    def of_store(store: TokenStore) -> TextWindows:
        return cut_store(store, longest)

    if not isinstance(texts, Corpus):
        return of_text(texts)
    found = {}
    for source, parts in _opened(texts, tokenizer, of_text, of_store):
        found[source.name] = (
            parts[0] if len(parts) == 1 else JoinedWindows(_numbered(parts), domains=False)
        )
    if len(found) == 1:
        return next(iter(found.values()))
    means = {name: windows.text_tokens / len(windows) for name, windows in found.items()}
    return JoinedWindows(found, _shares(texts, means))


def _opened(
    corpus: Corpus,
    tokenizer: Tokenizer,
    of_text: Callable[[Iterable[str]], T],
    of_store: Callable[[TokenStore], T],
) -> Iterator[tuple[Source, list[T]]]:
    """Each source with what it is made of: text files that follow each other are one."""
    for source in corpus.sources:
        parts = []
        try:
            for stored, paths in groupby(source.paths, is_store):
                if stored:
                    parts += [of_store(open_store(path, tokenizer=tokenizer)) for path in paths]
                else:
                    parts.append(of_text(_read(paths)))
        except UserError as error:
            if len(corpus.sources) == 1:
                raise
            raise UserError(f"data.train: {source.name}: {error}") from None
        yield source, parts


def _numbered(parts: Sequence[T]) -> dict[str, T]:
    return {str(number): part for number, part in enumerate(parts)}


def _shares(corpus: Corpus, means: Mapping[str, float]) -> Shares | None:
    """The shares of the samples; `means`: tokens of a sample of each source."""
    weights = [
        source.weight if source.tokens is None else source.tokens / means[source.name]
        for source in corpus.sources
    ]
    given = [weight for weight in weights if weight is not None]
    return Shares([source.name for source in corpus.sources], given) if given else None


def _read(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        yield from read_documents(path)


def _identity(path: Path) -> str:
    return open_store(path).identity if is_store(path) else documents_sha256(read_documents(path))


def _decoded(store: TokenStore, tokenizer: Tokenizer) -> Iterator[str]:
    step = -(-len(store.tokens) // _DECODED) or 1
    for number in range(0, len(store), step):
        ids = store.text(number).tolist()
        yield tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
