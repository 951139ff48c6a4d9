"""Denoisers: how much of a text is taken out, and in how many spans.

As in T5 (Raffel et al. 2020, section 3.1.4) and UL2 (Tay et al. 2022). The length of a text fixes
the number of noise tokens, which are taken out, and the number of noise spans. The length of each
span is random (T5's random segmentation). A text begins with tokens that are kept.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from regrow.objectives.rows.random_segmentation import Ids


@dataclass(frozen=True)
class Denoiser:
    """How a text is corrupted.

    Attributes:
        mean_span: Mean length of a noise span in tokens. Infinite for one span at the end of the
            text.
        rate: The share of the tokens that is taken out, between 0 and 1.
        prefix: UL2's mode token, with which the source begins if the tokenizer has it.
    """

    mean_span: float
    rate: float
    prefix: str = "<R>"

    def counts(self, tokens: int) -> tuple[int, int]:
        """The number of noise tokens and of noise spans in a text of `tokens` tokens."""
        noise, spans = noise_and_spans(
            np.array([tokens]), np.array([self.mean_span]), np.array([self.rate])
        )
        return int(noise[0]), int(spans[0])


SPAN_CORRUPTION = Denoiser(mean_span=3, rate=0.15)
"""T5's denoiser, which is also the first of UL2's seven."""

UL2: Mapping[str, Denoiser] = {
    "R1": SPAN_CORRUPTION,
    "R2": Denoiser(8, 0.15),
    "S": Denoiser(math.inf, 0.25, "<S>"),
    "X1": Denoiser(3, 0.5, "<X>"),
    "X2": Denoiser(8, 0.5, "<X>"),
    "X3": Denoiser(64, 0.15, "<X>"),
    "X4": Denoiser(64, 0.5, "<X>"),
}
"""The seven denoisers of UL2 (Tay et al. 2022, table 1), with the numbers that OpenBA uses."""


@dataclass(frozen=True)
class DenoisingTokens:
    """The ids of the special tokens in denoising examples.

    Attributes:
        prefixes: The id of each of UL2's mode tokens that the tokenizer has, by name.
        sentinels: In order: the first replaces the first span of a text, and so on.
        eos: Ends each source and each target.
        pad: Fills rows up.
        start: The first token that the decoder reads.
    """

    prefixes: Mapping[str, int]
    sentinels: tuple[int, ...]
    eos: int
    pad: int
    start: int


def noise_and_spans(
    tokens: Ids, mean_spans: NDArray[np.float64], rates: NDArray[np.float64]
) -> tuple[Ids, Ids]:
    """The numbers of noise tokens and of noise spans in texts of these lengths, [texts] each.

    `tokens`, `mean_spans`, `rates`: [texts]. Each text has at least one noise token.
    """
    others = np.maximum(tokens - 1, 1)
    noise = np.minimum(np.maximum(np.rint(tokens * rates), 1), others).astype(np.int64)
    spans = np.maximum(np.rint(noise / mean_spans), 1).astype(np.int64)
    return noise, np.minimum(np.minimum(spans, noise), np.maximum(tokens - noise, 1))
