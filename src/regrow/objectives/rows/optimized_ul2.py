"""Optimized-UL2: sources of one length and targets of one length, so that no batch is padded.

The OpenBA-V2 report (arXiv 2405.05957) has it: a fifth of the samples is mixed denoising, the
others are a text of which the second half follows from the first. Here the counts of spans are
fixed too, and with them all lengths; what is random is where the spans are and how long each is.

A row holds pieces of as many documents as fill it, each with a source and a target of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.corpus.concatenation import JoinedRows
from regrow.corpus.document_stream import (
    DocumentLine,
    Pieces,
    line_of_store,
    line_of_text,
    undivided,
)
from regrow.corpus.samples import Batch, Components, Samples
from regrow.corpus.sources import Texts, rows_of
from regrow.corpus.token_store import TokenStore
from regrow.objectives.rows.denoisers import DenoisingTokens
from regrow.objectives.rows.examples import write_examples, write_rows
from regrow.objectives.rows.fixed_spans import SUFFIX, Room, draw_fixed_spans
from regrow.objectives.rows.random_segmentation import Ids, random_bits, sample_keys
from regrow.objectives.rows.single_row import in_one_row
from regrow.objectives.rows.span_corruption import denoising_tokens

BLOCK = 5
"""Rows of which one is mixed: 20%."""

Form = Literal["two rows", "one row", "across"]
"""How pieces stand in rows: sources in one and targets in another; each source before its target;
or, where a model cannot keep them apart, no pieces but one text across documents."""

_NOISE = 0.5
_KINDS = ((3, 0.3), (8, 0.4), (64, 0.3))
"""Mean spans, and their parts of the noise that is not the suffix."""
_STEP = 20
"""Lengths of mixed texts are multiples of it: so the parts of the noise come out nearly whole."""
_SHORTEST = 40
"""Tokens of text in which each kind has a span, with tokens to spare between them."""


@dataclass(frozen=True)
class FixedLengths:
    """What follows from the length of a mixed text.

    Attributes:
        mixed_text: Tokens of a text that is mixed; a multiple of 20.
    """

    mixed_text: int

    @property
    def noise(self) -> int:
        """Tokens that are taken out of a mixed text."""
        return int(self.mixed_text * _NOISE)

    @property
    def suffix(self) -> int:
        """Those of them that are the end of the text."""
        return round(self.noise * SUFFIX)

    @cached_property
    def kinds(self) -> tuple[tuple[int, int], ...]:
        """Mean spans of the other noise, and how many there are of each."""
        rest = self.noise - self.suffix
        tokens = [round(rest * part) for _, part in _KINDS[:-1]]
        tokens.append(rest - sum(tokens))
        return tuple(
            (mean, max(1, round(n / mean))) for n, (mean, _) in zip(tokens, _KINDS, strict=True)
        )

    @property
    def spans(self) -> int:
        """Sentinels that a mixed text needs, one of them for the suffix."""
        return 1 + sum(spans for _, spans in self.kinds)

    @property
    def target(self) -> int:
        """Tokens in a target of either kind, its end among them."""
        return self.noise + self.spans + 1

    @property
    def half(self) -> int:
        """Tokens in either half of a text that is split: they fill what a mixed text fills."""
        return self.target - 2

    @property
    def split_text(self) -> int:
        """Tokens of a text that is split."""
        return 2 * self.half

    @property
    def mean_text(self) -> int:
        """Tokens of the mean text of a block of rows of one document each."""
        return round((self.mixed_text + (BLOCK - 1) * self.split_text) / BLOCK)

    def source(self, prefixed: bool) -> int:
        """Tokens in a source of either kind, prefix and end among them."""
        return self.target + prefixed


def fixed_lengths(sentinels: int, row_length: int) -> FixedLengths:
    """The longest that need no more sentinels, and no text of more tokens than `row_length`.

    With 100 sentinels and 1,898 tokens or more, mixed texts have 1,700 tokens and the others 1,898:
    952 in each source that has a prefix, and 951 in each target.

    Raises UserError where there is none.
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


