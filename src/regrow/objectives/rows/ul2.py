"""UL2 (Tay et al. 2022): each sample is a window of text, corrupted by one of several denoisers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.identity import identity_of
from regrow.corpus.samples import (
    Batch,
    Components,
    MixedSamples,
    Order,
    components_of,
    data_order,
    mixed_samples,
)
from regrow.corpus.shares import DENOISER, Shares, fractions
from regrow.corpus.sources import Texts, windows_of
from regrow.corpus.windows import TextWindows
from regrow.objectives.rows.denoisers import UL2, Denoiser, DenoisingTokens
from regrow.objectives.rows.random_segmentation import Ids, random_bits, sample_keys
from regrow.objectives.rows.span_corruption import (
    check_sentinels,
    corrupted_batch,
    corrupted_slots,
    denoising_tokens,
)


@dataclass(frozen=True, eq=False)
class MixedDenoisers:
    """A `Samples` of windows that several denoisers corrupt, for the loss `Seq2Seq`.

    The denoiser of a sample and its noise spans depend on the seed, the number of the sample and
    the shares.

    Attributes:
        windows: Windows of text.
        special_tokens: The ids to write with.
        seed: For denoisers and noise spans.
        shares: Of the denoisers; they can be changed for samples that were not drawn yet.
        denoisers: By name, in the order of the shares.
    """

    windows: TextWindows
    special_tokens: DenoisingTokens
    seed: int
    shares: Shares[float]
    denoisers: Mapping[str, Denoiser] = field(default_factory=lambda: UL2)

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def row_length(self) -> int:
        return self.windows.longest

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.windows.lengths_of(rows)

    def order(self, seed: int) -> Order:
        return data_order(self.windows, seed)

    @cached_property
    def identity(self) -> str:
        """A hash of the text, the denoisers and their first shares.

        Later shares do not count: they are a result of the training.
        """
        return identity_of(
            "ul2",
            denoisers=self.denoisers,
            begins=self.shares.changes[0],
            tokens=self.special_tokens,
            seed=self.seed,
            windows=self.windows.identity,
        )

    def mixed(self, kind: str) -> MixedSamples | None:
        """The shares of the denoisers, and the mixtures of the windows."""
        return self.shares if kind == DENOISER else mixed_samples(self.windows, kind)

    def drawn(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The index of each sample's denoiser in `denoisers`, [samples]."""
        return draw_denoisers(self.shares, self.seed, samples)

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """The denoiser of each sample, and the components of the windows."""
        drawn = Components(tuple(self.denoisers), self.drawn(samples))
        return {**components_of(self.windows, rows, samples), DENOISER: drawn}

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of each source and target, [samples, 2]."""
        denoisers = tuple(self.denoisers.values())
        return corrupted_slots(
            self.lengths(rows), denoisers, self.drawn(samples), self.special_tokens
        )

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """A batch as from `regrow.objectives.rows.examples.write_examples`."""
        denoisers = tuple(self.denoisers.values())
        kinds = self.drawn(samples)
        return corrupted_batch(
            self.windows, rows, samples, denoisers, kinds, self.special_tokens, self.seed
        )


def denoiser_shares(
    weights: Sequence[float], denoisers: Mapping[str, Denoiser] = UL2
) -> Shares[float]:
    """Shares of denoisers in proportion to the weights; they sum to 1.

    Raises ValueError if the weights are not weights.
    """
    return Shares(tuple(denoisers), weights, fractions)


def draw_denoisers(shares: Shares[float], seed: int, samples: Ids) -> Ids:
    """The index of each sample's denoiser, [samples].

    It depends only on the seed, the number of the sample and the shares of this sample.
    """
    firsts = np.array([first for first, _ in shares.changes], dtype=np.int64)
    bounds = np.cumsum([each for _, each in shares.changes], axis=1)  # [changes, denoisers]
    # The sum of the shares is 1 except for rounding. The last denoiser with a share takes what is
    # left, so that denoisers after it, with share 0, are never drawn.
    bounds[bounds >= bounds[:, -1:]] = math.inf
    entries = np.searchsorted(firsts, samples, side="right") - 1
    keys = sample_keys(seed, "denoiser", samples)
    # 53 bits, the precision of a float64 between 0 and 1.
    drawn = (random_bits(keys, np.zeros_like(samples)) >> np.uint64(11)) * 2.0**-53
    numbers: Ids = (drawn[:, None] >= bounds[entries]).sum(axis=1)
    return numbers


def mix_denoisers(
    texts: Texts,
    tokenizer: Any,
    config: Any,
    row_length: int,
    seed: int,
) -> MixedDenoisers:
    """Samples of the seven denoisers of UL2.

    Args:
        config: Of the model, for the token that its decoder begins with.
        row_length: Upper bound on the text tokens in a sample.
        seed: For denoisers and noise spans.

    Raises:
        UserError: the tokenizer has too few sentinels, or the text holds no token.
    """
    special_tokens = denoising_tokens(tokenizer, config)
    check_ul2_sentinels(special_tokens, row_length)
    windows = windows_of(texts, tokenizer, row_length)
    return MixedDenoisers(windows, special_tokens, seed, denoiser_shares([1.0] * len(UL2)))


def check_ul2_sentinels(special_tokens: DenoisingTokens, tokens: int) -> None:
    """Raise UserError if a denoiser makes more spans in so many tokens than there are sentinels."""
    for denoiser in UL2.values():
        check_sentinels(special_tokens, tokens, denoiser)
