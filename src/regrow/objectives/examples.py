"""Texts with spans taken out, written as sources and targets, a batch at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch
from regrow.objectives.denoising import DenoisingTokens
from regrow.objectives.segments import Ids, sample_keys, segment_lengths

_Rows = tuple[Ids, NDArray[np.bool_]]
"""Ids, filled up with anything, and where that is."""


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
    kept, taken = np.split(pieces, 2)
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
    before = 0 if prefixes is None else 1
    stops = np.cumsum(spans.counts)
    numbers = np.arange(len(spans.kept)) - np.repeat(stops - spans.counts, spans.counts)
    sentinels = np.array(marks.sentinels, dtype=np.int32)[numbers]

    def rows(copied: Ids, skipped: Ids, before: int, sentinel_first: bool) -> _Rows:
        """What is copied, with a sentinel for each piece that is skipped, and eos.

        A row goes on along the line from its start, and a skip is a longer step: so it is
        gathered in one go, and sentinels and eos are put in after.
        """
        copied_stops = np.cumsum(copied)
        after = copied_stops[stops - 1]
        copied_before = np.concatenate([[0], after[:-1]])
        lengths = after - copied_before + spans.counts + (before + 1)
        width = int(lengths.max())
        firsts = np.arange(0, width * len(starts), width)
        places = copied_stops + numbers
        if sentinel_first:
            places -= copied
        places += np.repeat(firsts + before - copied_before, spans.counts)
        steps = np.ones((len(starts), width), dtype=np.int64)
        steps[:, 0] = starts - before
        steps.reshape(-1)[places + 1] = skipped
        ids = line.take(np.cumsum(steps, axis=1, out=steps), mode="clip").astype(np.int64)
        ids.reshape(-1)[places] = sentinels
        ids.reshape(-1)[firsts + lengths - 1] = marks.eos
        return ids, np.arange(width) >= lengths[:, None]

    source, is_filling = rows(spans.kept, spans.taken, before, sentinel_first=False)
    if prefixes is not None:
        source[:, 0] = prefixes
    np.copyto(source, marks.pad, where=is_filling)

    labels, is_nothing = rows(spans.taken, spans.kept, 0, sentinel_first=True)
    inputs = np.empty_like(labels)
    inputs[:, 0] = marks.start
    inputs[:, 1:] = labels[:, :-1]
    np.copyto(inputs[:, 1:], marks.pad, where=is_nothing[:, 1:])
    np.copyto(labels, NOT_PREDICTED, where=is_nothing)
    return {
        "input_ids": source,
        "attention_mask": (~is_filling).astype(np.int64),
        "decoder_input_ids": inputs,
        "labels": labels,
    }
