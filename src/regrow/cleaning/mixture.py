"""How often each document is taken, so that the sources have their shares and the corpus its size.

Of a source that is to be taken 2.3 times, all documents are taken twice, and some a third time.
Which ones is decided by a hash of their text, so the choice stays nearly the same if the corpus
grows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.config import CorpusConfig

Unit = Literal["characters", "tokens", "documents"]
_BINS = 16
_CHUNK = 1 << 18
MANY_TIMES = 4.0
"""Text that is repeated more often helps a model little (Muennighoff et al. 2023, section 6)."""


@dataclass(frozen=True)
class MixtureRow:
    """How much of a source is there, and is taken.

    Attributes:
        source: Its name.
        documents: Its documents after all steps.
        have: What there is of it, in the unit of the mixture.
        share: The share of the corpus that it is to have; None if sources have no shares.
        want: How much of it is to be taken.
        taken: How much is taken: as near to this as whole documents can be.
    """

    source: str
    documents: int
    have: int
    share: float | None
    want: int
    taken: int

    @property
    def times(self) -> float:
        """How often the source is taken, on average of its text."""
        return self.taken / self.have if self.have else 0.0


@dataclass(frozen=True)
class Mixture:
    """How often documents are taken.

    Attributes:
        unit: What sizes and shares are counted in.
        rows: For each source.
        whole: For each source, how often all its documents are taken.
        cuts: For each source, documents whose key is below are taken once more.
        notes: What the user should know.
    """

    unit: Unit
    rows: tuple[MixtureRow, ...]
    whole: tuple[int, ...]
    cuts: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def copies(self, records: NDArray[np.void]) -> NDArray[np.int64]:
        """How often each document is taken; `records`: as `regrow.cleaning.finisher.UNIQUE`."""
        sources = records["source"]
        cuts = np.array(self.cuts, np.uint64)[sources]
        whole = np.array(self.whole, np.int64)[sources]
        copies: NDArray[np.int64] = whole + (records["key"] < cuts)
        return copies

    def taken(self, records: NDArray[np.void]) -> list[int]:
        """How much of each source is taken, in the unit; `records`: of all documents."""
        found = np.zeros(len(self.whole), np.int64)
        for part in _chunks(records):
            amounts = self.copies(part) * _weights(part, self.unit)
            found += np.bincount(part["source"], amounts, minlength=len(found)).astype(np.int64)
        return found.tolist()

    @property
    def rounds(self) -> int:
        """How often the documents that are taken most often are taken."""
        return max((w + (cut > 0) for w, cut in zip(self.whole, self.cuts, strict=True)), default=0)


def unit_of(config: CorpusConfig) -> Unit:
    """What the sizes and shares of a configuration are counted in."""
    if config.documents is not None:
        return "documents"
    if config.tokens is not None:
        return "tokens"
    if config.characters is None and config.has_shares and config.tokenise is not None:
        return "tokens"
    return "characters"


def mix(config: CorpusConfig, records: NDArray[np.void]) -> Mixture:
    """Decide how often documents are taken.

    Without a size, the corpus is the largest in which nothing is repeated. Without shares, nothing
    is repeated either.

    `records`: of all documents, as `regrow.cleaning.finisher.UNIQUE`.
    """
    unit = unit_of(config)
    count = len(config.sources)
    documents, amounts = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for part in _chunks(records):
        documents += np.bincount(part["source"], minlength=count)
        amounts += np.bincount(part["source"], _weights(part, unit), minlength=count).astype(
            np.int64
        )
    have: list[int] = amounts.tolist()
    size = config.tokens or config.characters or config.documents
    wanted, notes = _wanted(config, have, size)
    whole = [want // amount if amount else 0 for want, amount in zip(wanted, have, strict=True)]
    rest = [want - full * amount for want, full, amount in zip(wanted, whole, have, strict=True)]
    cuts = [_cut(records, n, unit, left) if left else 0 for n, left in enumerate(rest)]
    unnamed = Mixture(unit, (), tuple(whole), tuple(cuts))
    columns = zip(
        config.sources, documents.tolist(), have, wanted, unnamed.taken(records), strict=True
    )
    rows = tuple(
        MixtureRow(source.name, count, amount, source.share, want, taken)
        for source, count, amount, want, taken in columns
    )
    notes += [
        f"each document of {row.source} stands {row.times:.1f} times in the corpus; more than "
        f"{MANY_TIMES:.0f} times help a model little"
        for row in rows
        if row.times > MANY_TIMES
    ]
    return replace(unnamed, rows=rows, notes=tuple(notes))


def _wanted(
    config: CorpusConfig, have: Sequence[int], size: int | None
) -> tuple[list[int], list[str]]:
    """How much of each source is to be taken, and notes."""
    total, notes = sum(have), list[str]()
    if not config.has_shares:
        if size is None or size >= total:
            if size is not None and size > total:
                notes.append(
                    f"the corpus has {total:,} {unit_of(config)} in all, fewer than the "
                    f"{size:,} that were asked for"
                )
            return [*have], notes
        return _apportioned(size, [amount / total for amount in have]), notes
    shares = [source.share or 0.0 for source in config.sources]
    empty = [s.name for s, amount in zip(config.sources, have, strict=True) if amount == 0]
    if empty:
        notes.append(
            f"nothing is left of {', '.join(empty)}; the other sources share the corpus in their "
            "proportions"
        )
        shares = [share if amount else 0.0 for share, amount in zip(shares, have, strict=True)]
    whole = sum(shares)
    if not whole:
        return [0 for _ in have], notes
    shares = [share / whole for share in shares]
    if size is None:
        scarce = min(
            range(len(have)), key=lambda n: have[n] / shares[n] if shares[n] else float("inf")
        )
        fitting = have[scarce] / shares[scarce]
        return [
            have[n] if n == scarce else min(have[n], round(fitting * share))
            for n, share in enumerate(shares)
        ], notes
    return _apportioned(size, shares), notes


def _apportioned(size: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in these proportions that add up to the size: what rounding down leaves goes
    to the largest remainders."""
    parts = [math.floor(size * share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda n: parts[n] - size * shares[n])
    for number in by_remainder[: size - sum(parts)]:
        parts[number] += 1
    return parts


def _weights(records: NDArray[np.void], unit: Unit) -> NDArray[np.int64]:
    if unit == "documents":
        return np.ones(len(records), np.int64)
    return np.asarray(records[unit], np.int64)


def _cut(records: NDArray[np.void], source: int, unit: Unit, wanted: int) -> int:
    """The key below which the documents of a source have the wanted size, as nearly as they can.

    The keys are first counted by their first bits, so that few have to be sorted.
    """
    shift = np.uint64(64 - _BINS)
    sizes = np.zeros(1 << _BINS, np.int64)
    for part in _chunks(records):
        mine = part[part["source"] == source]
        bins = (mine["key"] >> shift).astype(np.int64)
        sizes += np.bincount(bins, _weights(mine, unit), minlength=len(sizes)).astype(np.int64)
    ends = np.cumsum(sizes)
    place = int(np.searchsorted(ends, wanted))
    if place >= len(ends):
        return (1 << 64) - 1
    left = wanted - (int(ends[place - 1]) if place else 0)
    inside = [
        part[(part["source"] == source) & ((part["key"] >> shift) == np.uint64(place))]
        for part in _chunks(records)
    ]
    last = np.concatenate(inside)
    last = last[np.argsort(last["key"], kind="stable")]
    sums = np.cumsum(_weights(last, unit))
    taken = int(np.argmin(np.abs(np.concatenate([[0], sums]) - left)))
    if taken < len(last):
        return int(last["key"][taken])
    return min((place + 1) << (64 - _BINS), (1 << 64) - 1)


def _chunks(records: NDArray[np.void]) -> "list[NDArray[np.void]]":
    return [records[first : first + _CHUNK] for first in range(0, len(records), _CHUNK)]
