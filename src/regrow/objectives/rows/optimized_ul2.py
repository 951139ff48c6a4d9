"""Optimized-UL2: all sources have one length and all targets another, so no batch is padded.

From the OpenBA-V2 report (arXiv 2405.05957). One sample in five is mixed: noise spans of several
lengths are taken out of it. The others are split: the first half of the text is the source, and the
second half is the target. Here the number of noise spans is fixed, which fixes all lengths. The
positions and the lengths of the spans are random.

A row is filled with as many documents as it holds. A document that does not fit is divided, and
each piece has a source and a target of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regrow.architectures.flops import SampleShape
from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.corpus.concatenation import ConcatenatedRows
from regrow.corpus.document_stream import (
    DocumentStream,
    Pieces,
    as_one_document,
    stream_of_store,
    stream_of_text,
)
from regrow.corpus.samples import Batch, Components, Samples
from regrow.corpus.shares import DENOISER
from regrow.corpus.sources import Texts, rows_of
from regrow.corpus.token_store import TokenStore
from regrow.objectives.rows.denoisers import DenoisingTokens
from regrow.objectives.rows.examples import write_examples, write_rows
from regrow.objectives.rows.fixed_spans import SUFFIX_SHARE, RowCapacity, draw_fixed_spans
from regrow.objectives.rows.random_segmentation import Ids, random_bits, sample_keys
from regrow.objectives.rows.single_row import concatenate_pairs
from regrow.objectives.rows.span_corruption import denoising_tokens
from regrow.objectives.special_tokens import SENTINELS

BLOCK = 5
"""One row in so many is mixed: 20%."""

RowLayout = Literal["row pair", "single row", "across documents"]
"""How sources and targets are placed in rows.

- ``row pair``: for an encoder-decoder. A row of sources for the encoder, and a row of targets for
  the decoder. Attention stays within a document.
- ``single row``: for a decoder. Each source is followed by its target in the same row.
- ``across documents``: for an encoder-decoder that cannot keep documents apart. All documents are
  one text, and a row is one source and one target.
