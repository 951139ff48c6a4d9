"""Windows of text as span-corruption examples for an encoder-decoder."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch, random_stream
from regrow.corpus.windows import Windows, cut_windows
from regrow.errors import UserError
from regrow.objectives.denoising import SPAN_CORRUPTION, Denoiser, DenoisingTokens, Ids, corrupt

_PREFIX = "<R>"
"""UL2's mark of short spans, where the tokenizer has it."""


@dataclass(frozen=True, eq=False)
class CorruptedText:
    """A `Samples` for the sequence-to-sequence objective.

    Which spans are taken out of a window is drawn anew for each sample of the training, by the
    seed and the number of the sample.
    """

    windows: Windows
    denoiser: Denoiser
    marks: DenoisingTokens
    seed: int

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def row_length(self) -> int:
        return self.windows.longest

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.windows.lengths[rows]

    @cached_property
    def identity(self) -> str:
        settings = f"{self.denoiser} {self.marks} {self.seed} {self.windows.identity}"
        return hashlib.sha256(settings.encode()).hexdigest()

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """int64, filled up to the longest on the right.

        ``input_ids`` and ``attention_mask``: [rows, source length]. ``decoder_input_ids`` and
        ``labels``: [rows, target length].
        """
        pairs = [
            corrupt(self.windows[row], self.denoiser, self.marks, self._random(sample))
            for row, sample in zip(rows.tolist(), samples.tolist(), strict=True)
        ]
        sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
        starts = [np.concatenate([[self.marks.start], target[:-1]]) for target in targets]
        return {
            "input_ids": _filled(sources, self.marks.pad),
            "attention_mask": _filled([np.ones_like(source) for source in sources], 0),
            "decoder_input_ids": _filled(starts, self.marks.pad),
            "labels": _filled(targets, NOT_PREDICTED),
        }

    def _random(self, sample: int) -> np.random.Philox:
        return random_stream(self.seed, "span corruption", sample)


def corrupt_text(
    documents: Iterable[str], tokenizer: Any, config: Any, row_length: int, seed: int
) -> CorruptedText:
    """Documents as examples of plain span corruption (3 tokens a span, 15% of the text).

    `config`: of the model, for the token that its decoder begins with. `row_length`: bound on the
    text tokens of a sample.

    Raises UserError where the tokenizer has too few sentinels, or the text no token.
    """
    marks = denoising_tokens(tokenizer, config)
    windows = cut_windows(documents, tokenizer, row_length)
    check_sentinels(marks, int(windows.lengths.max()))
    return CorruptedText(windows, SPAN_CORRUPTION, marks, seed)


def check_sentinels(marks: DenoisingTokens, tokens: int) -> None:
    """Raise UserError where a text of so many tokens has more spans than there are sentinels."""
    _, spans = SPAN_CORRUPTION.counts(tokens)
    if spans > len(marks.sentinels):
        raise UserError(
            f"{tokens:,} tokens are corrupted in {spans} spans, but the tokenizer has "
            f"{len(marks.sentinels)} sentinels; give shorter rows"
        )


def denoising_tokens(tokenizer: Any, config: Any) -> DenoisingTokens:
    """The ids that denoising examples are written with, by name.

    Raises UserError where the tokenizer lacks sentinels or an end.
    """
    ids: Mapping[str, int] = tokenizer.get_vocab()
    named = tokenizer.name_or_path or "tokenizer"
    sentinels: list[int] = []
    while (sentinel := f"<extra_id_{len(sentinels)}>") in ids:
        sentinels.append(ids[sentinel])
    if not sentinels:
        raise UserError(
            f"{named}: no sentinel <extra_id_0>, by which an encoder-decoder learns to fill in "
            "text; only tokenizers with sentinels (T5, mT5, UMT5, OpenBA) can be trained so far"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{named}: no eos_token, which ends each text; set eos_token in tokenizer_config.json"
        )
    start = decoder_start(config)
    pad = tokenizer.pad_token_id
    return DenoisingTokens(
        prefix=(ids[_PREFIX],) if _PREFIX in ids else (),
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


def _filled(rows: list[Ids], value: int) -> NDArray[np.int64]:
    filled = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return filled
