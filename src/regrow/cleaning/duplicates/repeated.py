"""Which paragraphs and sentences stand in the corpus already, before the place where they stand.

What is removed at one place stays at an earlier one: at each place that is marked, the same
sentences stood before, and the first of all such places is not marked.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.duplicates.documents import Leaders
from regrow.cleaning.duplicates.spilled_pairs import MEMORY_PAIRS, SpilledPairs
from regrow.cleaning.parts import NOT_COMPARED
from regrow.cleaning.word_hashes import Hashes, mixed
from regrow.cleaning.work_files import flush, new_array
from regrow.common.progress import tell_part

_CHUNK = 1 << 14
"""Documents that are looked at once."""


class Parts(NamedTuple):
    """The parts of some consecutive documents.

    Attributes:
        stay: For each document, whether it stays.
        paragraphs: The number of the first paragraph, and the number after the last.
        sentences: The same for sentences.
        in_document: For each document, how many paragraphs and how many sentences it has.
    """

    stay: NDArray[np.bool_]
    paragraphs: tuple[int, int]
    sentences: tuple[int, int]
    in_document: tuple[NDArray[np.int64], NDArray[np.int64]]


def parts_of(records: NDArray[np.void], leaders: Leaders, chunk: int = _CHUNK) -> Iterator[Parts]:
    """The parts of all documents, some documents at a time."""
    paragraphs = sentences = 0
    for first in range(0, len(records), chunk):
        part = records[first : first + chunk]
        counts = part["paragraphs"].astype(np.int64), part["sentences"].astype(np.int64)
        ends = paragraphs + int(counts[0].sum()), sentences + int(counts[1].sum())
        stay = leaders[first : first + len(part)] == np.arange(first, first + len(part))
        yield Parts(stay, (paragraphs, ends[0]), (sentences, ends[1]), counts)
        paragraphs, sentences = ends


def mark_paragraphs(
    records: NDArray[np.void],
    leaders: Leaders,
    hashes: Hashes,
    out: Path,
    memory: int = MEMORY_PAIRS,
) -> None:
    """Write for each paragraph a byte: 1 if an earlier document or place has the same one.

    Args:
        records: of all documents.
        leaders: as `regrow.cleaning.duplicates.documents`.
        hashes: of all paragraphs.
        out: a new file.
        memory: pairs of numbers that are held in memory.
    """
    marks = new_array(out, np.uint8, len(hashes))
    with SpilledPairs(out.with_name("paragraphs-sorted"), memory=memory) as pairs:
        for parts in parts_of(records, leaders):
            begin, end = parts.paragraphs
            stay = np.repeat(parts.stay, parts.in_document[0])
            found = np.asarray(hashes[begin:end])
            at = np.flatnonzero(stay & (found != NOT_COMPARED))
            pairs.add(found[at], (at + begin).astype(np.uint64))
        for piece in pairs.sorted():
            tell_part("finding paragraphs", int(piece.keys[-1] >> np.uint64(56)), 256)
            marks[piece.values[piece.first != piece.values].astype(np.int64)] = 1
    tell_part("finding paragraphs", 1, 1)
    flush(marks)


def mark_sentences(
    records: NDArray[np.void],
    leaders: Leaders,
    paragraphs: tuple[NDArray[np.uint32], NDArray[np.uint8] | None],
    hashes: Hashes,
    run: int,
    out: Path,
    memory: int = MEMORY_PAIRS,
) -> None:
    """Write for each sentence a byte: 1 if it lies in a run of sentences that stood before.

    Args:
        records: of all documents.
        leaders: as `regrow.cleaning.duplicates.documents`.
        paragraphs: for each paragraph, how many sentences it has, and its mark; a run leaves out
            the sentences of paragraphs that are marked.
        hashes: of all sentences; a run leaves out those that are not compared.
        run: the number of consecutive sentences of one document that are compared.
        out: a new file.
        memory: pairs of numbers that are held in memory.
    """
    marks = new_array(out, np.uint8, len(hashes))
    counts, repeated = paragraphs
    # Runs are numbered by their first sentence among those that are compared. Where these stand
    # among all sentences is kept in a file, since a run may step over a marked paragraph.
    place = out.with_name("compared")
    with SpilledPairs(out.with_name("sentences-sorted"), memory=memory) as pairs:
        total = 0
        with place.open("wb") as file:
            for parts in parts_of(records, leaders):
                begin, end = parts.sentences
                all_found = np.asarray(hashes[begin:end])
                compared = np.repeat(parts.stay, parts.in_document[1])
                compared &= all_found != NOT_COMPARED
                if repeated is not None:
                    lines = slice(*parts.paragraphs)
                    compared &= np.repeat(repeated[lines] == 0, counts[lines])
                at = np.flatnonzero(compared)
                owners = np.repeat(np.arange(len(parts.stay)), parts.in_document[1])[at]
                file.write((at + begin).astype("<i8").data)
                starts = np.arange(max(0, len(at) - run + 1))
                starts = starts[owners[starts] == owners[starts + run - 1]]
                found = all_found[at]
                keys = np.zeros(len(starts), np.uint64)
                for step in range(run):
                    keys = mixed(keys * np.uint64(0x9E3779B97F4A7C15) + found[starts + step])
                pairs.add(keys, (starts + total).astype(np.uint64))
                total += len(at)
        if total:
            where = np.memmap(place, np.int64, "r")
            for piece in pairs.sorted():
                tell_part("finding sentences", int(piece.keys[-1] >> np.uint64(56)), 256)
                starts = piece.values[piece.first != piece.values].astype(np.int64)
                for step in range(run):
                    marks[where[starts + step]] = 1
    place.unlink()
    tell_part("finding sentences", 1, 1)
    flush(marks)
