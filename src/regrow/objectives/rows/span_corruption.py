"""Windows of text as span-corruption examples for an encoder-decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.corpus.packing import start_and_end
from regrow.corpus.samples import Batch, Components, Order, components_of, data_order
from regrow.corpus.sources import Texts, windows_of
from regrow.corpus.windows import TextWindows, in_a_line
from regrow.objectives.rows.denoisers import (
    PREFIXES,
    SPAN_CORRUPTION,
    Denoiser,
    DenoisingTokens,
    noise_and_spans,
)
from regrow.objectives.rows.examples import draw_spans, write_examples


@dataclass(frozen=True, eq=False)
class CorruptedText:
    """A `Samples` for the sequence-to-sequence objective.

    Which spans are taken out of a window is drawn anew for each sample of the training, by the
    seed and the number of the sample.
    """

    windows: TextWindows
    denoiser: Denoiser
    marks: DenoisingTokens
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
            tokens=self.marks,
            seed=self.seed,
            windows=self.windows.identity,
        )

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """What the windows are of."""
        return components_of(self.windows, rows, samples)

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of sources and targets, [samples, 2]."""
        return corrupted_slots(
            self.lengths(rows), (self.denoiser,), np.zeros_like(rows), self.marks
        )

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """As `regrow.objectives.rows.examples.write_examples` has it."""
        kinds = np.zeros_like(rows)
        return corrupted_batch(
            self.windows, rows, samples, (self.denoiser,), kinds, self.marks, self.seed
        )


def corrupted_batch(
    windows: TextWindows,
    rows: NDArray[np.int64],
    samples: NDArray[np.int64],
    denoisers: Sequence[Denoiser],
    kinds: NDArray[np.int64],
    marks: DenoisingTokens,
    seed: int,
) -> Batch:
    """Windows [rows] as examples, each corrupted by one of the denoisers.

    `kinds`: which of `denoisers`, [rows]. What is taken out is drawn by the seed and the number of
    the sample. Needs as many sentinels as a window has spans. As
    `regrow.objectives.rows.examples.write_examples` has it.
    """
    lengths = windows.lengths_of(rows)
    noise, spans = _counts(lengths, denoisers, kinds)
    drawn = draw_spans(seed, samples, lengths, noise, spans)
    known = _prefixes(denoisers, marks)
    prefixes = None if known is None else np.array(known)[kinds]
    line, starts = in_a_line(windows, rows)
    return write_examples(line, starts, drawn, prefixes, marks)


def corrupted_slots(
    lengths: NDArray[np.int64],
    denoisers: Sequence[Denoiser],
    kinds: NDArray[np.int64],
    marks: DenoisingTokens,
) -> NDArray[np.int64]:
    """Slots that `corrupted_batch` fills with texts of these lengths, in sources and in targets;
    [texts, 2]."""
    noise, spans = _counts(lengths, denoisers, kinds)
    prefixed = _prefixes(denoisers, marks) is not None
    return np.stack([lengths - noise + spans + (1 + prefixed), noise + spans + 1], axis=1)


def _counts(
    lengths: NDArray[np.int64], denoisers: Sequence[Denoiser], kinds: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return noise_and_spans(
        lengths,
        np.array([denoiser.mean_span for denoiser in denoisers])[kinds],
        np.array([denoiser.rate for denoiser in denoisers])[kinds],
    )


def _prefixes(denoisers: Sequence[Denoiser], marks: DenoisingTokens) -> list[int] | None:
    """One for each denoiser, or none: what has none cannot be told from what should have one."""
    found = [marks.prefixes.get(denoiser.prefix) for denoiser in denoisers]
    known = [prefix for prefix in found if prefix is not None]
    return known if len(known) == len(found) else None


def corrupt_text(
    texts: Texts, tokenizer: Any, config: Any, row_length: int, seed: int
) -> CorruptedText:
    """Documents as examples of plain span corruption (3 tokens a span, 15% of the text).

    `config`: of the model, for the token that its decoder begins with. `row_length`: bound on the
    text tokens of a sample.

    Raises UserError where the tokenizer has too few sentinels, or the text no token.
    """
    marks = denoising_tokens(tokenizer, config)
    windows = windows_of(texts, tokenizer, row_length)
    check_sentinels(marks, windows.longest_length)
    return CorruptedText(windows, SPAN_CORRUPTION, marks, seed)


def check_sentinels(
    marks: DenoisingTokens, tokens: int, denoiser: Denoiser = SPAN_CORRUPTION
) -> None:
    """Raise UserError where a text of so many tokens has more spans than there are sentinels."""
    _, spans = denoiser.counts(tokens)
    if spans > len(marks.sentinels):
        fitting = tokens
        while denoiser.counts(fitting)[1] > len(marks.sentinels):
            fitting -= 1
        raise UserError(
            f"{tokens:,} tokens are corrupted in {spans} spans, but the tokenizer has "
            f"{len(marks.sentinels)} sentinels; give rows of at most {fitting:,} tokens"
        )


def denoising_tokens(tokenizer: Any, config: Any) -> DenoisingTokens:
    """The ids that denoising examples are written with, by name.

    `config`: of the model. A decoder begins its rows as it begins documents.

    Raises UserError where the tokenizer lacks sentinels or an end.
    """
    ids: Mapping[str, int] = tokenizer.get_vocab()
    named = tokenizer.name_or_path or "tokenizer"
    sentinels: list[int] = []
    while (sentinel := f"<extra_id_{len(sentinels)}>") in ids:
        sentinels.append(ids[sentinel])
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
        sentinels=tuple(sentinels),
        eos=int(tokenizer.eos_token_id),
        pad=int(start if pad is None else pad),
        start=start,
    )


def decoder_start(config: Any) -> int:
    """The token that a decoder begins with. Raises UserError where the config names none."""
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        start = getattr(getattr(config, "decoder", None), "bos_token_id", None)
    if start is None:
        raise UserError(
            "config.json: decoder_start_token_id: missing; it is what the decoder begins with"
        )
    return int(start)
