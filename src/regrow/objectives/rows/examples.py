"""Texts with spans taken out, written as sources and targets, a batch at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch
from regrow.objectives.rows.denoisers import DenoisingTokens
from regrow.objectives.rows.random_segmentation import Ids, sample_keys, segment_lengths

NO_TEXT = -1
"""What an empty slot belongs to."""


@dataclass(frozen=True, eq=False)
class Spans:
    """What is taken out of each text of a batch.

    A text is a piece that stays, a span, a piece that stays, a span and so on; it ends with a
    span.

    Attributes:
        counts: Spans in each text, at least 1, [texts].
        kept: Tokens that stay before each span, text after text, [spans].
        taken: Tokens in each span, [spans].
    """

    counts: Ids
    kept: Ids
    taken: Ids


def draw_spans(seed: int, samples: Ids, lengths: Ids, noise: Ids, spans: Ids) -> Spans:
    """T5's random segmentation: `noise` of `lengths` tokens, in so many spans; [texts] each.

    Every division of the noise, and of the rest, is as likely. The rest has no token only in a
    text of one.
    """
    rest = lengths - noise
    keys = [sample_keys(seed, f"{part} of a text", samples) for part in ("rest", "noise")]
    pieces = segment_lengths(
        np.concatenate(keys),
        np.concatenate([np.maximum(rest, 1), noise]),
        np.concatenate([spans, spans]),
    )
    kept, taken = pieces[: len(pieces) // 2], pieces[len(pieces) // 2 :]
    if not rest.all():
        kept[(np.cumsum(spans) - spans)[rest == 0]] = 0
    return Spans(spans, kept, taken)


def write_examples(
    line: NDArray[np.int32], starts: Ids, spans: Spans, prefixes: Ids | None, marks: DenoisingTokens
) -> Batch:
    """Sources and targets, int64, filled up to the longest on the right.

    A source is its prefix, the text with each span replaced by its sentinel, eos. A target is each
    sentinel with the tokens of its span, then eos. Needs a sentinel for each span of a text.

    Args:
        line: Tokens, in which each text is one run.
        starts: Where each text begins there, [texts].
        prefixes: The first token of each source, [texts]; None for sources without.

    Returns:
        ``input_ids`` and ``attention_mask``: [texts, source length]. ``decoder_input_ids`` and
        ``labels``: [texts, target length].
    """
    source, target = _write(line, starts, spans, prefixes, marks, np.arange(len(starts)), None)
    return {
        "input_ids": source.ids,
        "attention_mask": (~source.is_filling).astype(np.int64),
        "decoder_input_ids": _shifted(target, marks),
        "labels": _labels(target),
    }


def write_rows(
    line: NDArray[np.int32], starts: Ids, spans: Spans, prefixes: Ids | None,
    marks: DenoisingTokens, row_of: Ids, widths: tuple[int, int] | None,
) -> Batch:  # fmt: skip
    """The same, of which several stand in a row, in order.

    Args:
        row_of: The row of each text, ascending, and each row has one, [texts].
        widths: Of sources and of targets, with room for what stands in a row; None for those of
            the fullest rows.

    Returns:
        ``input_ids`` and ``source_texts``: [rows, source width]. ``decoder_input_ids``, ``labels``
        and ``target_texts``: [rows, target width]. The numbers of texts count from 0 in each row;
        empty slots, on the right, have `NO_TEXT`.
    """
    source, target = _write(line, starts, spans, prefixes, marks, row_of, widths)
    return {
        "input_ids": source.ids,
        "source_texts": _texts(source, row_of),
        "decoder_input_ids": _shifted(target, marks),
        "labels": _labels(target),
        "target_texts": _texts(target, row_of),
    }


@dataclass(frozen=True, eq=False)
class _Side:
    """Sources, or targets.

    Attributes:
        ids: [rows, width]; in empty slots of sources `pad`, of targets anything.
        begins: Where each text begins among all slots, ascending, first 0, [texts].
        is_filling: Which slots are empty, [rows, width].
    """

    ids: Ids
    begins: Ids
    is_filling: NDArray[np.bool_]


def _write(
    line: NDArray[np.int32], starts: Ids, spans: Spans, prefixes: Ids | None,
    marks: DenoisingTokens, row_of: Ids, widths: tuple[int, int] | None,
) -> tuple[_Side, _Side]:  # fmt: skip
    pieces = _Pieces(spans)
    # Where each piece that stays begins in the line; its span follows it.
    begins = pieces.offsets(spans.kept + spans.taken) + np.repeat(starts, spans.counts)
    sentinels = np.array(marks.sentinels, dtype=np.int64)[pieces.numbers]
    firsts = np.flatnonzero(np.diff(row_of, prepend=-1))

    def side(
        copied: Ids, begins: Ids, before: int, width: int | None, sentinel_first: bool
    ) -> _Side:
        """What is copied, with a sentinel for each piece that is not, and eos.

        Each slot reads the line at its own place and a shift, which is the same for all slots of a
        piece. Sentinels and eos are put in after; what fills a row up is anything.
        """
        places = pieces.offsets(copied) + pieces.numbers
        lengths = places[pieces.lasts] + copied[pieces.lasts] + (before + 2)
        ends = np.cumsum(lengths)
        in_row = ends - lengths - (ends - lengths)[firsts][row_of]
        sizes = np.add.reduceat(lengths, firsts)
        width = int(sizes.max()) if width is None else width
        assert sizes.max() <= width
        row_starts = row_of * width + in_row
        places += np.repeat(row_starts + before, spans.counts)
        shifts = begins - places
        if sentinel_first:
            shifts -= 1
        slots = copied + 1
        slots[pieces.firsts] += before
        slots[pieces.lasts] += np.diff(row_starts, append=len(firsts) * width) + 1 - lengths
        at = np.repeat(shifts, slots)
        at += _count_to(len(at))
        ids = line.take(at, mode="clip").astype(np.int64)
        ids[places if sentinel_first else places + copied] = sentinels
        ids[row_starts + (lengths - 1)] = marks.eos
        # Short numbers, which are compared many at a time.
        is_filling = np.arange(width, dtype=np.int32) >= sizes.astype(np.int32)[:, None]
        return _Side(ids.reshape(-1, width), row_starts, is_filling)

    of_source, of_target = widths or (None, None)
    before = 0 if prefixes is None else 1
    source = side(spans.kept, begins, before, of_source, sentinel_first=False)
    if prefixes is not None:
        source.ids.reshape(-1)[source.begins] = prefixes
    np.copyto(source.ids, marks.pad, where=source.is_filling)
    return source, side(spans.taken, begins + spans.kept, 0, of_target, sentinel_first=True)


def _shifted(target: _Side, marks: DenoisingTokens) -> Ids:
    """What a decoder reads: each target one slot later, behind the start."""
    inputs = np.empty_like(target.ids)
    inputs.reshape(-1)[1:] = target.ids.reshape(-1)[:-1]
    inputs.reshape(-1)[target.begins] = marks.start
    np.copyto(inputs, marks.pad, where=target.is_filling)
    return inputs


def _labels(target: _Side) -> Ids:
    return np.where(target.is_filling, NOT_PREDICTED, target.ids)


def _texts(side: _Side, row_of: Ids) -> Ids:
    """The number of each slot's text in its row."""
    numbers = np.arange(len(row_of)) - np.searchsorted(row_of, row_of)
    slots = np.diff(side.begins, append=side.ids.size)
    texts: Ids = np.repeat(numbers, slots).reshape(side.ids.shape)
    np.copyto(texts, NO_TEXT, where=side.is_filling)
    return texts


class _Pieces:
    """Which pieces belong to which text.

    Attributes:
        firsts: The first piece of each text, [texts].
        lasts: The last, [texts].
        numbers: Of each piece in its text, [spans].
    """

    def __init__(self, spans: Spans) -> None:
        self._counts = spans.counts
        stops = np.cumsum(spans.counts)
        self.firsts = stops - spans.counts
        self.lasts = stops - 1
        self.numbers = _count_to(len(spans.kept)) - np.repeat(self.firsts, spans.counts)

    def offsets(self, lengths: Ids) -> Ids:
        """Where each piece begins in its text, if the pieces of it have these lengths; [spans]."""
        begins = np.cumsum(lengths) - lengths
        begins -= np.repeat(begins[self.firsts], self._counts)
        return begins


_numbers = np.arange(1 << 12)


def _count_to(size: int) -> Ids:
    """0 to `size - 1`, to be read: a new array of this size costs more than a sum."""
    global _numbers
    numbers = _numbers
    if len(numbers) < size:
        numbers = _numbers = np.arange(2 * size)
    return numbers[:size]
