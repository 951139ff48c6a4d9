"""The training text of a recipe (`data.train`): text files and token stores, as one corpus.

Each source is a domain with a name. If sources have shares, samples are a mixture of them (see
:mod:`regrow.corpus.mixed_order`). Otherwise every row comes once in each epoch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from regrow.common.errors import UserError
from regrow.common.fields import PositiveNumber, Size, Strict
from regrow.common.identity import identity_of
from regrow.corpus.concatenation import ConcatenatedRows, ConcatenatedWindows
from regrow.corpus.encoding import TextWithSpecialTokens, Tokenizer
from regrow.corpus.mixed_order import source_shares
from regrow.corpus.packing import pack, tokenise
from regrow.corpus.put_aside import without
from regrow.corpus.reading import PLAIN_TEXT, Reading
from regrow.corpus.samples import Samples
from regrow.corpus.shares import Shares
from regrow.corpus.text import (
    Documents,
    document_hash,
    documents_sha256,
    read_documents,
    read_file,
)
from regrow.corpus.text_files import text_files, without_suffixes
from regrow.corpus.token_store import TokenStore, is_store, open_store
from regrow.corpus.token_store_rows import pack_store
from regrow.corpus.token_store_windows import cut_store
from regrow.corpus.turns import TextsInTurns, groups_in_turns, turn_of
from regrow.corpus.windows import TextWindows, cut_windows

T = TypeVar("T", Samples, TextWindows)

_DECODED = 1 << 24
"""The most tokens of a store that are decoded to text."""


def _name_of(path: Path) -> str:
    """What a source is called like: `wiki.en` of wiki.en.jsonl, and `a` of a store a.bin."""
    name = without_suffixes(path)
    return name if name != path.name else name.partition(".")[0]


class Source(Strict):
    """A domain of the training text: files, or text that a model writes.

    Attributes:
        name: Of the domain; by default the name of the first path, without suffixes, or the name of
            the model.
        path: Text files and token stores.
        model: The model that writes the text before anything is trained; None if there is a path.
        weight: Its share of the samples, relative to the weights of the others.
        tokens: With a path, its share of the tokens, relative to those of the others. With a model,
            how many tokens the model writes; the share is then given by weight alone.
        prompts: With a model, a text file of questions or beginnings of texts, used in turn: each
            line of a `.txt`, or each document of another file. Without it the model writes the
            questions too, most of them after given first words.
        temperature: With a model, the logits are divided by it; by less in brief conversations.
        languages: With a model, codes of ISO 639 such as `zh` and `en`; texts in others are
            dropped, and the given first words of questions are in these. An empty list keeps all.
    """

    name: str = Field(min_length=1)
    path: Path | list[Path] | None = None
    model: Literal["original"] | None = None
    weight: PositiveNumber | None = None
    tokens: Size | None = None
    prompts: Path | None = None
    temperature: PositiveNumber = 1.0
    languages: tuple[str, ...] = ()

    @property
    def paths(self) -> list[Path]:
        """The files that exist before a run; none if a model writes the text."""
        if self.path is None:
            return []
        return self.path if isinstance(self.path, list) else [self.path]

    @property
    def share_tokens(self) -> int | None:
        """The share of the tokens; None if none is given."""
        return self.tokens if self.model is None else None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "name" in values:
            return values
        path = values.get("path")
        if path is None and isinstance(values.get("model"), str):
            return {"name": values["model"], **values}
        first = path[0] if isinstance(path, list) and path else path
        name = _name_of(Path(first)) if isinstance(first, str | Path) else ""
        return {"name": name or str(first), **values}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.model is not None:
            if self.path is not None:
                raise ValueError("path and model both give the text; give one")
            if self.tokens is None:
                raise ValueError("tokens: missing; say how many tokens the model writes")
            return self
        for key in ("prompts", "temperature", "languages"):
            if key in self.model_fields_set:
                raise ValueError(
                    f"{key}: says how a model writes the text; give `model: original`, or leave it "
                    "out"
                )
        if self.path is None:
            raise ValueError("path: missing")
        if not self.paths:
            raise ValueError("no path; give at least one")
        if self.weight is not None and self.tokens is not None:
            raise ValueError("weight and tokens both say how much; give one")
        return self


@dataclass(frozen=True)
class WrittenSource:
    """The text of a source that a model writes.

    Attributes:
        path: The text file, which exists once it is complete.
        identity: A hash of what decides the text.
    """

    path: Path
    identity: str


@dataclass(frozen=True)
class Corpus:
    """The sources of a training; at least one.

    Attributes:
        sources: The sources.
        written: The texts of those sources that a model writes, by name.
        reading: How text files are read. In text that a model writes, and in token stores, the
            names of special tokens always stand for the tokens.
        remains: Documents of text files that are held out, as in `regrow.corpus.put_aside`.
    """

    sources: tuple[Source, ...]
    written: Mapping[str, WrittenSource] = field(default_factory=dict)
    reading: Reading = PLAIN_TEXT
    remains: Mapping[bytes, int] = field(default_factory=dict)

    def paths_of(self, source: Source) -> list[Path]:
        """The files of a source, also those that a model writes."""
        return source.paths or [self.written[source.name].path]

    @property
    def paths(self) -> list[Path]:
        return [path for source in self.sources for path in self.paths_of(source)]

    @property
    def stores(self) -> list[Path]:
        return [path for path in self.paths if is_store(path)]

    @cached_property
    def identity(self) -> str:
        """A hash of all text and of the shares. Reads the text files.

        Text that a model writes counts by what decides it, since it may not exist yet.
        """
        if len(self.sources) == 1 and not self.stores and not self.written:
            found = documents_sha256(self.read(self.paths))
        else:
            sources = [
                (source.name, source.weight, source.tokens, self._identities(source))
                for source in self.sources
            ]
            found = identity_of("corpus", sources=sources)
        if self.reading.conversations:
            return identity_of("conversations", corpus=found)
        if self.reading.special_tokens:
            return identity_of("with special tokens", corpus=found)
        return found

    def _identities(self, source: Source) -> list[str]:
        """A hash of each text of a source."""
        if source.model is not None:
            return [self.written[source.name].identity]
        return [
            open_store(path).identity if is_store(path) else documents_sha256(self.read([path]))
            for path in source.paths
        ]

    def check(self, tokenizer: Tokenizer) -> None:
        """Raise UserError if shares are not possible, or a store is of another tokenizer."""
        _shares(self, {source.name: 1.0 for source in self.sources})
        for path in self.stores:
            open_store(path, tokenizer=tokenizer)

    def in_turns(self, tokenizer: Tokenizer) -> TextsInTurns:
        """Opens the text of all documents. The sources take turns.

        In the turns of a source, its text files and token stores take turns, as in
        `files_in_turns`.

        Documents of token stores are decoded by the tokenizer. From a large store come only some,
        evenly spread, with about 16 million tokens.
        """
        texts = [self._texts(source, tokenizer) for source in self.sources]
        if len(texts) == 1:
            return groups_in_turns(texts[0])
        return TextsInTurns(
            [groups_in_turns(each, len(texts)) for each in texts], turn_of(len(texts))
        )

    def counted_documents(self, tokenizer: Tokenizer) -> Iterator[str]:
        """The documents whose tokens decide a vocabulary: those of the sources that have a path.

        So text that the original writes holds tokens that are removed, as new text does, and a
        recovery on it learns how their words are spelled. If there is no path, half of the
        documents are counted, chosen by their hashes.
        """
        given = self.given
        if given is not None:
            return given.documents(tokenizer)
        documents = self.documents(tokenizer)
        return (text for text in documents if document_hash(text)[0] % 2 == 0)

    @property
    def given(self) -> Self | None:
        """The sources that have a path; None if there are none."""
        given = tuple(source for source in self.sources if source.path is not None)
        return replace(self, sources=given) if given else None

    def parts(self) -> Iterator["Corpus"]:
        """The parts whose rows are made apart: each store, and text files that follow each other.

        A source that a model writes is one part.
        """
        for source in self.sources:
            if source.model is not None:
                yield replace(self, sources=(source,))
                continue
            for stored, group in groupby(source.paths, is_store):
                for paths in [[each] for each in group] if stored else [[*group]]:
                    part = source.model_copy(update={"path": paths})
                    yield replace(self, sources=(part,))

    def documents(self, tokenizer: Tokenizer) -> Iterator[str]:
        """The text of all documents, whole; see `in_turns`."""
        return self.in_turns(tokenizer)()

    def _texts(self, source: Source, tokenizer: Tokenizer) -> list[Documents]:
        """Each opens one text file or token store of a source; a directory stands for its files."""
        texts: list[Documents] = []
        for path in self.paths_of(source):
            if path.is_dir() and not is_store(path):
                texts += [partial(self._in_directory, file) for file in text_files(path)]
            else:
                texts.append(partial(self._text, path, tokenizer))
        return texts

    def _text(self, path: Path, tokenizer: Tokenizer) -> Iterator[str]:
        if is_store(path):
            return _decoded(open_store(path, tokenizer=tokenizer), tokenizer)
        return self.read([path])

    def _in_directory(self, file: Path) -> Iterator[str]:
        """The documents of a file of a directory, which may hold none."""
        return self._kept(read_file(file, self.reading), by_model=False)

    def read(self, paths: Iterable[Path]) -> Iterator[str]:
        """The documents of text files, without what is held out."""
        written = {each.path for each in self.written.values()}
        for path in paths:
            by_model = path in written
            documents = read_documents(path, PLAIN_TEXT if by_model else self.reading)
            yield from self._kept(documents, by_model)

    def _kept(self, documents: Iterator[str], by_model: bool) -> Iterator[str]:
        """Documents without what is held out; `by_model`: whether a model wrote them."""
        if self.remains:
            documents = without(documents, self.remains)
        has_tokens = self.reading.special_tokens or by_model
        return map(TextWithSpecialTokens, documents) if has_tokens else documents

    def counts(self, tokenizer: Tokenizer) -> tuple[int, int]:
        """The number of documents and of their tokens. Tokenises the text files."""
        documents = tokens = 0
        for path in self.paths:
            if is_store(path):
                store = open_store(path, tokenizer=tokenizer)
                documents += len(store)
                tokens += store.text_tokens
            else:
                for ids in tokenise(self.read([path]), tokenizer):
                    documents += 1
                    tokens += len(ids)
        return documents, tokens

    def tokens_up_to(self, enough: int, tokenizer: Tokenizer) -> int:
        """The number of tokens, with an end token of each document; stops counting at `enough`.

        Text that a model writes counts with the tokens that were asked for.
        """
        tokens = sum(each.tokens or 0 for each in self.sources if each.model is not None)
        for path in (path for source in self.sources for path in source.paths):
            if tokens >= enough:
                return tokens
            if is_store(path):
                tokens += len(open_store(path, tokenizer=tokenizer).tokens)
                continue
            for ids in tokenise(self.read([path]), tokenizer):
                tokens += 1 + len(ids)
                if tokens >= enough:
                    return tokens
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
    """The rows of a corpus, or of documents.

    Args:
        texts: the documents or the corpus.
        tokenizer: of the model.
        of_text: makes rows of documents.
        of_store: makes rows of a token store.
        mean: mean tokens of text in a row of some rows; by default, the same for all sources.

    Raises:
        UserError: a store is of another tokenizer, or what the functions raise.
    """
    if not isinstance(texts, Corpus):
        return of_text(texts)
    return _concatenate(texts, tokenizer, of_text, of_store, ConcatenatedRows, mean)


def packed(texts: Texts, tokenizer: Tokenizer, row_length: int) -> Samples:
    """Packed rows for a decoder; see :func:`regrow.corpus.packing.pack`."""
    return rows_of(
        texts,
        tokenizer,
        lambda documents: pack(documents, tokenizer, row_length),
        lambda store: pack_store(store, tokenizer, row_length),
    )


def windows_of(texts: Texts, tokenizer: Tokenizer, longest: int) -> TextWindows:
    """Windows of documents; see :func:`regrow.corpus.windows.cut_windows`.

    Raises UserError if a source holds no token, or a store is of another tokenizer.
    """

    def of_text(documents: Iterable[str]) -> TextWindows:
        return cut_windows(documents, tokenizer, longest)

    def of_store(store: TokenStore) -> TextWindows:
        return cut_store(store, longest)

    def mean(windows: TextWindows) -> float:
        return windows.text_tokens / len(windows)

    if not isinstance(texts, Corpus):
        return of_text(texts)
    return _concatenate(texts, tokenizer, of_text, of_store, ConcatenatedWindows, mean)


def _concatenate(
    corpus: Corpus,
    tokenizer: Tokenizer,
    of_text: Callable[[Iterable[str]], T],
    of_store: Callable[[TokenStore], T],
    concatenated: Callable[..., T],
    mean: Callable[[T], float],
) -> T:
    """All sources, in their shares; `mean`: tokens of text in a row of a source."""
    found: dict[str, T] = {}
    for source in corpus.sources:
        try:
            parts = _open(corpus, source, tokenizer, of_text, of_store)
        except UserError as error:
            if len(corpus.sources) == 1:
                raise
            raise error.within(f"data.train: {source.name}: ") from None
        numbered = {str(number): part for number, part in enumerate(parts)}
        found[source.name] = parts[0] if len(parts) == 1 else concatenated(numbered, domains=False)
    if len(found) == 1:
        return next(iter(found.values()))
    return concatenated(found, _shares(corpus, {name: mean(rows) for name, rows in found.items()}))


def _open(
    corpus: Corpus,
    source: Source,
    tokenizer: Tokenizer,
    of_text: Callable[[Iterable[str]], T],
    of_store: Callable[[TokenStore], T],
) -> list[T]:
    """The rows of a source: of each store, and of text files that follow each other."""
    parts: list[T] = []
    for stored, group in groupby(corpus.paths_of(source), is_store):
        if stored:
            parts += [of_store(open_store(path, tokenizer=tokenizer)) for path in group]
        else:
            parts.append(of_text(corpus.read(group)))
    return parts


def _shares(corpus: Corpus, means: Mapping[str, float]) -> Shares[int] | None:
    """The shares of the sources in the samples; `means`: mean tokens in a sample, by source."""
    weights = [
        source.weight if source.share_tokens is None else source.share_tokens / means[source.name]
        for source in corpus.sources
    ]
    given = [weight for weight in weights if weight is not None]
    return source_shares([source.name for source in corpus.sources], given) if given else None


def _decoded(store: TokenStore, tokenizer: Tokenizer) -> Iterator[str]:
    step = -(-len(store.tokens) // _DECODED) or 1
    for number in range(0, len(store), step):
        ids = store.text(number).tolist()
        yield TextWithSpecialTokens(
            tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        )
