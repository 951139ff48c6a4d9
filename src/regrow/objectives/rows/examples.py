"""Writes texts with noise spans as sources and targets, for a whole batch at once."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch
from regrow.objectives.rows.denoisers import DenoisingTokens
from regrow.objectives.rows.random_segmentation import Ids, sample_keys, segment_lengths

NO_TEXT = -1
"""The text number of an empty slot."""


@dataclass(frozen=True, eq=False)
class Spans:
    """The noise spans of each text of a batch.

    A text is made of kept tokens, a noise span, kept tokens, a noise span and so on. It ends with a
    noise span.

    Attributes:
        counts: Noise spans in each text, at least 1, [texts].
        kept: Kept tokens before each noise span, text after text, [spans].
        taken: Tokens in each noise span, text after text, [spans].
    """

    counts: Ids
    kept: Ids
    taken: Ids


def draw_spans(seed: int, samples: Ids, lengths: Ids, noise: Ids, spans: Ids) -> Spans:
    """T5's random segmentation: draws where the noise spans of each text are.

    Every division of the noise tokens into spans has the same probability, and so has every
    division of the kept tokens. A text with a single token has no kept token.

    Args:
        samples: The number of each text's sample in the training, [texts].
        lengths: Tokens of each text, [texts].
        noise: Noise tokens of each text, [texts].
        spans: Noise spans of each text, [texts].
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
    line: NDArray[np.int32],
    starts: Ids,
    spans: Spans,
    prefixes: Ids | None,
    special_tokens: DenoisingTokens,
) -> Batch:
    """Sources and targets, int64, padded on the right to the longest.

    A source is its prefix, then the text with each noise span replaced by its sentinel, then eos. A
    target is each sentinel followed by the tokens of its span, then eos. There must be a sentinel
    for each span of a text.

    Args:
        line: Token ids, in which the tokens of each text follow each other.
        starts: Index of the first token of each text in `line`, [texts].
        prefixes: The first token of each source, [texts]; None for sources without a prefix.

    Returns:
        ``input_ids`` and ``attention_mask``: [texts, source length]. ``decoder_input_ids`` and
        ``labels``: [texts, target length].
    """
    source, target = _write(
        line, starts, spans, prefixes, special_tokens, np.arange(len(starts)), None
    )
    return {
        "input_ids": source.ids,
        "attention_mask": (~source.is_filling).astype(np.int64),
        "decoder_input_ids": _shifted(target, special_tokens),
        "labels": _labels(target),
    }


def write_rows(
    line: NDArray[np.int32], starts: Ids, spans: Spans, prefixes: Ids | None,
    special_tokens: DenoisingTokens, row_of: Ids, widths: tuple[int, int] | None,
) -> Batch:  # fmt: skip
    """Sources and targets as in `write_examples`, several in each row, in order.

    Args:
        row_of: The row of each text, [texts]; ascending, and each row has at least one text.
        widths: Width of the source rows and of the target rows; each must hold the longest row.
            None takes the widths of the longest rows.

    Returns:
        ``input_ids`` and ``source_texts``: [rows, source width]. ``decoder_input_ids``, ``labels``
        and ``target_texts``: [rows, target width]. ``source_texts`` and ``target_texts`` hold the
        number of each slot's text, counted from 0 in each row. Empty slots are on the right and
        hold `NO_TEXT`.
    """
    source, target = _write(line, starts, spans, prefixes, special_tokens, row_of, widths)
    return {
        "input_ids": source.ids,
        "source_texts": _texts(source, row_of),
        "decoder_input_ids": _shifted(target, special_tokens),
        "labels": _labels(target),
        "target_texts": _texts(target, row_of),
    }


@dataclass(frozen=True, eq=False)
class _Side:
    """All sources, or all targets.

    Attributes:
        ids: [rows, width]. Empty slots hold `pad` in sources, and arbitrary ids in targets.
        begins: Index of each text's first slot among all slots, ascending from 0, [texts].
        is_filling: Whether a slot is empty, [rows, width].
    """

    ids: Ids
    begins: Ids
    is_filling: NDArray[np.bool_]


