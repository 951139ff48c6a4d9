"""Span corruption (Raffel et al. 2020): windows of text as pairs of a source and a target."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.architectures.flops import SampleShape
from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.corpus.packing import start_and_end
from regrow.corpus.samples import (
    Batch,
    Components,
    MixedSamples,
    Order,
    components_of,
    data_order,
    mixed_samples,
)
from regrow.corpus.sources import Texts, windows_of
from regrow.corpus.windows import TextWindows, as_one_array
from regrow.objectives.rows.denoisers import (
    SPAN_CORRUPTION,
    Denoiser,
    DenoisingTokens,
    noise_and_spans,
)
from regrow.objectives.rows.examples import draw_spans, write_examples
from regrow.objectives.special_tokens import PREFIXES, sentinel_ids


@dataclass(frozen=True, eq=False)
class CorruptedText:
    """A `Samples` of corrupted windows, for the loss `Seq2Seq`.

    The noise spans of a window are drawn again for each sample of the training. They depend on the
    seed and the number of the sample.
    """

    windows: TextWindows
    denoiser: Denoiser
    special_tokens: DenoisingTokens
    seed: int

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
        return identity_of(
            "span-corruption",
            denoiser=self.denoiser,
            tokens=self.special_tokens,
            seed=self.seed,
            windows=self.windows.identity,
        )

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """The components of the windows."""
        return components_of(self.windows, rows, samples)

    def mixed(self, kind: str) -> MixedSamples | None:
        """The mixtures of the windows."""
        return mixed_samples(self.windows, kind)

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of each source and target, [samples, 2]."""
        return corrupted_slots(
            self.lengths(rows), (self.denoiser,), np.zeros_like(rows), self.special_tokens
        )

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """A batch as from `regrow.objectives.rows.examples.write_examples`."""
        kinds = np.zeros_like(rows)
        return corrupted_batch(
            self.windows, rows, samples, (self.denoiser,), kinds, self.special_tokens, self.seed
        )


def corrupted_batch(
    windows: TextWindows,
    rows: NDArray[np.int64],
    samples: NDArray[np.int64],
    denoisers: Sequence[Denoiser],
    kinds: NDArray[np.int64],
    special_tokens: DenoisingTokens,
    seed: int,
) -> Batch:
    """A batch of windows, each corrupted by one of the denoisers.

    Noise spans depend on the seed and the number of the sample. There must be as many sentinels as
    a window has spans.

    Args:
        windows: Windows of text.
        rows: Which windows, [rows].
        samples: The number of each row's sample in the training, [rows].
        denoisers: All denoisers.
        kinds: The index of each row's denoiser, [rows].
        special_tokens: The ids to write with.
        seed: For the noise spans.

    Returns:
        As from `regrow.objectives.rows.examples.write_examples`.
    """
    lengths = windows.lengths_of(rows)
    noise, spans = _counts(lengths, denoisers, kinds)
    drawn = draw_spans(seed, samples, lengths, noise, spans)
    known = _prefixes(denoisers, special_tokens)
    prefixes = None if known is None else np.array(known)[kinds]
    line, starts = as_one_array(windows, rows)
    return write_examples(line, starts, drawn, prefixes, special_tokens)


def corrupted_slots(
    lengths: NDArray[np.int64],
    denoisers: Sequence[Denoiser],
    kinds: NDArray[np.int64],
    special_tokens: DenoisingTokens,
) -> NDArray[np.int64]:
    """Slots of source and target of texts of these lengths in `corrupted_batch`, [texts, 2]."""
    noise, spans = _counts(lengths, denoisers, kinds)
    prefixed = _prefixes(denoisers, special_tokens) is not None
    return np.stack([lengths - noise + spans + (1 + prefixed), noise + spans + 1], axis=1)


