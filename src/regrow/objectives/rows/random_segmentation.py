"""Random segmentation: divides many texts at once into segments of random lengths.

Every random bit is a pure function of (seed, purpose, number of the sample), so the batch that a
sample is in does not change it. The generator is SplitMix64 (Steele, Lea and Flood 2014, "Fast
splittable pseudorandom number generators"), with one sequence for each sample, computed for all
samples at once. This takes some ten NumPy operations, where Philox takes a hundred.
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Bits = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def sample_keys(seed: int, purpose: str, samples: Ids) -> Bits:
    """The key of each sample's random sequence for this purpose, [samples]."""
    return random_bits(_stream(seed, purpose), samples)


@lru_cache(maxsize=256)
def _stream(seed: int, purpose: str) -> np.uint64:
    digest = hashlib.sha256(f"{purpose}\0{seed}".encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def random_bits(keys: Bits | np.uint64, numbers: Ids) -> Bits:
    """64 random bits each: entry `numbers[i]` of the sequence with key `keys[i]`.

    `keys` and `numbers` have the same shape, or there is one key for all numbers.
    """
    z = numbers.astype(np.uint64)
    z += np.uint64(1)
    z *= _GOLDEN
    z += keys
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def segment_lengths(keys: Bits, totals: Ids, segments: Ids) -> Ids:
    """Divides each total into segments; every division has the same probability.

    A division is a set of `segments - 1` cuts among `totals - 1` positions. The cuts are the first
    distinct positions in the random sequence of the row, two positions for each 64 bits. If more
    than half of the positions are cuts, the positions without a cut are drawn instead. The
    probabilities of two positions differ by at most a factor of 1 + positions / 2**32.

    Args:
        keys: As `sample_keys` gives them, [rows].
        totals: The length of each row, [rows].
        segments: The number of segments of each row, from 1 to its total, [rows].

    Returns:
        The lengths of the segments, each at least 1, row after row, [sum of segments].
    """
    ends = np.cumsum(totals)
    size = int(ends[-1])
    begins = ends - totals
    places = totals - 1
    cuts = segments - 1
    many = 2 * cuts > places
    missing = np.where(many, places - cuts, cuts)

    is_drawn = np.zeros(size, dtype=np.bool_)
    first_draw = np.empty(size, dtype=np.int32)
    lacking = np.flatnonzero(missing)
    missing = missing[lacking]
    made = np.zeros_like(missing)
    # An estimate, so that one iteration is mostly enough. Surplus draws do not change the result.
    expected = missing * (1 + 0.8 * missing / totals[lacking])
    pairs = (expected / 2 + missing / np.sqrt(totals[lacking])).astype(np.int64) + 1
    while len(lacking):
        stops = np.cumsum(pairs)
        numbers = np.arange(stops[-1]) + np.repeat(made - stops + pairs, pairs)
        draws = 2 * pairs
        at = random_bits(np.repeat(keys[lacking], pairs), numbers).view(np.uint32).astype(np.int64)
        at *= np.repeat(places[lacking], draws)
        at >>= 32
        at += np.repeat(begins[lacking] + 1, draws)
        order = np.arange(len(at), dtype=np.int32)
        # Of several writes to one index NumPy keeps the last, so write in reverse order to keep the
        # first draw.
        first_draw[at[::-1]] = order[::-1]
        is_new = (first_draw[at] == order) & ~is_drawn[at]
        found = np.cumsum(is_new)
        after = found[2 * stops - 1]
        before = np.concatenate([[0], after[:-1]])
        is_drawn[at[is_new & (found <= np.repeat(before + missing, draws))]] = True
        missing = missing - (after - before)
        still = np.flatnonzero(missing > 0)
        made, lacking, missing = (made + pairs)[still], lacking[still], missing[still]
        pairs = missing + 2
    if many.any():
        is_drawn ^= np.repeat(many, totals)
    is_drawn[begins] = True
    starts = np.flatnonzero(is_drawn)
    lengths = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=lengths[:-1])
    lengths[-1] = size - starts[-1]
    return lengths
