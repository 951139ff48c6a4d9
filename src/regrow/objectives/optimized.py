"""Optimized-UL2: sources of one length and targets of one length, so that no batch is padded.

The OpenBA-V2 report (arXiv 2405.05957) has it: a fifth of the samples is mixed denoising, the
others are a text of which the second half follows from the first. Here the counts of spans are
fixed too, and with them all lengths; what is random is where the spans are and how long each is.

Texts are pieces of one line, in which the documents follow each other: a text ends where the
lengths want it to.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.domains import Texts, rows_of
from regrow.corpus.packing import tokenise
from regrow.corpus.samples import Batch, Parts, Samples
from regrow.corpus.store import TokenStore
from regrow.errors import UserError
from regrow.objectives.corrupted import denoising_tokens
from regrow.objectives.denoising import DenoisingTokens
from regrow.objectives.examples import Spans, write_examples
from regrow.objectives.segments import Ids, random_bits, sample_keys, segment_lengths

BLOCK = 5
"""Rows of which one is mixed: 20%."""

_NOISE = 0.5
_SUFFIX = 0.25
"""Of the noise, at the end of the text; the report draws it from 20 to 30%."""
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
        return round(self.noise * _SUFFIX)

    @cached_property
    def kinds(self) -> tuple[tuple[int, int], ...]:
        """Tokens and spans of the other noise, for each mean span."""
        rest = self.noise - self.suffix
        tokens = [round(rest * part) for _, part in _KINDS[:-1]]
        tokens.append(rest - sum(tokens))
        means = [mean for mean, _ in _KINDS]
        return tuple((n, max(1, round(n / mean))) for n, mean in zip(tokens, means, strict=True))

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
        """Tokens of the mean text of a block of rows."""
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
    """A `Samples` for the sequence-to-sequence objective.

    One row of every `BLOCK` is mixed, which of them is drawn by the seed. Rows follow each other
    in the line of tokens; the last begins earlier, so that it is full as well.

    Attributes:
        tokens: Of all documents in one line, [tokens]; at least one text.
        tokens_identity: A hash of them.
        lengths_of_texts: Of mixed and of split texts.
        row_length: Bound on the text tokens in a row.
    """

    tokens: NDArray[Any]
    tokens_identity: str
    lengths_of_texts: FixedLengths
    row_length: int
    marks: DenoisingTokens
    seed: int

    def __len__(self) -> int:
        return self._whole + (self._end_of_whole < len(self.tokens))

    @cached_property
    def _block(self) -> int:
        """Tokens in a block of rows."""
        fixed = self.lengths_of_texts
        return fixed.mixed_text + (BLOCK - 1) * fixed.split_text

    @cached_property
    def _whole(self) -> int:
        """Rows before the last, if that is one that begins earlier."""
        rows = len(self.tokens) // self._block * BLOCK
        candidates = np.arange(rows, rows + BLOCK)
        ends = self._starts(candidates) + self.lengths(candidates)
        return rows + int((ends <= len(self.tokens)).sum())

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

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
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

    def parts(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> dict[str, Parts]:
        """Of denoisers: mixed, or split in two."""
        return {"denoiser": Parts(("S", "mixed"), self.is_mixed(rows).astype(np.int64))}

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of sources and targets, [samples, 2]: the same for all."""
        fixed = self.lengths_of_texts
        prefixed = _prefixes(self.marks, np.zeros(1, dtype=np.bool_)) is not None
        return np.tile([fixed.source(prefixed), fixed.target], (len(rows), 1))

    @cached_property
    def identity(self) -> str:
        settings = f"o-ul2 {self.lengths_of_texts} {self.marks} {self.seed} {self.tokens_identity}"
        return hashlib.sha256(settings.encode()).hexdigest()

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """As `regrow.objectives.examples.write_examples` has it, every slot filled."""
        is_mixed, lengths = self.is_mixed(rows), self.lengths(rows)
        starts = np.minimum(self._starts(rows), len(self.tokens) - lengths)
        pieces = [self.tokens[a : a + n] for a, n in zip(starts, lengths, strict=True)]
        spans = draw_fixed_spans(self.seed, samples, is_mixed, self.lengths_of_texts)
        prefixes = _prefixes(self.marks, is_mixed)
        line = np.concatenate(pieces).astype(np.int32, copy=False)
        return write_examples(line, np.cumsum(lengths) - lengths, spans, prefixes, self.marks)