"""
_LAYOUT_IN_IDENTITY: Mapping[RowLayout, str] = {
    "row pair": "two rows", "single row": "one row", "across documents": "across",
}  # fmt: skip
"""What identities have called the layouts since the first runs."""

_NOISE = 0.5
_KINDS = ((3, 0.3), (8, 0.4), (64, 0.3))
"""Kinds of spans: mean length, and share of the noise that is not the suffix."""
_STEP = 20
"""Lengths of mixed texts are multiples of this, so that shares of the noise are nearly integers."""
_SHORTEST = 40
"""The shortest mixed text: each kind has a span, with kept tokens between the spans."""


@dataclass(frozen=True)
class FixedLengths:
    """All lengths, which follow from the length of a mixed text.

    Attributes:
        mixed_text: Tokens of a mixed text; a multiple of 20.
    """

    mixed_text: int

    @property
    def noise(self) -> int:
        """Noise tokens of a mixed text."""
        return int(self.mixed_text * _NOISE)

    @property
    def suffix(self) -> int:
        """Noise tokens at the end of a mixed text."""
        return round(self.noise * SUFFIX_SHARE)

    @cached_property
    def kinds(self) -> tuple[tuple[int, int], ...]:
        """Kinds of the other spans: mean length, and number of spans in a mixed text."""
        rest = self.noise - self.suffix
        tokens = [round(rest * part) for _, part in _KINDS[:-1]]
        tokens.append(rest - sum(tokens))
        return tuple(
            (mean, max(1, round(n / mean))) for n, (mean, _) in zip(tokens, _KINDS, strict=True)
        )

    @property
    def spans(self) -> int:
        """Sentinels of a mixed text: one for each span, one of them for the suffix."""
        return 1 + sum(spans for _, spans in self.kinds)

    @property
    def target(self) -> int:
        """Tokens of a target of either kind, with sentinels and eos."""
        return self.noise + self.spans + 1

    @property
    def half(self) -> int:
        """Tokens of each half of a split text, whose target is as long as that of a mixed text."""
        return self.target - 2

    @property
    def split_text(self) -> int:
        """Tokens of a split text."""
        return 2 * self.half

    @property
    def mean_text(self) -> int:
        """Mean tokens of text in a row of one document."""
        return round((self.mixed_text + (BLOCK - 1) * self.split_text) / BLOCK)

    def source(self, prefixed: bool) -> int:
        """Tokens of a source of either kind, with sentinels, eos and, if `prefixed`, its prefix."""
        return self.target + prefixed


def fixed_lengths(sentinels: int, row_length: int) -> FixedLengths:
    """The longest lengths that need at most so many sentinels and at most `row_length` tokens.

    With 100 sentinels and 1,898 tokens or more, a mixed text has 1,700 tokens and a split text
    1,898. A source with a prefix then has 952 tokens, and a target 951.

    Raises UserError if there are too few sentinels or tokens for any.
    """
    for mixed_text in range(row_length - row_length % _STEP, _SHORTEST - 1, -_STEP):
        lengths = FixedLengths(mixed_text)
        if lengths.spans <= sentinels and lengths.split_text <= row_length:
            return lengths
    least = FixedLengths(_SHORTEST)
    raise UserError(
        f"o-ul2 with rows of {row_length} tokens and {sentinels} sentinels: at least "
        f"{least.split_text} tokens and {least.spans} sentinels are needed"
    )


def _has_prefixes(special_tokens: DenoisingTokens) -> bool:
    """Whether sources have prefixes: the tokenizer has those of split and of mixed texts."""
    return {"<S>", "<X>"} <= special_tokens.prefixes.keys()


def widths_of_row(
    lengths: FixedLengths, special_tokens: DenoisingTokens, *, in_one_row: bool
) -> tuple[int] | tuple[int, int]:
    """Slots of a single row, or of a row of sources and one of targets."""
    source = lengths.source(_has_prefixes(special_tokens))
    return (source - 1 + lengths.target,) if in_one_row else (source, lengths.target)


@dataclass(frozen=True, eq=False)
class OptimizedUL2Rows:
    """A `Samples` of Optimized-UL2, for the loss `Seq2Seq`, or `PrefixLM` in a ``single row``.

    One row in every `BLOCK` is mixed; the seed decides which. Rows follow each other in the line of
    documents. The last row begins earlier than the row before it ends, so that it is full too.

    A piece takes slots for prefix, sentinels and eos, which reduces the text of a row: five slots
    for an encoder-decoder. Some slots stay empty: at most five where a row begins between two
    documents, and at most five where it ends between two; one for each piece if there are no
    prefixes; and two for each span that is missing because the pieces are too short.

    Attributes:
        line: The documents, with `slots_each` slots before each.
        lengths_of_texts: Lengths of mixed and of split texts in a row of one piece.
        row_length: Upper bound on the text tokens in a row.
        special_tokens: The ids to write with.
        seed: Decides which rows are mixed, and where the spans are.
        layout: How sources and targets are placed in rows.
    """

    line: DocumentStream
    lengths_of_texts: FixedLengths
    row_length: int
    special_tokens: DenoisingTokens
    seed: int
    layout: RowLayout

    def __len__(self) -> int:
        return self._whole + (self._end_of_whole < self.line.slots)

    @cached_property
    def _block(self) -> int:
        """Slots of the line in a block of rows."""
        fixed = self.lengths_of_texts
        return fixed.mixed_text + (BLOCK - 1) * fixed.split_text

    @cached_property
    def _whole(self) -> int:
        """Rows that fit in the line one after the other; a last row that begins earlier follows."""
        rows = self.line.slots // self._block * BLOCK
        candidates = np.arange(rows, rows + BLOCK)
        ends = self._starts(candidates) + self._sizes(candidates)
        return rows + int((ends <= self.line.slots).sum())

    @cached_property
    def _end_of_whole(self) -> int:
        return int(self._starts(np.array([self._whole]))[0])

    def is_mixed(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether each of these rows is mixed, or else split; [rows]."""
        blocks, places = np.divmod(rows, BLOCK)
        is_mixed: NDArray[np.bool_] = places == self._mixed_places(blocks)
        return is_mixed

    def _mixed_places(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        keys = sample_keys(self.seed, "mixed row", blocks)
        return (random_bits(keys, np.zeros_like(blocks)) % np.uint64(BLOCK)).astype(np.int64)

    def _sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of the line in each of these rows, [rows]."""
        fixed = self.lengths_of_texts
        return np.where(self.is_mixed(rows), fixed.mixed_text, fixed.split_text)

    def _starts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows begin in the line, if all followed each other; [rows]."""
        fixed = self.lengths_of_texts
        blocks, places = np.divmod(rows, BLOCK)
        shorter = np.where(
            places > self._mixed_places(blocks), fixed.split_text - fixed.mixed_text, 0
        )
        starts: Ids = blocks * self._block + places * fixed.split_text - shorter
        return starts

    def _stretches(self, rows: NDArray[np.int64]) -> tuple[Ids, Ids]:
        """Where rows begin and end in the line, [rows] each; the last row begins earlier."""
        sizes = self._sizes(rows)
        starts = np.minimum(self._starts(rows), self.line.slots - sizes)
        return starts, starts + sizes

    @cached_property
    def mean_length(self) -> float:
        """Mean text tokens of a row. If the last row begins earlier, some tokens count twice."""
        repeated = np.zeros(1, dtype=np.int64)
        if self._end_of_whole < self.line.slots:
            starts, _ = self._stretches(np.array([len(self) - 1]))
            repeated = self.line.text_lengths(starts, np.array([self._end_of_whole]))
        return (self.line.text_tokens + int(repeated[0])) / len(self)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.line.text_lengths(*self._stretches(rows))

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """The denoiser of each row: ``mixed``, or ``S`` for split."""
        return {DENOISER: Components(("S", "mixed"), self.is_mixed(rows).astype(np.int64))}

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of source and target, [samples, 2], or of a single row, [samples, 1]; all equal."""
        return np.tile(self._widths, (len(rows), 1))

    @cached_property
    def _widths(self) -> tuple[int] | tuple[int, int]:
        return widths_of_row(
            self.lengths_of_texts, self.special_tokens, in_one_row=self.layout == "single row"
        )

    @cached_property
    def _prefixes(self) -> Ids | None:
        """Prefixes of split and of mixed texts, [2]; None if the tokenizer lacks one of them."""
        found = [self.special_tokens.prefixes.get(name) for name in ("<S>", "<X>")]
        return None if None in found else np.array(found)

    @cached_property
    def identity(self) -> str:
        return identity_of(
            "o-ul2",
            lengths=self.lengths_of_texts,
            tokens=self.special_tokens,
            seed=self.seed,
            form=_LAYOUT_IN_IDENTITY[self.layout],
            slots_each=self.line.slots_each,
            text=self.line.identity,
        )

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """A batch whose form depends on the layout.

        ``row pair``: as `regrow.objectives.rows.examples.write_rows`; ``single row``: as
        `regrow.objectives.rows.single_row.concatenate_pairs`; ``across documents``: as
        `regrow.objectives.rows.examples.write_examples`, without empty slots.
        """
        is_mixed = self.is_mixed(rows)
        pieces = self.line.pieces(*self._stretches(rows))
        kinds, capacity = self.lengths_of_texts.kinds, self._capacity
        spans = draw_fixed_spans(self.seed, samples, is_mixed, pieces, kinds, capacity)
        line, starts = _tokens_of(self.line, pieces)
        prefixes = self._prefixes
        if prefixes is not None:
            prefixes = prefixes[is_mixed[pieces.stretches].astype(int)]
        if self.layout == "across documents":
            return write_examples(line, starts, spans, prefixes, self.special_tokens)
        row_of, widths = pieces.stretches, self._widths
        if len(widths) == 2:
            return write_rows(line, starts, spans, prefixes, self.special_tokens, row_of, widths)
        pairs = write_rows(line, starts, spans, prefixes, self.special_tokens, row_of, None)
        return concatenate_pairs(
            pairs, self.special_tokens.start, self.special_tokens.pad, widths[0]
        )

    @cached_property
    def _capacity(self) -> RowCapacity | None:
        if len(self._widths) == 1:
            return None
        return RowCapacity(*self._widths, 1 + (self._prefixes is not None), 1)


def _tokens_of(line: DocumentStream, pieces: Pieces) -> tuple[NDArray[np.int32], Ids]:
    """The tokens of these pieces one after the other, and where each piece begins in them."""
    firsts = np.flatnonzero(pieces.numbers == 0)
    lasts = np.append(firsts[1:], len(pieces.starts)) - 1
    begins, ends = pieces.starts[firsts], (pieces.starts + pieces.lengths)[lasts]
    parts = [line.tokens[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    moved = np.cumsum(ends - begins) - ends
    tokens = np.concatenate(parts).astype(np.int32, copy=False)
    return tokens, pieces.starts + moved[pieces.stretches]


def optimized_ul2_rows(
    texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int, layout: RowLayout
) -> Samples:
    """Rows of Optimized-UL2.

    ``across documents``: all documents form one text, with eos after each document. A token store
    that was written without eos has none here either.

    Args:
        config: Of the model, for the token that its decoder begins with.
        row_length: Upper bound on the text tokens in a row.

    Raises:
        UserError: the tokenizer has too few sentinels, or the text does not fill a row.
    """
    special_tokens = denoising_tokens(tokenizer, config)
    fixed = fixed_lengths(len(special_tokens.sentinels), row_length)
    # Slots beside the text of a piece. In a single row: start, two sentinels, and a prefix if there
    # is one. In a row pair: prefix, two sentinels, two eos. Without a prefix it is still five: a
    # piece of one token takes three slots of the target, and a row full of such pieces would
    # otherwise exceed its capacity.
    prefixed = _has_prefixes(special_tokens)
    slots_each = 3 + prefixed if layout == "single row" else 5

    def rows(line: DocumentStream) -> OptimizedUL2Rows:
        line = as_one_document(line) if layout == "across documents" else line
        if line.slots < fixed.split_text:
            raise UserError(
                f"the text is {len(line.tokens):,} tokens, less than one row of "
                f"{fixed.split_text:,}; give more text or a smaller row_length"
            )
        return OptimizedUL2Rows(line, fixed, row_length, special_tokens, seed, layout)

    def of_text(documents: Iterable[str]) -> OptimizedUL2Rows:
        return rows(stream_of_text(documents, tokenizer, slots_each))

    def of_store(store: TokenStore) -> OptimizedUL2Rows:
        return rows(stream_of_store(store, slots_each))

    return rows_of(texts, tokenizer, of_text, of_store, _mean_text_tokens)


def _mean_text_tokens(samples: Samples) -> float:
    """Mean text tokens of a row."""
    sources: Any = samples.sources.values() if isinstance(samples, ConcatenatedRows) else [samples]
    text_tokens = sum(each.mean_length * len(each) for each in sources)
    return float(text_tokens / sum(map(len, sources)))


def mean_sample(row_length: int) -> SampleShape:
    """The shape of the mean row of one document, with T5's 100 sentinels, in an encoder-decoder."""
    fixed = fixed_lengths(len(SENTINELS), row_length)
    return SampleShape(fixed.mean_text, decoder=fixed.target, encoder=fixed.source(prefixed=True))
