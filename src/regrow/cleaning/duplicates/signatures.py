"""MinHash signatures of documents, and the buckets in which near-duplicates meet."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from regrow.cleaning.word_hashes import Hashes, mixed, ngrams
from regrow.common.errors import UserError

HASHES = 128
"""Numbers of 32 bits in a signature."""
_SEED = 1
_RECALL = 0.95
Signatures = NDArray[np.uint32]
EMPTY = np.iinfo(np.uint32).max
"""All numbers of the signature of a text without words."""


class Bands(NamedTuple):
    """Two documents meet in a bucket if all `rows` numbers of one of `bands` bands are equal."""

    bands: int
    rows: int


def check_rensa() -> None:
    """Raise UserError if the package that computes signatures is missing."""
    try:
        import rensa  # noqa: F401
    except ImportError:
        raise UserError(
            "rensa finds near-duplicates and is not installed; pip install 'regrow[clean]', or set "
            "near: false", key="duplicates.near",
        ) from None  # fmt: skip


def signatures_of(texts: Sequence[Sequence[Hashes]], ngram: int) -> Signatures:
    """The signatures of some texts, given as pieces of words: shape (texts, 128).

    A number of a signature is the smallest hash, by one of 128 hash functions, of the n-grams of a
    text (Broder 1997). The share of equal numbers of two signatures estimates which share of the
    n-grams of both texts they have in common.
    """
    flat, ends, owners = [], [0], []
    for number, text in enumerate(texts):
        for words in text:
            hashes = ngrams(words, ngram)
            flat.append(hashes)
            ends.append(ends[-1] + len(hashes))
            owners.append(number)
    if not owners:
        return np.empty((0, HASHES), np.uint32)
    from rensa import RMinHash

    found = RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(flat), np.array(ends, dtype=np.uint64), HASHES, _SEED
    )
    rows = np.array(found.to_rows(), dtype=np.uint32)
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    result: Signatures = np.minimum.reduceat(rows, first, axis=0)
    return result


def bands_for(threshold: float) -> Bands:
    """The most rows in a band with which 95% of the pairs at the threshold meet in a bucket."""
    for rows in range(HASHES, 0, -1):
        bands = HASHES // rows
        if 1 - (1 - threshold**rows) ** bands >= _RECALL:
            return Bands(bands, rows)
    return Bands(HASHES, 1)


def bucket_keys(signatures: Signatures, bands: Bands) -> Hashes:
    """The bucket of each document in each band: shape (documents, bands)."""
    used = signatures[:, : bands.bands * bands.rows].astype(np.uint64)
    parts = used.reshape(len(signatures), bands.bands, bands.rows)
    keys = np.broadcast_to(
        np.arange(1, bands.bands + 1, dtype=np.uint64), (len(signatures), bands.bands)
    )
    for row in range(bands.rows):
        keys = mixed(keys * np.uint64(0x9E3779B97F4A7C15) + parts[:, :, row])
    return keys


def similarity(first: Signatures, second: Signatures) -> NDArray[np.float64]:
    """The estimated similarity of the documents of two arrays, row by row."""
    result: NDArray[np.float64] = (first == second).mean(axis=1)
    return result
