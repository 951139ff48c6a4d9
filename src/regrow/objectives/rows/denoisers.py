"""Denoisers: how much of a text is taken out, and in how many spans.

As T5 (Raffel et al. 2020, section 3.1.4) and UL2 (Tay et al. 2022) have it: the counts of noise
and of other tokens are fixed by the length, the lengths of the segments are random, and a text
begins with a segment that stays.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regrow.objectives.rows.random_segmentation import Ids

PREFIXES = ("<R>", "<S>", "<X>")
"""UL2's marks of what is asked: short spans, the rest of a text, much or long spans."""


@dataclass(frozen=True)
class Denoiser:
    """How a text is corrupted.

    Attributes:
        mean_span: Mean length of a span in tokens; infinite for one span, which then is the end
            of the text.
        rate: The part of the text that is taken out.
        prefix: What the source begins with, where the tokenizer has it.
    """

    mean_span: float
    rate: float
    prefix: str = "<R>"

    def counts(self, tokens: int) -> tuple[int, int]:
        """Tokens taken out of a text of `tokens`, and in how many spans."""
        noise, spans = noise_and_spans(
            np.array([tokens]), np.array([self.mean_span]), np.array([self.rate])
        )
        return int(noise[0]), int(spans[0])


SPAN_CORRUPTION = Denoiser(mean_span=3, rate=0.15)
"""T5's own setting, and the first of UL2's seven."""

UL2: Mapping[str, Denoiser] = {
    "R1": SPAN_CORRUPTION,
    "R2": Denoiser(8, 0.15),
    "S": Denoiser(math.inf, 0.25, "<S>"),
    "X1": Denoiser(3, 0.5, "<X>"),
    "X2": Denoiser(8, 0.5, "<X>"),
    "X3": Denoiser(64, 0.15, "<X>"),
    "X4": Denoiser(64, 0.5, "<X>"),
}
"""The seven denoisers of UL2 (table 1 there) as OpenBA uses them."""


@dataclass(frozen=True)
class DenoisingTokens:
    """The ids that a denoising example is written with, looked up by name.

    Attributes:
        prefixes: Those of `PREFIXES` that the tokenizer has.
        sentinels: In the order in which they stand for spans.
        start: What the decoder begins with.
    """

    prefixes: Mapping[str, int]
    sentinels: tuple[int, ...]
    eos: int
    pad: int
    start: int


def noise_and_spans(
    tokens: Ids, mean_spans: NDArray[np.float64], rates: NDArray[np.float64]
) -> tuple[Ids, Ids]:
    """Tokens taken out of texts of these lengths, at least 1, and in how many spans; [texts]."""
    others = np.maximum(tokens - 1, 1)
    noise = np.minimum(np.maximum(np.rint(tokens * rates), 1), others).astype(np.int64)
    spans = np.maximum(np.rint(noise / mean_spans), 1).astype(np.int64)
    return noise, np.minimum(np.minimum(spans, noise), np.maximum(tokens - noise, 1))
