"""Documents that hold questions of benchmarks.

Each text in the files with the questions is looked for: by all its n-grams, or as a whole if it is
shorter. Very short texts, such as an answer of one word, are not looked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.config import Contamination
from regrow.cleaning.question_files import question_files, texts_of
from regrow.cleaning.word_hashes import PIECE, Hashes, Runs, Words, normalised, words_of
from regrow.common.errors import UserError

LEAST_WORDS, LEAST_CHARACTERS = 8, 15
"""Shorter texts are not looked for; the second in scripts without spaces."""
_TABLE_BITS = 24
_SHOWN = 80


class Question(NamedTuple):
    """A text of a benchmark: where it stands, and how it begins."""

    where: str
    text: str


class Hit(NamedTuple):
    """A document that holds a question, or a part of one.

    Attributes:
        document: Its id.
        question: Where the question stands: file and number.
        text: How the question begins.
        ngrams: How many n-grams of questions the document holds.
    """

    document: str
    question: str
    text: str
    ngrams: int


@dataclass(frozen=True)
class _Entries:
    """Runs that are found by their first `size` words.

    Attributes:
        size: The number of these words.
        first: Their hashes, sorted.
        length: The words of each run.
        whole: The hash of each run.
        question: The number of its question.
    """

    size: int
    first: Hashes
    length: NDArray[np.int64]
    whole: Hashes
    question: NDArray[np.int64]


@dataclass(frozen=True)
class QuestionIndex:
    """What to look for.

    Attributes:
        entries: Runs of words, by the number of words by which they are found.
        table: Whether a run begins with a hash of these first bits. Most words fail this test.
        questions: All questions.
        too_short: How many texts are not looked for.
        files: How many files were read.
        left_out: Files of the directories that were not read.
    """

    entries: tuple[_Entries, ...]
    table: NDArray[np.bool_]
    questions: tuple[Question, ...]
    too_short: int
    files: int
    left_out: int

    @property
    def summary(self) -> str:
        """What was read, in a sentence."""
        found = (
            f"Benchmark questions: {self.files:,} files read, {len(self.questions):,} texts "
            f"looked for, {self.too_short:,} too short to be looked for"
        )
        return found + (f"; {self.left_out:,} other files not read." if self.left_out else ".")

    def find(self, document: str, pieces: Sequence[Hashes]) -> Hit | None:
        """The first question, in the order of the files, of which a document holds a run.

        `pieces`: the words of the document (`word_pieces`).
        """
        found: set[int] = set()
        questions: list[int] = []
        for words in pieces:
            runs = Runs(words)
            for entries in self.entries:
                hashes = runs.of_length(entries.size)
                for at in np.flatnonzero(self.table[_place(hashes)]).tolist():
                    key = hashes[at]
                    begin, end = np.searchsorted(entries.first, [key, key + np.uint64(1)])
                    for number in range(int(begin), int(end)):
                        whole = int(entries.whole[number])
                        if runs.at(at, int(entries.length[number])) == whole:
                            found.add(whole)
                            questions.append(int(entries.question[number]))
        if not questions:
            return None
        where, shown = self.questions[min(questions)]
        return Hit(document, where, shown, len(found))


def read_questions(wanted: Contamination) -> QuestionIndex:
    """Read the files with the questions.

    Raises UserError if a file is missing or cannot be read, or there is no question in them.
    """
    questions: list[Question] = []
    entries: dict[int, list[_Entries]] = {}
    too_short = 0
    seen: set[bytes] = set()
    files, left_out = question_files(wanted.against)
    for path in files:
        for where, text in texts_of(path):
            words = words_of(normalised(text[:PIECE]))
            sizes = _sizes(words, text, wanted)
            key = words.hashes.tobytes()
            if sizes is None or key in seen:
                too_short += sizes is None
                continue
            seen.add(key)
            least, size = sizes
            found = _entries(words.hashes, least, size, len(questions))
            entries.setdefault(least, []).append(found)
            questions.append(Question(where, " ".join(text[: 4 * _SHOWN].split())[:_SHOWN]))
    if not questions:
        raise UserError(
            f"no text of at least {LEAST_WORDS} words, or {LEAST_CHARACTERS} Chinese characters, "
            "in the files", key="contamination.against",
        )  # fmt: skip
    table = np.zeros(1 << _TABLE_BITS, np.bool_)
    made = tuple(_sorted(least, entries[least]) for least in sorted(entries))
    for each in made:
        table[_place(each.first)] = True
    return QuestionIndex(made, table, tuple(questions), too_short, len(files), left_out)


def _entries(words: Hashes, least: int, size: int, question: int) -> _Entries:
    """The n-grams of a question; all of it if it is shorter than an n-gram."""
    length, runs = min(size, len(words)), Runs(words)
    whole = runs.of_length(length)
    count = len(whole)
    return _Entries(
        least, runs.of_length(least)[:count], np.full(count, length), whole,
        np.full(count, question),
    )  # fmt: skip


def _sorted(size: int, found: list[_Entries]) -> _Entries:
    """All entries together, sorted; an n-gram of several questions belongs to the first."""
    first, length, whole, question = (
        np.concatenate([getattr(each, name) for each in found])
        for name in ("first", "length", "whole", "question")
    )
    order = np.lexsort((question, whole, first))
    same = np.zeros(len(order), np.bool_)
    same[1:] = (first[order[1:]] == first[order[:-1]]) & (whole[order[1:]] == whole[order[:-1]])
    order = order[~same]
    return _Entries(size, first[order], length[order], whole[order], question[order])


def _sizes(words: Words, text: str, wanted: Contamination) -> tuple[int, int] | None:
    """The words by which runs of a question are found, and those of an n-gram.

    None if the question is too short, or has too few letters: it may be a formula or an address.
    """
    alone = 2 * int(words.alone.sum()) > len(words.alone)
    least, size = (
        (LEAST_CHARACTERS, wanted.ngram_characters) if alone else (LEAST_WORDS, wanted.ngram)
    )
    least = min(least, size)
    letters = sum(map(str.isalpha, text))
    return (
        None
        if len(words.hashes) < least or letters < (1 if alone else 2) * least
        else (least, size)
    )


def _place(hashes: Hashes) -> NDArray[np.int64]:
    return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