def _write(
    line: NDArray[np.int32], starts: Ids, spans: Spans, prefixes: Ids | None,
    special_tokens: DenoisingTokens, row_of: Ids, widths: tuple[int, int] | None,
) -> tuple[_Side, _Side]:  # fmt: skip
    pieces = _Pieces(spans)
    # Where each run of kept tokens begins in the line; its noise span follows it.
    begins = pieces.offsets(spans.kept + spans.taken) + np.repeat(starts, spans.counts)
    sentinels = np.array(special_tokens.sentinels, dtype=np.int64)[pieces.numbers]
    firsts = np.flatnonzero(np.diff(row_of, prepend=-1))

    def side(
        copied: Ids, begins: Ids, before: int, width: int | None, sentinel_first: bool
    ) -> _Side:
        """Copied runs of tokens, a sentinel for each run, and eos.

        `copied`: tokens in each run; `begins`: where each run begins in the line; `before`: slots
        before the first run of a text; `sentinel_first`: whether a sentinel stands before its run.

        Each slot reads the line at its own index plus a shift, which is the same for all slots of a
        run. Sentinels and eos are written afterwards. Empty slots hold arbitrary ids.
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
        ids[row_starts + (lengths - 1)] = special_tokens.eos
        # int32 halves the memory traffic of the comparison.
        is_filling = np.arange(width, dtype=np.int32) >= sizes.astype(np.int32)[:, None]
        return _Side(ids.reshape(-1, width), row_starts, is_filling)

    of_source, of_target = widths or (None, None)
    before = 0 if prefixes is None else 1
    source = side(spans.kept, begins, before, of_source, sentinel_first=False)
    if prefixes is not None:
        source.ids.reshape(-1)[source.begins] = prefixes
    np.copyto(source.ids, special_tokens.pad, where=source.is_filling)
    return source, side(spans.taken, begins + spans.kept, 0, of_target, sentinel_first=True)


def _shifted(target: _Side, special_tokens: DenoisingTokens) -> Ids:
    """The decoder's inputs: each target shifted right by one slot, after the start token."""
    inputs = np.empty_like(target.ids)
    inputs.reshape(-1)[1:] = target.ids.reshape(-1)[:-1]
    inputs.reshape(-1)[target.begins] = special_tokens.start
    np.copyto(inputs, special_tokens.pad, where=target.is_filling)
    return inputs


def _labels(target: _Side) -> Ids:
    return np.where(target.is_filling, NOT_PREDICTED, target.ids)


def _texts(side: _Side, row_of: Ids) -> Ids:
    """The number of each slot's text in its row, [rows, width]."""
    numbers = np.arange(len(row_of)) - np.searchsorted(row_of, row_of)
    slots = np.diff(side.begins, append=side.ids.size)
    texts: Ids = np.repeat(numbers, slots).reshape(side.ids.shape)
    np.copyto(texts, NO_TEXT, where=side.is_filling)
    return texts


class _Pieces:
    """The text that each piece belongs to; a piece is a run of kept tokens and its noise span.

    Attributes:
        firsts: Index of the first piece of each text, [texts].
        lasts: Index of the last piece of each text, [texts].
        numbers: The number of each piece in its text, from 0, [spans].
    """

    def __init__(self, spans: Spans) -> None:
        self._counts = spans.counts
        stops = np.cumsum(spans.counts)
        self.firsts = stops - spans.counts
        self.lasts = stops - 1
        self.numbers = _count_to(len(spans.kept)) - np.repeat(self.firsts, spans.counts)

    def offsets(self, lengths: Ids) -> Ids:
        """Where each piece begins in its text, for pieces of these lengths; [spans] each."""
        begins = np.cumsum(lengths) - lengths
        begins -= np.repeat(begins[self.firsts], self._counts)
        return begins


_numbers = np.arange(1 << 12)


def _count_to(size: int) -> Ids:
    """0 to `size - 1`, read-only and reused: a new array costs more than adding one."""
    global _numbers
    numbers = _numbers
    if len(numbers) < size:
        numbers = _numbers = np.arange(2 * size)
    return numbers[:size]