def _prefixes(marks: DenoisingTokens, is_mixed: NDArray[np.bool_]) -> Ids | None:
    try:
        return np.where(is_mixed, marks.prefixes["<X>"], marks.prefixes["<S>"])
    except KeyError:
        return None


def draw_fixed_spans(
    seed: int, samples: Ids, is_mixed: NDArray[np.bool_], fixed: FixedLengths
) -> Spans:
    """What is taken out of mixed and of split texts; [texts] each.

    In a mixed text the spans of all kinds stand in an order that is drawn too, and the suffix
    last. Every division of the noise of a kind, and of what stays, is as likely.
    """
    mixed = samples[is_mixed]
    spans = fixed.spans
    counts = np.where(is_mixed, spans, 1)
    is_of_mixed = np.repeat(is_mixed, counts)
    kept = np.full(len(is_of_mixed), fixed.half)
    taken = np.full(len(is_of_mixed), fixed.half)
    if len(mixed):

        def divided(purpose: str, tokens: int, pieces: int) -> Ids:
            """[mixed texts, pieces]"""
            full = np.full(len(mixed), 1)
            keys = sample_keys(seed, purpose, mixed)
            return segment_lengths(keys, tokens * full, pieces * full).reshape(-1, pieces)

        by_kind = [
            divided(f"spans of {mean} on average", tokens, pieces)
            for (mean, _), (tokens, pieces) in zip(_KINDS, fixed.kinds, strict=True)
        ]
        keys = sample_keys(seed, "order of spans", mixed)[:, None]
        numbers = np.broadcast_to(np.arange(spans - 1), (len(mixed), spans - 1))
        order = np.argsort(random_bits(np.broadcast_to(keys, numbers.shape), numbers), axis=1)
        ordered = np.empty((len(mixed), spans), dtype=np.int64)
        ordered[:, :-1] = np.take_along_axis(np.concatenate(by_kind, axis=1), order, axis=1)
        ordered[:, -1] = fixed.suffix
        taken[is_of_mixed] = ordered.reshape(-1)
        rest = fixed.mixed_text - fixed.noise
        kept[is_of_mixed] = divided("rest of a text", rest, spans).reshape(-1)
    return Spans(counts, kept, taken)


def join_text(texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int) -> Samples:
    """Documents in one line, each followed by the token that ends it, as examples of O-UL2.

    A store is taken as it lies: where it has no ends, there are none.

    `config`: of the model, for the token that its decoder begins with. `row_length`: bound on the
    text tokens of a sample.

    Raises UserError where the tokenizer has too few sentinels, or the text fills no row.
    """
    marks = denoising_tokens(tokenizer, config)
    fixed = fixed_lengths(len(marks.sentinels), row_length)

    def rows(tokens: NDArray[Any], identity: str) -> OptimizedText:
        if len(tokens) < fixed.split_text:
            raise UserError(
                f"the training text is {len(tokens):,} tokens, less than one row of "
                f"{fixed.split_text:,}; give more text or a smaller row_length"
            )
        return OptimizedText(tokens, identity, fixed, row_length, marks, seed)

    def of_text(documents: Iterable[str]) -> OptimizedText:
        end = np.array([marks.eos], dtype=np.int32)
        parts = [part for ids in tokenise(documents, tokenizer) if len(ids) for part in (ids, end)]
        tokens = np.concatenate([*parts, np.empty(0, dtype=np.int32)])
        return rows(tokens, hashlib.sha256(tokens.astype("<i4").data).hexdigest())

    def of_store(store: TokenStore) -> OptimizedText:
        return rows(store.tokens, store.identity)

    return rows_of(texts, tokenizer, of_text, of_store)
