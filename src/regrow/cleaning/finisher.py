"""What the worker processes do with documents that stay: remove repeated parts, count tokens."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.cleaner import document_from, document_line
from regrow.cleaning.document import Document, Finding
from regrow.cleaning.parts import paragraphs, without
from regrow.cleaning.scripts import sentences
from regrow.cleaning.tally import StepTally, Tally
from regrow.cleaning.word_hashes import mixed

if TYPE_CHECKING:
    from regrow.corpus.encoding import Tokenizer

PARAGRAPHS, SENTENCES = "repeated paragraphs", "repeated sentences"
NOTHING_LEFT = "nothing else in it"
_SHOWN = 60
UNIQUE = np.dtype(
    [("bytes", "<u8"), ("characters", "<u8"), ("tokens", "<u8"), ("key", "<u8"), ("source", "<u4")]
)
"""A document of the corpus; `key` decides which documents are taken if not all are."""


@dataclass(frozen=True)
class Staying:
    """Some consecutive documents that stay, and which of their parts do not.

    Attributes:
        lines: Each as a line of JSON.
        records: As `regrow.cleaning.cleaner.RECORD`.
        paragraphs: For each paragraph of all of them, its number of sentences.
        repeated_paragraphs: For each paragraph, 1 if it goes; None if none go.
        repeated_sentences: The same for sentences.
    """

    lines: tuple[bytes, ...]
    records: NDArray[np.void]
    paragraphs: NDArray[np.uint32]
    repeated_paragraphs: NDArray[np.uint8] | None
    repeated_sentences: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Finished:
    """Documents as they are written: lines of JSON, facts (`UNIQUE`), and what was done."""

    lines: bytes
    records: NDArray[np.void]
    tally: Tally


class Finisher:
    """Each process has one; `tokenizer`: a directory, if tokens are counted."""

    def __init__(self, names: Sequence[str], tokenizer: Path | None, *, has_copies: bool) -> None:
        """`names`: of what is removed: `PARAGRAPHS`, `SENTENCES`. `has_copies`: whether equal
        documents stay."""
        self._names, self._directory, self._has_copies = names, tokenizer, has_copies

    def finish(self, given: Staying) -> Finished:
        """Remove the repeated parts of some documents."""
        tally: Tally = {name: StepTally() for name in self._names}
        lines: list[bytes] = []
        records: list[tuple[int, ...]] = []
        texts: list[str] = []
        hashes = given.records["exact"][:, 0].astype(np.uint64)
        if self._has_copies:  # with equal keys, all would be taken or none
            hashes = np.array([_line_hash(line) for line in given.lines], np.uint64)
        keys = mixed(hashes)
        paragraph = sentence = 0
        for number, (line, record) in enumerate(zip(given.lines, given.records, strict=True)):
            ends = paragraph + int(record["paragraphs"]), sentence + int(record["sentences"])
            if self._names or self._directory is not None:
                document = document_from(line)
                changed = self._without_parts(
                    document, given, slice(paragraph, ends[0]), slice(sentence, ends[1]), tally
                )
                paragraph, sentence = ends
                if changed is None:
                    continue
                texts.append(changed.text)
                if changed is not document:
                    line = document_line(changed)
                characters = len(changed.text)
            else:
                characters = int(record["characters"])
            lines.append(line)
            records.append((len(line), characters, 0, int(keys[number]), int(record["source"])))
        found = np.array(records, UNIQUE)
        if self._directory is not None:
            from regrow.corpus.packing import tokenise

            found["tokens"] = [len(ids) for ids in tokenise(texts, self._tokenizer)]
        return Finished(b"".join(lines), found, tally)

    @cached_property
    def _tokenizer(self) -> "Tokenizer":
        """It is loaded when it is first used: cleaning does not need it."""
        from regrow.models.loading import load_tokenizer

        assert self._directory is not None
        return load_tokenizer(self._directory)

    def _without_parts(
        self, document: Document, given: Staying, lines: slice, ends: slice, tally: Tally
    ) -> Document | None:
        """The document without its repeated parts; None if nothing is left.

        `lines`, `ends`: which paragraphs and sentences are those of the document.
        """
        if not self._names:
            return document
        parts = paragraphs(document.text)
        gone = np.zeros(len(parts), np.bool_)
        if given.repeated_paragraphs is not None:
            gone = given.repeated_paragraphs[lines] != 0
            changed = _removed(document, parts, gone, tally[PARAGRAPHS])
            if changed is None:
                return None
            document = changed
        if given.repeated_sentences is None:
            return document
        marks = given.repeated_sentences[ends] != 0
        counts = given.paragraphs[lines].astype(np.int64)
        left = [part for part, is_gone in zip(parts, gone, strict=True) if not is_gone]
        found = [sentence for part in left for sentence in sentences(part)]
        return _removed(document, found, marks[np.repeat(~gone, counts)], tally[SENTENCES])


def _removed(
    document: Document, parts: list[str], gone: NDArray[np.bool_], step: StepTally
) -> Document | None:
    """The document without the parts that go; counted."""
    text: str | None = without(parts, gone) if gone.any() else document.text
    assert text is not None
    if gone.any() and not text.strip():
        text = None
    step.passed(document.text, text)
    if gone.any():
        first = " ".join(parts[int(np.argmax(gone))][: 4 * _SHOWN].split())[:_SHOWN]
        words = "stood before" if text is not None else NOTHING_LEFT
        step.found(document.id, [Finding(words, first, int(gone.sum()))])
    return (
        None
        if text is None
        else document
        if text == document.text
        else replace(document, text=text)
    )


def _line_hash(line: bytes) -> int:
    """64 bits of a document and its id."""
    return int.from_bytes(hashlib.blake2b(line, digest_size=8).digest(), "little")