@dataclass(frozen=True, eq=False)
class OptimizedText:
    """A `Samples` for the sequence-to-sequence objective, or for prefix-LM (``one row``).

    One row of every `BLOCK` is mixed, which of them is drawn by the seed. Rows follow each other
    in the line of documents; the last begins earlier, so that it is full as well. What is written
    beside a piece takes slots from text, five of them for an encoder-decoder. Where a row begins
    between two documents as many stay empty at most, and as many where it ends so; one for each
    piece without a prefix; and two for each span that pieces are too short to have.

    Attributes:
        line: The documents, with `slots_each` before each.
        lengths_of_texts: Of mixed and of split texts, in a row of one piece.
        row_length: Bound on the text tokens in a row.
    """

    line: DocumentLine
    lengths_of_texts: FixedLengths
    row_length: int
    marks: DenoisingTokens
    seed: int
    form: Form

    def __len__(self) -> int:
        return self._whole + (self._end_of_whole < self.line.slots)

    @cached_property
    def _block(self) -> int:
        """Slots in a block of rows."""
        fixed = self.lengths_of_texts
        return fixed.mixed_text + (BLOCK - 1) * fixed.split_text

    @cached_property
    def _whole(self) -> int:
        """Rows before the last, if that is one that begins earlier."""
        rows = self.line.slots // self._block * BLOCK
        candidates = np.arange(rows, rows + BLOCK)
        ends = self._starts(candidates) + self._sizes(candidates)
        return rows + int((ends <= self.line.slots).sum())

    @cached_property
    def _end_of_whole(self) -> int:
        return int(self._starts(np.array([self._whole]))[0])

    def is_mixed(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows are mixed, the others being split; [rows]."""
        blocks, places = np.divmod(rows, BLOCK)
        is_mixed: NDArray[np.bool_] = places == self._mixed_places(blocks)
        return is_mixed

    def _mixed_places(self, blocks: NDArray[np.int64]) -> NDArray[np.int64]:
        keys = sample_keys(self.seed, "mixed row", blocks)
        return (random_bits(keys, np.zeros_like(blocks)) % np.uint64(BLOCK)).astype(np.int64)

    def _sizes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of the line in each row."""
        fixed = self.lengths_of_texts
        return np.where(self.is_mixed(rows), fixed.mixed_text, fixed.split_text)

    def _starts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows begin, the last of all as if the line went on."""
        fixed = self.lengths_of_texts
        blocks, places = np.divmod(rows, BLOCK)
        shorter = np.where(
            places > self._mixed_places(blocks), fixed.split_text - fixed.mixed_text, 0
        )
        starts: Ids = blocks * self._block + places * fixed.split_text - shorter
        return starts

    def _stretches(self, rows: NDArray[np.int64]) -> tuple[Ids, Ids]:
        """Where rows begin and end in the line."""
        sizes = self._sizes(rows)
        starts = np.minimum(self._starts(rows), self.line.slots - sizes)
        return starts, starts + sizes

    @cached_property
    def mean_length(self) -> float:
        """Tokens of text in the mean row; where the last begins earlier, some are in two."""
        twice = np.zeros(1, dtype=np.int64)
        if self._end_of_whole < self.line.slots:
            starts, _ = self._stretches(np.array([len(self) - 1]))
            twice = self.line.text_lengths(starts, np.array([self._end_of_whole]))
        return (self.line.text_tokens + int(twice[0])) / len(self)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.line.text_lengths(*self._stretches(rows))

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """Of denoisers: mixed, or split in two."""
        return {"denoiser": Components(("S", "mixed"), self.is_mixed(rows).astype(np.int64))}

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of sources and targets, [samples, 2], or of rows, [samples, 1]: the same for all."""
        return np.tile(self._widths, (len(rows), 1))

    @cached_property
    def _widths(self) -> tuple[int] | tuple[int, int]:
        fixed = self.lengths_of_texts
        source = fixed.source(self._prefixes is not None)
        return (source - 1 + fixed.target,) if self.form == "one row" else (source, fixed.target)

    @cached_property
    def _prefixes(self) -> Ids | None:
        """Of split and of mixed texts; none where the tokenizer lacks one."""
        found = [self.marks.prefixes.get(name) for name in ("<S>", "<X>")]
        return None if None in found else np.array(found)

    @cached_property
    def identity(self) -> str:
        return identity_of(
            "o-ul2",
            lengths=self.lengths_of_texts,
            tokens=self.marks,
            seed=self.seed,
            form=self.form,
            slots_each=self.line.slots_each,
            text=self.line.identity,
        )

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """As `regrow.objectives.rows.examples.write_rows` has it in ``two rows``; as
        `regrow.objectives.rows.single_row.in_one_row` in ``one row``; as
        `regrow.objectives.rows.examples.write_examples`, with no slot empty, ``across``."""
        is_mixed = self.is_mixed(rows)
        pieces = self.line.pieces(*self._stretches(rows))
        kinds, room = self.lengths_of_texts.kinds, self._room
        spans = draw_fixed_spans(self.seed, samples, is_mixed, pieces, kinds, room)
        line, starts = _copied(self.line, pieces)
        prefixes = self._prefixes
        if prefixes is not None:
            prefixes = prefixes[is_mixed[pieces.stretches].astype(int)]
        if self.form == "across":
            return write_examples(line, starts, spans, prefixes, self.marks)
        row_of, widths = pieces.stretches, self._widths
        if len(widths) == 2:
            return write_rows(line, starts, spans, prefixes, self.marks, row_of, widths)
        pairs = write_rows(line, starts, spans, prefixes, self.marks, row_of, None)
        return in_one_row(pairs, self.marks.start, self.marks.pad, widths[0])

    @cached_property
    def _room(self) -> Room | None:
        if len(self._widths) == 1:
            return None
        return Room(*self._widths, 1 + (self._prefixes is not None), 1)


def _copied(line: DocumentLine, pieces: Pieces) -> tuple[NDArray[np.int32], Ids]:
    """A short line of tokens that holds these pieces, and where each begins in it."""
    firsts = np.flatnonzero(pieces.numbers == 0)
    lasts = np.append(firsts[1:], len(pieces.starts)) - 1
    begins, ends = pieces.starts[firsts], (pieces.starts + pieces.lengths)[lasts]
    parts = [line.tokens[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    moved = np.cumsum(ends - begins) - ends
    tokens = np.concatenate(parts).astype(np.int32, copy=False)
    return tokens, pieces.starts + moved[pieces.stretches]


def join_text(
    texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int, form: Form
) -> Samples:
    """Documents, or pieces of them, side by side as examples of O-UL2.

    ``across``: all documents as one, each followed by the token that ends it; a store as it lies,
    where it has no ends, without.

    `config`: of the model, for the token that its decoder begins with. `row_length`: bound on the
    text tokens of a sample.

    Raises UserError where the tokenizer has too few sentinels, or the text fills no row.
    """
    marks = denoising_tokens(tokenizer, config)
    fixed = fixed_lengths(len(marks.sentinels), row_length)
    # A sentinel on either side; the end of both, or the start of the row and the end of neither. A
    # piece of one token needs three slots of the target: with fewer than five in all, rows full of
    # them would have no room.
    each = 3 + ({"<S>", "<X>"} <= marks.prefixes.keys()) if form == "one row" else 5

    def rows(line: DocumentLine) -> OptimizedText:
        line = undivided(line) if form == "across" else line
        if line.slots < fixed.split_text:
            raise UserError(
                f"the training text is {len(line.tokens):,} tokens, less than one row of "
                f"{fixed.split_text:,}; give more text or a smaller row_length"
            )
        return OptimizedText(line, fixed, row_length, marks, seed, form)

    def of_text(documents: Iterable[str]) -> OptimizedText:
        return rows(line_of_text(documents, tokenizer, each))

    def of_store(store: TokenStore) -> OptimizedText:
        return rows(line_of_store(store, each))

    return rows_of(texts, tokenizer, of_text, of_store, _mean_text)


def _mean_text(samples: Samples) -> float:
    """Tokens of text in a row."""
    parts: Any = samples.sources.values() if isinstance(samples, JoinedRows) else [samples]
    text = sum(each.mean_length * len(each) for each in parts)
    return float(text / sum(map(len, parts)))
