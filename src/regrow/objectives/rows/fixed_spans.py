"""Noise spans of Optimized-UL2: a row has a fixed number of them, divided among its documents.

A row holds pieces: documents, or the part of a document that lies in the row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.document_stream import Pieces
from regrow.objectives.rows.examples import Spans
from regrow.objectives.rows.random_segmentation import (
    Ids,
    random_bits,
    sample_keys,
    segment_lengths,
)

SUFFIX_SHARE = 0.25
"""The share of the noise of a mixed text that is its end; the report draws it from 20 to 30%."""


@dataclass(frozen=True)
class RowCapacity:
    """How many slots a row has, and how many each piece takes beside its text and sentinels.

    Attributes:
        source: Slots of the source row: for kept tokens, sentinels, prefixes and eos.
        target: Slots of the target row: for noise tokens, sentinels and eos.
        each_source: Slots of the source row for the prefix and eos of one piece.
        each_target: Slots of the target row for the eos of one piece.
    """

    source: int
    target: int
    each_source: int
    each_target: int


def draw_fixed_spans(
    seed: int,
    samples: Ids,
    is_mixed: NDArray[np.bool_],
    pieces: Pieces,
    kinds: tuple[tuple[int, int], ...],
    capacity: RowCapacity | None,
) -> Spans:
    """Draws the noise spans of each piece, in mixed and in split rows.

    Half of the text of a row is noise, or as much as its capacity requires. In a split row, the
    noise of a piece is its end. In a mixed row, a quarter of the noise of a piece is its end, and
    the rest is in spans of all kinds, in an order that is drawn for the row. The number of spans of
    a piece is in proportion to its length. For each kind, every division of the noise into spans
    has the same probability, and so has every division of the kept tokens.

    A piece has at least one noise token. If a piece has several spans, at least one token is kept
    before each. If the pieces of a row are too short for all spans, the row has fewer.

    Args:
        samples: The number of each row's sample in the training, [rows].
        is_mixed: Whether a row is mixed, or else split, [rows].
        pieces: The pieces of each row.
        kinds: Kinds of spans of a mixed row: mean length, and number of spans in a row.
        capacity: Of a row; None if its length is not limited.
    """
    others, noise = _spans_and_noise(is_mixed, pieces, sum(spans for _, spans in kinds), capacity)
    suffix = np.rint(noise * SUFFIX_SHARE).astype(np.int64)
    suffix = np.where(others > 0, np.clip(suffix, 1, noise - others), noise)
    taken = np.empty(int((others + 1).sum()), dtype=np.int64)
    is_last = np.zeros(len(taken), dtype=np.bool_)
    is_last[np.cumsum(others + 1) - 1] = True
    taken[is_last] = suffix
    taken[~is_last] = _span_lengths(seed, samples, is_mixed, pieces, kinds, others, noise - suffix)

    kept = np.empty_like(taken)
    has_others = others > 0
    is_of_those = np.repeat(has_others, others + 1)
    rest = pieces.lengths - noise
    kept[~is_of_those] = rest[~has_others]
    if has_others.any():
        keys = _keys(seed, "rest of a text", samples, pieces, has_others)
        kept[is_of_those] = segment_lengths(keys, rest[has_others], others[has_others] + 1)
    return Spans(others + 1, kept, taken)


def _spans_and_noise(
    is_mixed: NDArray[np.bool_], pieces: Pieces, wanted: int, capacity: RowCapacity | None
) -> tuple[Ids, Ids]:
    """The spans of each piece except its last, and its noise tokens; [pieces] each.

    `wanted`: spans of a mixed row, without the last span of each piece.
    """
    rows, lengths = pieces.stretches, pieces.lengths
    firsts = np.searchsorted(rows, np.arange(len(is_mixed)))

    def of_rows(each: Ids) -> Ids:
        sums: Ids = np.add.reduceat(each, firsts)
        return sums

    roomy = np.where(is_mixed[rows], np.maximum(lengths // 2 - 1, 0), 0)
    most = np.minimum(of_rows(roomy), wanted)
    in_row = of_rows(np.ones_like(rows))
    if capacity is not None:
        # Each span takes a sentinel and a token in the source and in the target. The first span of
        # a piece needs one more kept token.
        left = capacity.source - (capacity.each_source + 1) * in_row - of_rows(np.minimum(roomy, 1))
        most = np.minimum(most, left // 2)
        most = np.minimum(most, (capacity.target - (capacity.each_target + 2) * in_row) // 2)
    others = apportion(np.maximum(most, 0), roomy, rows)
    taken_least = others + 1
    kept_least = np.where(others > 0, others + 1, 0)
    text = of_rows(lengths)
    low, high = of_rows(taken_least), text - of_rows(kept_least)
    if capacity is not None:
        spans = of_rows(taken_least)
        low = np.maximum(low, text - (capacity.source - capacity.each_source * in_row - spans))
        high = np.minimum(high, capacity.target - capacity.each_target * in_row - spans)
    assert (low <= high).all(), "a row that holds more than its capacity"
    free = np.clip(text // 2, low, high) - of_rows(taken_least)
    return others, taken_least + apportion(free, lengths - taken_least - kept_least, rows)


def _span_lengths(
    seed: int,
    samples: Ids,
    is_mixed: NDArray[np.bool_],
    pieces: Pieces,
    kinds: tuple[tuple[int, int], ...],
    others: Ids,
    noise: Ids,
) -> Ids:
    """The lengths of all spans except the last of each piece, piece after piece; [spans].

    `others`: the number of these spans in each piece; `noise`: their tokens in each piece;
    [pieces] each.
    """
    if not others.any():
        return np.zeros(0, dtype=np.int64)
    # The kinds of all spans of a mixed row, in an order that is drawn for the row. A row with fewer
    # spans takes the first of them.
    mixed = samples[is_mixed]
    many = sum(spans for _, spans in kinds)
    numbers = np.broadcast_to(np.arange(many), (len(mixed), many))
    bits = random_bits(sample_keys(seed, "order of spans", mixed)[:, None], numbers)
    kind_of_each = np.repeat(np.arange(len(kinds)), [spans for _, spans in kinds])
    drawn = kind_of_each[np.argsort(bits, axis=1)]
    in_row = np.bincount(pieces.stretches, others, len(samples)).astype(np.int64)[is_mixed]
    kind_of = drawn[numbers < in_row[:, None]]
    piece_of = np.repeat(np.arange(len(others)), others)

    shape = (len(others), len(kinds))
    counts = np.bincount(piece_of * len(kinds) + kind_of, minlength=shape[0] * shape[1])
    longer = counts * np.tile([mean - 1 for mean, _ in kinds], len(others))
    groups = np.repeat(np.arange(len(others)), len(kinds))
    tokens = (counts + apportion(noise - others, longer, groups)).reshape(shape)
    counts = counts.reshape(shape)
    lengths = []
    for kind, (mean, _) in enumerate(kinds):
        has = counts[:, kind] > 0
        if has.any():
            keys = _keys(seed, f"spans of {mean} on average", samples, pieces, has)
            lengths.append(segment_lengths(keys, tokens[has, kind], counts[has, kind]))
    found = np.empty(len(piece_of), dtype=np.int64)
    found[np.argsort(kind_of, kind="stable")] = np.concatenate(lengths)
    return found


def _keys(
    seed: int, purpose: str, samples: Ids, pieces: Pieces, chosen: NDArray[np.bool_]
) -> NDArray[np.uint64]:
    """A random key for each chosen piece."""
    keys = sample_keys(seed, purpose, samples)[pieces.stretches[chosen]]
    return random_bits(keys, pieces.numbers[chosen])


def apportion(totals: Ids, weights: Ids, groups: Ids) -> Ids:
    """Divides a total among the members of each group, in proportion to their weights; [members].

    If the total of a group is at most the sum of its weights, no member gets more than its weight.

    Args:
        totals: One for each group, [groups]; 0 for a group whose weights are all 0.
        weights: One for each member, [members].
        groups: The group of each member, ascending from 0, [members].
    """
    sums = np.cumsum(weights)
    firsts = np.searchsorted(groups, np.arange(len(totals)))
    before = np.concatenate([[0], sums])[firsts]
    lasts = np.append(firsts[1:], len(groups)) - 1
    whole = np.maximum(sums[lasts] - before, 1)
    upto = totals[groups] * (sums - before[groups]) // whole[groups]
    shares = np.diff(upto, prepend=0)
    shares[firsts] = upto[firsts]
    found: Ids = shares
    return found
