"""Span corruption: which tokens of a text are taken out, and what is left to learn.

As T5 (Raffel et al. 2020, section 3.1.4) and UL2 (Tay et al. 2022) have it: the counts of noise
and of other tokens are fixed by the length, the lengths of the segments are random, and a text
begins with a segment that stays.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Denoiser:
    """How a text is corrupted: mean length of a span in tokens, and the part that is taken out."""

    mean_span: float
    rate: float

    def counts(self, tokens: int) -> tuple[int, int]:
        """Tokens taken out of a text of `tokens`, and in how many spans."""
        noise = min(max(round(tokens * self.rate), 1), max(tokens - 1, 1))
        spans = min(max(round(noise / self.mean_span), 1), noise, max(tokens - noise, 1))
        return noise, spans


SPAN_CORRUPTION = Denoiser(mean_span=3, rate=0.15)
"""T5's own setting, and the first of UL2's seven."""


@dataclass(frozen=True)
class DenoisingTokens:
    """The ids that a denoising example is written with, looked up by name.

    `prefix`: what the source begins with (UL2's `<R>`), or nothing. `sentinels`: in the order in
    which they stand for spans. `start`: what the decoder begins with.
    """

    prefix: tuple[int, ...]
    sentinels: tuple[int, ...]
    eos: int
    pad: int
    start: int


def segment_lengths(random: np.random.Philox, total: int, segments: int) -> Ids:
    """Lengths of `segments` segments, each at least 1, that add up to `total`; all are as likely.

    Needs 1 <= segments <= total.
    """
    # Sorting raw bits: unlike Generator.choice, the same in every numpy.
    keys = random.random_raw(total - 1)
    cuts = np.sort(np.argsort(keys, kind="stable")[: segments - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]])).astype(np.int64)


def corrupt(
    text: NDArray[np.integer],
    denoiser: Denoiser,
    tokens: DenoisingTokens,
    random: np.random.Philox,
) -> tuple[Ids, Ids]:
    """Source and target of a text [length >= 1], ids.

    The source is prefix, text with each span replaced by its sentinel, eos. The target is each
    sentinel with the tokens of its span, then eos. Needs a sentinel for each span.
    """
    length = len(text)
    noise, spans = denoiser.counts(length)
    taken = segment_lengths(random, noise, spans)
    kept = segment_lengths(random, length - noise, spans) if length > noise else np.zeros(1, int)
    ends = np.cumsum(kept + taken)
    begins = ends - taken
    source: list[Ids] = [np.array(tokens.prefix, dtype=np.int64)]
    target: list[Ids] = []
    last = 0
    for begin, end, sentinel in zip(begins, ends, tokens.sentinels, strict=False):
        mark = np.array([sentinel], dtype=np.int64)
        source += [text[last:begin].astype(np.int64), mark]
        target += [mark, text[begin:end].astype(np.int64)]
        last = end
    eos = np.array([tokens.eos], dtype=np.int64)
    return np.concatenate([*source, eos]), np.concatenate([*target, eos])
