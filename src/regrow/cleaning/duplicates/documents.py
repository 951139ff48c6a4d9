"""Which documents are equal, or nearly equal, to an earlier one that stays.

The earlier one in the order of the sources stays, so the result does not depend on how the work is
divided. Of near-duplicates, a document goes only if it is itself similar to one that stays: it is
not enough that both are similar to a third.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.config import Duplicates, Near
from regrow.cleaning.duplicates.signatures import (
    EMPTY,
    HASHES,
    Signatures,
    bands_for,
    bucket_keys,
    similarity,
)
from regrow.cleaning.duplicates.spilled_pairs import MEMORY_PAIRS, Sorted, SpilledPairs
from regrow.cleaning.word_hashes import Hashes
from regrow.cleaning.work_files import flush, new_array
from regrow.common.progress import tell_part

_CHUNK = 1 << 15
"""Documents that are looked at once."""

_NEIGHBOURS = 4
"""Documents of a bucket before each that it is compared with."""

Leaders = NDArray[np.int64]
"""For each document, the number of the one that stays in its place; its own if it stays."""


def find_leaders(
    records: NDArray[np.void],
    signatures: Path,
    wanted: Duplicates,
    out: Path,
    memory: int = MEMORY_PAIRS,
) -> None:
    """Write the leaders of all documents as the file `out` of int64.

    Args:
        records: as `regrow.cleaning.cleaner.RECORD`, in the order of the sources.
        signatures: the file of their signatures.
        wanted: which duplicates are searched.
        out: a new file; directories beside it hold what is sorted.
        memory: pairs of numbers that are held in memory.
    """
    leaders = new_array(out, np.int64, len(records))
    for first in range(0, len(records), _CHUNK):
        last = min(first + _CHUNK, len(records))
        leaders[first:last] = np.arange(first, last)
    if wanted.exact:
        _find_exact(records, leaders, out.with_name("equal"), memory)
    if isinstance(wanted.near, Near) and len(records):
        rows = np.memmap(signatures, np.uint32, "r").reshape(-1, HASHES)
        _find_near(rows, leaders, wanted.near.threshold, out, memory)
    flush(leaders)


def _find_exact(records: NDArray[np.void], leaders: Leaders, place: Path, memory: int) -> None:
    with SpilledPairs(place, memory=memory) as pairs:
        for first in range(0, len(records), _CHUNK):
            part = records[first : first + _CHUNK]
            pairs.add(part["exact"][:, 0], np.arange(first, first + len(part), dtype=np.uint64))
        for found in pairs.sorted():
            tell_part("finding equal documents", int(found.keys[-1] >> np.uint64(56)), 256)
            at = np.flatnonzero(found.first != found.values)
            later, earlier = found.values[at], found.first[at]
            same = records["exact"][later, 1] == records["exact"][earlier, 1]
            leaders[later[same]] = earlier[same]
    tell_part("finding equal documents", 1, 1)


def _find_near(
    signatures: Signatures, leaders: Leaders, threshold: float, out: Path, memory: int
) -> None:
    bands = bands_for(threshold)
    count = len(leaders)
    bits, least = max(1, count.bit_length()), (_NEIGHBOURS + 2) * HASHES  # of one document
    with SpilledPairs(out.with_name("meetings"), bits, max(memory, least)) as meetings:
        with SpilledPairs(out.with_name("buckets"), memory=memory) as buckets:
            for first in range(0, count, _CHUNK):
                tell_part("comparing documents", first, count)
                rows = np.asarray(signatures[first : first + _CHUNK])
                numbers = np.arange(first, first + len(rows))
                stay = (leaders[first : first + _CHUNK] == numbers) & (rows != EMPTY).any(axis=1)
                keys = bucket_keys(rows[stay], bands)
                buckets.add(keys.ravel(), np.repeat(numbers[stay].astype(np.uint64), bands.bands))
            for found in buckets.sorted():
                tell_part("sorting similar documents", int(found.keys[-1] >> np.uint64(56)), 256)
                for later, earlier in _neighbours(found):
                    meetings.add(later, earlier)
        for document, like in _similar(meetings, signatures, threshold):
            _lead(document, like, leaders, signatures, threshold)
    tell_part("comparing documents", 1, 1)


def _neighbours(found: Sorted) -> Iterator[tuple[Hashes, Hashes]]:
    """Pairs of a later and an earlier document of a bucket.

    A document meets the first of its bucket and some before it. So the work grows with the number
    of documents, also if a bucket holds many that are not similar.
    """
    for earlier in (found.first, found.before):
        at = np.flatnonzero(earlier != found.values)
        yield found.values[at], earlier[at]
    for shift in range(2, _NEIGHBOURS + 1):
        at = np.flatnonzero(found.keys[shift:] == found.keys[:-shift])
        yield found.values[at + shift], found.values[at]


def _similar(
    meetings: SpilledPairs, signatures: Signatures, threshold: float
) -> Iterator[tuple[int, int]]:
    """The pairs of a later and an earlier document that are similar, in the order of the later."""
    for found in meetings.sorted():
        pairs = np.unique(np.stack([found.keys, found.values], axis=1), axis=0).astype(np.int64)
        for first in range(0, len(pairs), _CHUNK):
            later, earlier = pairs[first : first + _CHUNK].T
            near = similarity(signatures[later], signatures[earlier]) >= threshold
            yield from zip(later[near].tolist(), earlier[near].tolist(), strict=True)


def _lead(
    later: int, earlier: int, leaders: Leaders, signatures: Signatures, threshold: float
) -> None:
    """Put a document that stays in the place of the later one of two similar documents."""
    if leaders[later] != later:
        return
    leader = int(leaders[earlier])
    if leader != earlier:
        near = similarity(signatures[[later]], signatures[[leader]])[0]
        if near < threshold:
            return
    leaders[later] = leader
