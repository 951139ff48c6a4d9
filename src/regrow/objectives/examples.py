"""Texts with spans taken out, written as sources and targets, a batch at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch
from regrow.objectives.denoising import DenoisingTokens
from regrow.objectives.segments import Ids, sample_keys, segment_lengths


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
    pieces = _Pieces(spans)
    # Where each piece that stays begins in the line; its span follows it.
    begins = pieces.offsets(spans.kept + spans.taken) + np.repeat(starts, spans.counts)
    sentinels = np.array(marks.sentinels, dtype=np.int64)[pieces.numbers]

    def rows(copied: Ids, begins: Ids, before: int, sentinel_first: bool) -> tuple[Ids, Ids]:
        """What is copied, with a sentinel for each piece that is not, and eos; and lengths.

        Each slot reads the line at its own place and a shift, which is the same for all slots of a
        piece. Sentinels and eos are put in after; what fills a row up is anything.
        """
        places = pieces.offsets(copied) + pieces.numbers
        lengths = places[pieces.lasts] + copied[pieces.lasts] + (before + 2)
        width = int(lengths.max())
        row_starts = np.arange(0, width * len(starts), width)
        places += np.repeat(row_starts + before, spans.counts)
        shifts = begins - places
        if sentinel_first:
            shifts -= 1
        slots = copied + 1
        slots[pieces.firsts] += before
        slots[pieces.lasts] += width + 1 - lengths
        at = np.repeat(shifts, slots)
        at += _count_to(len(at))
        ids = line.take(at, mode="clip").astype(np.int64)
        ids[places if sentinel_first else places + copied] = sentinels
        ids[row_starts + (lengths - 1)] = marks.eos
        return ids.reshape(-1, width), lengths

    before = 0 if prefixes is None else 1
    source, lengths = rows(spans.kept, begins, before, sentinel_first=False)
    if prefixes is not None:
        source[:, 0] = prefixes
    is_filling = _filling(lengths, source.shape[1])
    np.copyto(source, marks.pad, where=is_filling)
    mask = (~is_filling).astype(np.int64)

    labels, lengths = rows(spans.taken, begins + spans.kept, 0, sentinel_first=True)
    inputs = np.empty_like(labels)
    inputs[:, 0] = marks.start
    inputs[:, 1:] = labels[:, :-1]
    is_filling = _filling(lengths, labels.shape[1])
    np.copyto(inputs, marks.pad, where=is_filling)
    np.copyto(labels, NOT_PREDICTED, where=is_filling)
    return {
        "input_ids": source,
        "attention_mask": mask,
        "decoder_input_ids": inputs,
        "labels": labels,
    }


def _filling(lengths: Ids, width: int) -> NDArray[np.bool_]:
    """Where rows of these lengths are filled up, [texts, width]."""
    # Short numbers, which are compared many at a time.
    return np.arange(width, dtype=np.int32) >= lengths.astype(np.int32)[:, None]


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