def _counts(
    lengths: NDArray[np.int64], denoisers: Sequence[Denoiser], kinds: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return noise_and_spans(
        lengths,
        np.array([denoiser.mean_span for denoiser in denoisers])[kinds],
        np.array([denoiser.rate for denoiser in denoisers])[kinds],
    )


def _prefixes(denoisers: Sequence[Denoiser], special_tokens: DenoisingTokens) -> list[int] | None:
    """The prefix of each denoiser. Use prefixes only if the tokenizer has all of them."""
    found = [special_tokens.prefixes.get(denoiser.prefix) for denoiser in denoisers]
    known = [prefix for prefix in found if prefix is not None]
    return known if len(known) == len(found) else None


def corrupt_text(
    texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int
) -> CorruptedText:
    """Samples of T5's span corruption: spans of 3 tokens on average, 15% of the text.

    Args:
        config: Of the model, for the token that its decoder begins with.
        row_length: Upper bound on the text tokens in a sample.
        seed: For the noise spans.

    Raises:
        UserError: the tokenizer has too few sentinels, or the text holds no token.
    """
    special_tokens = denoising_tokens(tokenizer, config)
    windows = windows_of(texts, tokenizer, row_length)
    check_sentinels(special_tokens, windows.longest_length)
    return CorruptedText(windows, SPAN_CORRUPTION, special_tokens, seed)


def mean_sample(text: int, denoisers: Collection[Denoiser]) -> SampleShape:
    """The mean shape of a text of `text` tokens in an encoder-decoder, over the denoisers.

    Source and target hold a sentinel for each span, and eos.
    """
    counts = [denoiser.counts(text) for denoiser in denoisers]
    noise = round(fmean(noise for noise, _ in counts))
    spans = round(fmean(spans for _, spans in counts))
    return SampleShape(text, decoder=noise + spans + 1, encoder=text - noise + spans + 1)


def widest_row(
    text: int,
    denoisers: Collection[Denoiser],
    special_tokens: DenoisingTokens,
    *,
    in_one_row: bool,
) -> int:
    """The most slots of a row with a text of at most `text` tokens, over the denoisers.

    `in_one_row`: whether a source and its target share a row
    (`regrow.objectives.rows.single_row.ConcatenatedPairs`).
    """
    kinds = np.arange(len(denoisers))
    slots = corrupted_slots(np.full_like(kinds, text), [*denoisers], kinds, special_tokens)
    return int((slots.sum(axis=1) - 1 if in_one_row else slots).max())


def check_sentinels(
    special_tokens: DenoisingTokens, tokens: int, denoiser: Denoiser = SPAN_CORRUPTION
) -> None:
    """Raise UserError if a text of so many tokens has more spans than there are sentinels."""
    _, spans = denoiser.counts(tokens)
    if spans > len(special_tokens.sentinels):
        fitting = tokens
        while denoiser.counts(fitting)[1] > len(special_tokens.sentinels):
            fitting -= 1
        raise UserError(
            f"{tokens:,} tokens are corrupted in {spans} spans, but the tokenizer has "
            f"{len(special_tokens.sentinels)} sentinels; give rows of at most {fitting:,} tokens"
        )


def denoising_tokens(tokenizer: Any, config: Any) -> DenoisingTokens:
    """The ids of the special tokens in denoising examples, for this tokenizer and model.

    `config`: of the model. The start token of a decoder is the one with which its documents begin.

    Raises UserError if the tokenizer has no sentinels or no eos.
    """
    ids: Mapping[str, int] = tokenizer.get_vocab()
    named = tokenizer.name_or_path or "tokenizer"
    sentinels = sentinel_ids(tokenizer)
    if not sentinels:
        raise UserError(
            f"{named}: no sentinel <extra_id_0>, by which a model learns to fill in text; a run "
            "of a recipe adds what is missing"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{named}: no eos_token, which ends each text; set eos_token in tokenizer_config.json"
        )
    start = decoder_start(config) if config.is_encoder_decoder else start_and_end(tokenizer)[0]
    pad = tokenizer.pad_token_id
    return DenoisingTokens(
        prefixes={name: ids[name] for name in PREFIXES if name in ids},
        sentinels=sentinels,
        eos=int(tokenizer.eos_token_id),
        pad=int(start if pad is None else pad),
        start=start,
    )


def decoder_start(config: Any) -> int:
    """The token that a decoder begins with. Raises UserError if the config does not name one."""
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(getattr(config, "decoder", None), "bos_token_id", None)
    if start is None:
        raise UserError(
            "config.json: decoder_start_token_id: missing; it is what the decoder begins with"
        )
    return int(start)
