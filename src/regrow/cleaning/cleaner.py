"""What the worker processes do with a block of raw text: clean it, and take its fingerprints."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.code import lines_with_code
from regrow.cleaning.config import CorpusConfig, Near, Paragraphs
from regrow.cleaning.contamination import Hit, QuestionIndex
from regrow.cleaning.document import Document, Finding, Step
from regrow.cleaning.duplicates.signatures import signatures_of
from regrow.cleaning.parts import NOT_COMPARED, paragraphs, part_hash, text_hash
from regrow.cleaning.reading.blocks import TOO_LONG, Problem, RawBlock
from regrow.cleaning.reading.records import documents_in
from regrow.cleaning.scripts import sentences
from regrow.cleaning.tally import StepTally, Tally
from regrow.cleaning.word_hashes import Hashes, normalised, word_pieces
from regrow.corpus.text import LONGEST

READ, CONTAMINATION = "read", "benchmark questions"
_LONGEST_EXAMPLE = 200
_HALF_PAIR = re.compile("[\ud800-\udfff]")
RECORD = np.dtype(
    [
        ("bytes", "<u8"), ("characters", "<u8"), ("exact", "<u8", (2,)), ("source", "<u4"),
        ("paragraphs", "<u4"), ("sentences", "<u4"),
    ]
)  # fmt: skip
"""A cleaned document: the bytes of its line, and how many parts it has."""
PARAGRAPH = np.dtype([("hash", "<u8"), ("sentences", "<u4")])


@dataclass(frozen=True)
class Cleaned:
    """A block after all steps.

    Attributes:
        lines: Its documents, a line of JSON each.
        records: What is known of each document (`RECORD`).
        signatures: Their signatures; no rows if near-duplicates are not searched.
        paragraphs: Their paragraphs (`PARAGRAPH`); none if no parts are compared.
        sentences: The hashes of their sentences.
        hits: Documents that were dropped since they hold questions of benchmarks.
        tally: What the steps did.
    """

    lines: bytes
    records: NDArray[np.void]
    signatures: NDArray[np.uint32]
    paragraphs: NDArray[np.void]
    sentences: NDArray[np.uint64]
    hits: tuple[Hit, ...]
    tally: Tally


class _Compared(NamedTuple):
    """A document, its normalised text, and the words of the text in pieces."""

    document: Document
    text: str
    words: list[Hashes]


class Cleaner:
    """The steps of a configuration, with what they need. Each process has one."""

    def __init__(self, config: CorpusConfig, questions: QuestionIndex | None) -> None:
        self._config, self._questions = config, questions
        self._steps: tuple[Step, ...] = config.steps
        near, by_line = config.duplicates.near, config.duplicates.paragraphs
        self._ngram = near.ngram if isinstance(near, Near) else None
        self._least = by_line.least if isinstance(by_line, Paragraphs) else None
        self._sentences = config.duplicates.sentences is not None

    def clean(self, block: RawBlock) -> Cleaned:
        """Do all steps with the documents of a block."""
        tally: Tally = {name: StepTally() for name in step_names(self._config)}
        hits: list[Hit] = []
        kept: list[_Compared] = []
        for document in self._documents(block, tally):
            text = normalised(document.text)
            wanted = self._ngram is not None or self._questions is not None
            found = _Compared(document, text, word_pieces(text) if wanted else [])
            if not self._is_contaminated(found, tally, hits):
                kept.append(found)
        return self._with_fingerprints(block, kept, tuple(hits), tally)

    def _documents(self, block: RawBlock, tally: Tally) -> Iterator[Document]:
        """The documents of a block that stay after the steps."""
        source = self._config.sources[block.input.source].name
        for problem in block.problems:
            _count_problem(tally[READ], problem)
        for found in documents_in(block, source):
            if isinstance(found, Problem):
                tally[READ].passed(None, None)
                _count_problem(tally[READ], found)
                continue
            written = _that_utf8_can_write(found, tally[READ])
            if _is_too_long(written):
                tally[READ].passed(None, None)
                _count_problem(tally[READ], Problem(TOO_LONG, written.id))
                continue
            tally[READ].passed(found.text, found.text)
            document: Document | None = written
            for step in self._steps:
                assert document is not None
                outcome = step.apply(document)
                after = None if outcome.document is None else outcome.document.text
                tally[step.name].passed(document.text, after)
                tally[step.name].found(document.id, outcome.findings)
                document = outcome.document
                if document is None:
                    break
            if document is not None:
                yield document

    def _is_contaminated(self, found: _Compared, tally: Tally, hits: list[Hit]) -> bool:
        """Whether a document holds a question."""
        if self._questions is None:
            return False
        document = found.document
        hit = self._questions.find(document.id, found.words)
        tally[CONTAMINATION].passed(document.text, None if hit else document.text)
        if hit is not None:
            hits.append(hit)
            why = Finding(hit.question.rpartition(":")[0], hit.text)
            tally[CONTAMINATION].found(document.id, [why])
        return hit is not None

    def _with_fingerprints(
        self, block: RawBlock, kept: list[_Compared], hits: tuple[Hit, ...], tally: Tally
    ) -> Cleaned:
        records = np.zeros(len(kept), RECORD)
        lines: list[bytes] = []
        parts: list[tuple[int, int]] = []
        sentence_hashes: list[int] = []
        for number, (document, text, _) in enumerate(kept):
            lines.append(document_line(document))
            before = len(parts), len(sentence_hashes)
            if self._least is not None or self._sentences:
                for paragraph, is_code in _paragraphs_with_code(document.text):
                    found = [*sentences(paragraph)] if self._sentences else []
                    whole = NOT_COMPARED if is_code else part_hash(paragraph, self._least or 1)
                    parts.append((whole, len(found)))
                    sentence_hashes += [
                        NOT_COMPARED if is_code else part_hash(sentence) for sentence in found
                    ]
            records[number] = (
                len(lines[-1]), len(document.text), text_hash(text), block.input.source,
                len(parts) - before[0], len(sentence_hashes) - before[1],
            )  # fmt: skip
        texts = [] if self._ngram is None else [words for *_, words in kept]
        return Cleaned(
            b"".join(lines), records, signatures_of(texts, self._ngram or 1),
            np.array(parts, PARAGRAPH), np.array(sentence_hashes, np.uint64), hits, tally,
        )  # fmt: skip


def _paragraphs_with_code(text: str) -> Iterator[tuple[str, bool]]:
    """The paragraphs of a text, each with whether its line is code."""
    marks = (is_code for line, is_code in lines_with_code(text) if line.strip())
    found = paragraphs(text)
    return zip(found, marks, strict=True) if text.strip() else ((part, False) for part in found)


def step_names(config: CorpusConfig) -> list[str]:
    """The names of what is done with each document by itself, in order."""
    names = [READ, *(step.name for step in config.steps)]
    return [*names, CONTAMINATION] if config.contamination else names


def document_line(document: Document) -> bytes:
    """A document as a line of JSON."""
    values = {"text": document.text, "id": document.id, "source": document.source}
    if document.facts:
        values["facts"] = dict(document.facts)  # type: ignore[assignment]
    return (json.dumps(values, ensure_ascii=False) + "\n").encode()


_MOST_ESCAPED = 6
"""The most bytes of a character in JSON, as of a control character."""


def _is_too_long(document: Document) -> bool:
    """Whether the line of a document is longer than what is read as one document."""
    most = _MOST_ESCAPED * len(document.text)  # half the line is left for id and facts
    return most > LONGEST // 2 and len(document_line(document)) > LONGEST


def document_from(line: bytes) -> Document:
    """The document that `document_line` wrote."""
    values = json.loads(line)
    return Document(values["text"], values["id"], values["source"], values.get("facts", {}))


def _that_utf8_can_write(document: Document, step: StepTally) -> Document:
    """The document with U+FFFD in place of lone halves of surrogate pairs; counted."""
    try:
        document.text.encode()
    except UnicodeEncodeError:
        text, count = _HALF_PAIR.subn("\ufffd", document.text)
        step.found(document.id, [Finding("half a surrogate pair", "\ufffd", count)])
        return replace(document, text=text)
    return document


def _count_problem(step: StepTally, problem: Problem) -> None:
    words = (
        problem.where
        if len(problem.where) <= _LONGEST_EXAMPLE
        else "…" + problem.where[-_LONGEST_EXAMPLE:]
    )
    step.found(words, [Finding(problem.reason, "")])
