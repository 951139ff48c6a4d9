"""Spans of Optimized-UL2: as many as are fixed in a row, shared out over the documents in it."""

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

SUFFIX = 0.25
"""Of the noise of a mixed text, at its end; the report draws it from 20 to 30%."""


@dataclass(frozen=True)
class Room:
    """Slots of a row.

    Attributes:
        source: For text that stays, sentinels, and what is written beside each piece.
        target: For text that is taken out, sentinels, and the same.
        each_source: Slots beside each piece in the source, but for sentinels.
        each_target: And in the target.
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
    room: Room | None,
) -> Spans:
    """What is taken out of each piece of mixed and of split rows; `samples`, `is_mixed`: [rows].

    Half of the text of a row goes, or what the room asks for. Of a piece of a split row it is the
    end. Of one of a mixed row it is the end too, a quarter of the noise, and spans of all `kinds`
    (mean, and how many in a row) in an order that is drawn for the row; each piece has as many as
    its length asks for. Every division of the noise of a kind, and of what stays, is as likely.

    A piece gives up one token at least; where it has several spans, a token stays before each.
    Where pieces are too short to have all spans, a row has fewer.
    """
    others, noise = _shared_out(is_mixed, pieces, sum(spans for _, spans in kinds), room)
    suffix = np.rint(noise * SUFFIX).astype(np.int64)
    suffix = np.where(others > 0, np.clip(suffix, 1, noise - others), noise)
    taken = np.empty(int((others + 1).sum()), dtype=np.int64)
    is_last = np.zeros(len(taken), dtype=np.bool_)
    is_last[np.cumsum(others + 1) - 1] = True
    taken[is_last] = suffix
    taken[~is_last] = _others(seed, samples, is_mixed, pieces, kinds, others, noise - suffix)

    kept = np.empty_like(taken)
    has_others = others > 0
    is_of_those = np.repeat(has_others, others + 1)
    rest = pieces.lengths - noise
    kept[~is_of_those] = rest[~has_others]
    if has_others.any():
        keys = _keys(seed, "rest of a text", samples, pieces, has_others)
        kept[is_of_those] = segment_lengths(keys, rest[has_others], others[has_others] + 1)
    return Spans(others + 1, kept, taken)


def _shared_out(
    is_mixed: NDArray[np.bool_], pieces: Pieces, wanted: int, room: Room | None
) -> tuple[Ids, Ids]:
    """Spans before the last of each piece, and tokens that are taken out of it; [pieces] each.

    `wanted`: spans before the last that a mixed row has together.
    """
    rows, lengths = pieces.stretches, pieces.lengths
    firsts = np.searchsorted(rows, np.arange(len(is_mixed)))

    def of_rows(each: Ids) -> Ids:
        sums: Ids = np.add.reduceat(each, firsts)
        return sums

    roomy = np.where(is_mixed[rows], np.maximum(lengths // 2 - 1, 0), 0)
    most = np.minimum(of_rows(roomy), wanted)
    in_row = of_rows(np.ones_like(rows))
    if room is not None:
        # Each has a sentinel and a token on either side; with the first of a piece one more stays.
        left = room.source - (room.each_source + 1) * in_row - of_rows(np.minimum(roomy, 1))
        most = np.minimum(most, left // 2)
        most = np.minimum(most, (room.target - (room.each_target + 2) * in_row) // 2)
    others = apportioned(np.maximum(most, 0), roomy, rows)
    taken_least = others + 1
    kept_least = np.where(others > 0, others + 1, 0)
    text = of_rows(lengths)
    low, high = of_rows(taken_least), text - of_rows(kept_least)
    if room is not None:
        spans = of_rows(taken_least)
        low = np.maximum(low, text - (room.source - room.each_source * in_row - spans))
        high = np.minimum(high, room.target - room.each_target * in_row - spans)
    assert (low <= high).all(), "a row that holds more than there is room for"
    free = np.clip(text // 2, low, high) - of_rows(taken_least)
    return others, taken_least + apportioned(free, lengths - taken_least - kept_least, rows)


def _others(
    seed: int,
    samples: Ids,
    is_mixed: NDArray[np.bool_],
    pieces: Pieces,
    kinds: tuple[tuple[int, int], ...],
    others: Ids,
    noise: Ids,
) -> Ids:
    """Tokens in each span but the last of its piece, piece after piece.

    `others`: how many in each piece; `noise`: tokens in them together.
    """
    if not others.any():
        return np.zeros(0, dtype=np.int64)
    # The kinds of all spans of a mixed row in the order that is drawn for it; the first are taken.
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
    tokens = (counts + apportioned(noise - others, longer, groups)).reshape(shape)
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
    """A key for each piece that is chosen."""
    keys = sample_keys(seed, purpose, samples)[pieces.stretches[chosen]]
    return random_bits(keys, pieces.numbers[chosen])


def apportioned(totals: Ids, weights: Ids, groups: Ids) -> Ids:
    """Each of `totals` [groups] divided among the members of its group by weight; [members].

    `groups`: that of each member, ascending from 0. Where no total is more than the weights of its
    group together, no member has more than its weight. A group without weight has a total of 0.
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
