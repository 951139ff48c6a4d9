"""The second pass: the documents that stay, without repeated parts."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning import clean_pass, worker
from regrow.cleaning.cleaner import PARAGRAPH, RECORD, document_from
from regrow.cleaning.config import Paragraphs
from regrow.cleaning.document import Finding
from regrow.cleaning.finisher import PARAGRAPHS, SENTENCES, Staying
from regrow.cleaning.job import CorpusJob
from regrow.cleaning.progress import StageProgress
from regrow.cleaning.tally import (
    EXAMPLES,
    ReasonTally,
    StepTally,
    Tally,
    add_tally,
    tally_from,
    tally_json,
)
from regrow.cleaning.work_files import GrowingFiles, read_array
from regrow.common.errors import UserError
from regrow.corpus import parallel
from regrow.corpus.parallel import Workers

EQUAL, SIMILAR = "equal documents", "similar documents"
LINES, RECORDS = "documents.jsonl", "records"
_CHECKPOINT = "unique.json"
_BLOCK_BYTES, _MOST_DOCUMENTS = 1 << 20, 1 << 12


@dataclass
class _Reached:
    """How far the documents of the first pass are read: documents, bytes, paragraphs, sentences."""

    documents: int = 0
    bytes: int = 0
    paragraphs: int = 0
    sentences: int = 0


@dataclass(frozen=True)
class Marked:
    """The documents of the first pass, and which of them and of their parts go.

    Attributes:
        directory: Of the first pass.
        leaders: The file of `regrow.cleaning.duplicates.documents`.
        paragraphs: The file of marks of paragraphs, if they are compared.
        sentences: The file of marks of sentences, if they are compared.
    """

    directory: Path
    leaders: Path
    paragraphs: Path | None
    sentences: Path | None


def names_of(job: CorpusJob) -> list[str]:
    """The names of what this pass does, in order."""
    wanted = job.config.duplicates
    chosen = {
        EQUAL: wanted.exact, SIMILAR: bool(wanted.near),
        PARAGRAPHS: isinstance(wanted.paragraphs, Paragraphs),
        SENTENCES: wanted.sentences is not None,
    }  # fmt: skip
    return [name for name, is_wanted in chosen.items() if is_wanted]


def removed_parts(job: CorpusJob) -> list[str]:
    """The names of the kinds of parts that are removed if they are repeated."""
    return [name for name in names_of(job) if name in (PARAGRAPHS, SENTENCES)]


def finish_documents(
    job: CorpusJob, marked: Marked, directory: Path, workers: Workers, progress: StageProgress
) -> Tally:
    """Write the documents that stay to a directory; go on where an earlier run was stopped.

    What was removed.
    """
    names = names_of(job)
    with GrowingFiles(directory, (LINES, RECORDS), _CHECKPOINT) as files:
        tally: Tally = {name: StepTally() for name in names}
        reached, done = _Reached(), False
        if files.facts:
            reached, done = _read_facts(files.facts, directory, tally)
        if done:
            return tally

        def save(*, finished: bool = False) -> None:
            facts = {"reached": asdict(reached), "done": finished, "tally": tally_json(tally)}
            files.save(facts)

        with (marked.directory / clean_pass.LINES).open("rb") as lines:
            reader = _Reader(marked, lines, names)
            tasks = reader.read(reached)
            for (after, dropped), found in parallel.in_order(worker.finish, tasks, workers, save):
                files.append(LINES, found.lines)
                files.append(RECORDS, found.records.tobytes())
                add_tally(tally, dropped)
                add_tally(tally, found.tally)
                reached = after
                progress.tell(reached.documents, reader.count)
        save(finished=True)
    return tally


class _Reader:
    """Reads the documents of the first pass in blocks, and leaves out those that go."""

    def __init__(self, marked: Marked, lines: BinaryIO, names: list[str]) -> None:
        self._lines, self._names = lines, names
        self._records = read_array(marked.directory / clean_pass.RECORDS, RECORD)
        self._leaders = read_array(marked.leaders, np.int64)
        self._parts = read_array(marked.directory / clean_pass.PARAGRAPHS, PARAGRAPH)
        self._marks = [
            None if path is None else read_array(path, np.uint8)
            for path in (marked.paragraphs, marked.sentences)
        ]
        self._shown = dict.fromkeys(names, 0)

    @property
    def count(self) -> int:
        """All documents."""
        return len(self._records)

    def read(self, start: _Reached) -> Iterator[tuple[tuple[_Reached, Tally], Staying]]:
        """Blocks of documents that stay; each with where the next begins, and what was dropped."""
        reached = start
        while reached.documents < self.count:
            part = self._records[reached.documents : reached.documents + _MOST_DOCUMENTS]
            ends = np.cumsum(part["bytes"].astype(np.int64))
            part = part[: 1 + int(np.searchsorted(ends, _BLOCK_BYTES))]
            sums = [
                int(part[name].astype(np.int64).sum())
                for name in ("bytes", "paragraphs", "sentences")
            ]
            after = _Reached(
                reached.documents + len(part), reached.bytes + sums[0],
                reached.paragraphs + sums[1], reached.sentences + sums[2],
            )  # fmt: skip
            self._lines.seek(reached.bytes)
            lines = [self._lines.read(size) for size in part["bytes"].tolist()]
            first, last = reached.documents, after.documents
            direct = np.asarray(self._leaders[first:last])
            equal = (part["exact"] == self._records["exact"][direct]).all(axis=1)
            leaders = np.asarray(self._leaders[direct])  # of an equal document that is similar
            stay = leaders == np.arange(first, last)
            dropped = self._dropped(part, lines, leaders, equal, first)
            yield (after, dropped), self._staying(part, lines, stay, reached, after)
            reached = after

    def _staying(
        self, part: NDArray[np.void], lines: list[bytes], stay: NDArray[np.bool_],
        reached: _Reached, after: _Reached,
    ) -> Staying:  # fmt: skip
        paragraphs = self._parts[reached.paragraphs : after.paragraphs]["sentences"]
        in_paragraphs = np.repeat(stay, part["paragraphs"])
        in_sentences = np.repeat(stay, part["sentences"])
        by_line, by_sentence = self._marks
        return Staying(
            tuple(line for line, stays in zip(lines, stay, strict=True) if stays),
            part[stay],
            paragraphs[in_paragraphs],
            None if by_line is None
            else by_line[reached.paragraphs : after.paragraphs][in_paragraphs],
            None if by_sentence is None
            else by_sentence[reached.sentences : after.sentences][in_sentences],
        )  # fmt: skip

    def _dropped(
        self, part: NDArray[np.void], lines: list[bytes], leaders: NDArray[np.int64],
        equal: NDArray[np.bool_], first: int,
    ) -> Tally:  # fmt: skip
        """Count the documents of a block that go; the reasons name the documents that stay.

        `equal`: whether a document is equal to an earlier one, or is the first.
        """
        tally: Tally = {name: StepTally() for name in self._names if name in (EQUAL, SIMILAR)}
        goes = leaders != np.arange(first, first + len(part))
        left = np.ones(len(part), np.bool_)
        for name, step in tally.items():
            gone = left & goes & (equal if name == EQUAL else True)
            step.read = int(left.sum())
            step.dropped = int(gone.sum())
            step.characters_read = int(part["characters"][left].sum())
            left &= ~gone
            step.characters_kept = int(part["characters"][left].sum())
            for number in np.flatnonzero(gone).tolist():
                self._explain(name, step, lines[number], int(leaders[number]))
        return tally

    def _explain(self, name: str, step: StepTally, line: bytes, leader: int) -> None:
        """Count a document that goes; the first ones are examples, with the one that stays."""
        reason = "stands before"
        self._shown[name] += 1
        if self._shown[name] > EXAMPLES:
            found = step.reasons.setdefault(reason, ReasonTally())
            found.documents += 1
            found.count += 1
            return
        place = self._lines.tell()
        self._lines.seek(int(self._records["bytes"][:leader].astype(np.int64).sum()))
        earlier = document_from(self._lines.readline())
        self._lines.seek(place)
        step.found(document_from(line).id, [Finding(reason, f"as {earlier.id}")])


def _read_facts(facts: dict[str, Any], directory: Path, tally: Tally) -> tuple[_Reached, bool]:
    try:
        add_tally(tally, tally_from(facts["tally"]))
        return _Reached(**facts["reached"]), bool(facts["done"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{directory / _CHECKPOINT}: damaged; delete {directory.parent} to begin anew"
        ) from None
