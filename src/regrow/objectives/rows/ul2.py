"""Windows of text, each sample of which is corrupted by one of several denoisers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.identity import identity_of
from regrow.corpus.samples import Batch, Components, Order, components_of, data_order
from regrow.corpus.sources import Texts, windows_of
from regrow.corpus.windows import TextWindows
from regrow.objectives.rows.denoiser_mixture import MixtureHistory
from regrow.objectives.rows.denoisers import UL2, Denoiser, DenoisingTokens
from regrow.objectives.rows.span_corruption import (
    check_sentinels,
    corrupted_batch,
    corrupted_slots,
    denoising_tokens,
)


@dataclass(eq=False)
class MixedDenoisers:
    """A `Samples` for the sequence-to-sequence objective: UL2 (Tay et al. 2022).

    Which denoiser a sample is corrupted by, and which spans are taken out of it, is drawn by the
    seed and the number of the sample. `mixture` may be replaced by one that agrees with it up to
    the samples already trained on: see `mix_from`.

    Attributes:
        denoisers: By name, in the order of the shares in the mixture.
        mixture: The shares, and since when.
    """

    windows: TextWindows
    marks: DenoisingTokens
    seed: int
    mixture: MixtureHistory
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
        """Of the mixture, how it begins: what it becomes is the doing of the training itself."""
        return identity_of(
            "ul2",
            denoisers=self.denoisers,
            begins=self.mixture.changes[0],
            tokens=self.marks,
            seed=self.seed,
            windows=self.windows.identity,
        )

    def mix_from(self, sample: int, weights: Sequence[float]) -> None:
        """Draw by these weights from this sample on, in the order of `denoisers`.

        Raises ValueError where the sample lies before the last change.
        """
        self.mixture = self.mixture.changed(sample, weights)

    def drawn(self, samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of each sample's denoiser, in the order of `denoisers`; [samples]."""
        return self.mixture.draw(self.seed, samples)

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """The denoiser, and what the windows are of."""
        drawn = Components(tuple(self.denoisers), self.drawn(samples))
        return {**components_of(self.windows, rows, samples), "denoiser": drawn}

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of sources and targets, [samples, 2]."""
        denoisers = tuple(self.denoisers.values())
        return corrupted_slots(self.lengths(rows), denoisers, self.drawn(samples), self.marks)

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """As `regrow.objectives.rows.examples.write_examples` has it."""
        denoisers = tuple(self.denoisers.values())
        kinds = self.drawn(samples)
        return corrupted_batch(self.windows, rows, samples, denoisers, kinds, self.marks, self.seed)


def mix_denoisers(
    texts: Texts,
    tokenizer: Any,
    config: Any,
    row_length: int,
    seed: int,
    weights: Sequence[float] | None = None,
) -> MixedDenoisers:
    """Documents as examples of the seven denoisers of UL2, all as often where no weights are given.

    `config`: of the model, for the token that its decoder begins with. `row_length`: bound on the
    text tokens of a sample.

    Raises UserError where the tokenizer has too few sentinels, or the text no token.
    """
    marks = denoising_tokens(tokenizer, config)
    for denoiser in UL2.values():
        check_sentinels(marks, row_length, denoiser)
    windows = windows_of(texts, tokenizer, row_length)
    return MixedDenoisers(
        windows, marks, seed, MixtureHistory.constant(weights or [1.0] * len(UL2))
    )
